"""Judges a survey of a data set: is the data ready to train on, and which settings fit it."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from atrous.classes import unlabelled
from atrous.data.doctor import channels, files, labels
from atrous.data.doctor.findings import Finding
from atrous.data.doctor.labels import class_counts
from atrous.data.doctor.proposals import class_weights, crop_size
from atrous.data.doctor.survey import Survey

_CHECKS: tuple[Callable[[Survey], Iterator[Finding]], ...] = (
    files.check_splits,
    files.check_pairs,
    files.check_readable,
    labels.check_colors,
    labels.check_values,
    labels.check_meaning,
    labels.check_palettes,
    labels.check_edges,
    labels.check_void,
    labels.check_classes,
    labels.check_outlines,
    files.check_duplicates,
    files.check_sizes,
    files.check_formats,
    channels.check_normalisation,
    channels.check_ground,
)
_EXCUSED = ("E-DATA-UNLABELLED", "E-DATA-NO-PICTURE")
_ORDER = ("error", "warning", "note")


@dataclass(frozen=True)
class Diagnosis:
    """The findings of a survey, and the settings that follow from it."""

    survey: Survey
    findings: tuple[Finding, ...]  # errors first
    counts: dict[str, Counter[int]]  # split -> pixels of each value of its targets
    pictures: dict[str, Counter[int]]  # split -> pictures each value occurs in
    class_weights: list[float | None]
    crop_size: int

    @property
    def ignore_index(self) -> int:
        """The value of unlabelled pixels."""
        return unlabelled(len(self.survey.table.classes))

    @property
    def healthy(self) -> bool:
        """Whether training can start."""
        return not any(finding.level == "error" for finding in self.findings)

    def count(self, level: str) -> int:
        """Returns the number of findings of a level."""
        return sum(finding.level == level for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Returns the diagnosis as JSON values, with shares in 0..1."""
        survey, classes = self.survey, self.survey.table.classes
        return {
            "data": str(survey.root),
            "layout": survey.kind,
            "ok": self.healthy,
            "classes": list(classes),
            "splits": {
                split: {
                    "samples": len(survey.splits[split]),
                    "class_share": self.shares(split),
                    "void_share": self.void_share(split),
                }
                for split in survey.splits
            },
            "findings": [vars(finding) for finding in self.findings],
            "proposals": {"class_weights": self.class_weights, "crop_size": self.crop_size},
        }

    def shares(self, split: str) -> dict[str, float | None]:
        """Returns each class's share of a split's labelled pixels; None if it does not occur."""
        counts = self.counts[split]
        labelled = [counts[k] for k in range(len(self.survey.table.classes))]
        total = max(sum(labelled), 1)
        return {
            name: pixels / total if pixels else None
            for name, pixels in zip(self.survey.table.classes, labelled, strict=True)
        }

    def void_share(self, split: str) -> float:
        """Returns the share of a split's pixels that are unlabelled."""
        counts = self.counts[split]
        return counts[self.ignore_index] / max(counts.total(), 1)


def examine(
    survey: Survey,
    *,
    allow_unlabelled: bool = False,
    strict: bool = False,
) -> Diagnosis:
    """Judges a survey.

    Args:
        survey: The measured data set.
        allow_unlabelled: Whether pictures without annotation, and annotations without picture, are
            only warnings.
        strict: Whether warnings are errors.
    """
    findings = [finding for check in _CHECKS for finding in check(survey)]
    if allow_unlabelled:
        findings = [replace(f, level="warning") if f.code in _EXCUSED else f for f in findings]
    if strict:
        findings = [replace(f, level="error") if f.level == "warning" else f for f in findings]
    findings.sort(key=lambda finding: _ORDER.index(finding.level))
    counts = {split: class_counts(survey, split) for split in survey.splits}
    pictures = {
        split: Counter(value for m in survey.of(split) for value in m.counts)
        for split in survey.splits
    }
    train = next((s for s in ("trainaug", "train", *survey.splits) if s in survey.splits), None)
    sizes = [m.size for m in survey.measurements if m.size]
    weights = class_weights(counts[train] if train else {}, len(survey.table.classes))
    return Diagnosis(survey, tuple(findings), counts, pictures, weights, crop_size(sizes))
