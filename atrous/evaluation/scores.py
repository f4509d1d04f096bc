"""The scores of an evaluation, as attributes and as JSON values."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.classes import plain_name
from atrous.errors import AtrousError
from atrous.evaluation import metrics, uncertainty
from atrous.evaluation.boundary import Boundaries
from atrous.evaluation.metrics import Counts
from atrous.evaluation.uncertainty import Difference, Reliability

HEADLINES = (  # scores below the mean IoU: name, key in `Scores.as_dict`
    ("Dice", "dice"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("pixel accuracy", "pixel_accuracy"),
    ("mean accuracy", "mean_accuracy"),
    ("frequency-weighted IoU", "frequency_weighted_iou"),
    ("boundary IoU", "mean_boundary_iou"),
    ("boundary F-score", "mean_boundary_f"),
    ("calibration error", "expected_calibration_error"),
)


@dataclass(eq=False)
class Scores:
    """The scores of an evaluation. All shares are in 0..1; None means undefined.

    Attributes:
        classes: Names of the K classes in index order: the model's classes, then `lacking`.
        lacking: Classes of the data that the model cannot predict (`class_matching`).
        confusion: (K, K) int64 pixels by true (row) and predicted (column) class.
        names: The pictures.
        per_picture: (N, 3, K) int64: correct, true and predicted pixels of each class.
        boundaries: Trimap curve, boundary IoU and F-score; None if they were not measured.
        reliability: Accuracy for each level of confidence.
        protocol: How the scores were measured.
        seconds: Where the time went: network, metrics, boundaries, waiting for data.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    confusion: Counts
    per_picture: Counts
    boundaries: Boundaries | None
    reliability: Reliability
    protocol: dict[str, Any]
    seconds: dict[str, float]
    chosen: tuple[int, ...] | None
    lacking: tuple[str, ...] = ()

    @cached_property
    def mean_iou(self) -> float | None:
        """Mean IoU over the chosen classes that occur (`metrics.ABSENT_CLASS_RULE`)."""
        ious = metrics.class_iou(self.confusion)
        return number(metrics.mean_over_present(ious, self.chosen))

    @property
    def pixel_accuracy(self) -> float | None:
        """Share of labelled pixels that are right."""
        return number(metrics.pixel_accuracy(self.confusion))

    @property
    def mean_accuracy(self) -> float | None:
        """Mean share of found pixels over the chosen classes that have labels."""
        found = metrics.class_accuracy(self.confusion)
        return number(metrics.mean_over_present(found, self.chosen))

    @property
    def frequency_weighted_iou(self) -> float | None:
        """IoU weighted by the classes' shares of labelled pixels."""
        return number(metrics.frequency_weighted_iou(self.confusion))

    @property
    def of_two_classes(self) -> dict[str, float | None]:
        """Dice, precision and recall of the class that is not "background"; empty for others."""
        if len(self.classes) != 2:
            return {}
        target = 0 if plain_name(self.classes[1]) == "background" else 1
        found = metrics.of_two_classes(self.confusion, target)
        return {name: number(value) for name, value in found.items()}

    @property
    def class_iou(self) -> dict[str, float | None]:
        """IoU by class name; None for a class in neither labels nor predictions."""
        return self._by_class(metrics.class_iou(self.confusion))

    @property
    def trimap(self) -> dict[int, float | None]:
        """Mean IoU within w pixels of the borders, by w; empty if it was not measured."""
        return self.boundaries.trimap(self.chosen) if self.boundaries else {}

    @cached_property
    def mean_iou_interval(self) -> tuple[float | None, float | None]:
        """Bootstrap interval of `mean_iou` over pictures (`uncertainty.INTERVAL_RULE`)."""
        samples = uncertainty.mean_iou_resamples(self.per_picture, classes=self.chosen)
        low, high = uncertainty.interval(samples)
        return number(low), number(high)

    @property
    def own_classes(self) -> tuple[str, ...]:
        """Names of the classes that the model can predict; only these have scores."""
        return self.classes[: len(self.classes) - len(self.lacking)]

    @property
    def mean_over(self) -> tuple[str, ...]:
        """Names of the classes that means average over, if they occur."""
        return self.classes if self.chosen is None else tuple(self.classes[i] for i in self.chosen)

    def minus(self, other: "Scores") -> Difference:
        """Returns this mean IoU minus the other's, with the paired interval.

        Both means average over the classes that both scores have (`common_mean_over`).

        Raises:
            AtrousError: The other scores are not of the same pictures and labels, or have no
                class in common.
        """
        return self._difference(other, self.per_picture, other.per_picture)

    def minus_at_borders(self, other: "Scores") -> Difference:
        """Returns the difference of the mean IoU within one pixel of the borders; see `minus`.

        Raises:
            AtrousError: As `minus`, or boundaries were not measured.
        """
        if self.boundaries is None or other.boundaries is None:
            raise AtrousError("E-COMPARE", "boundaries were not measured: evaluate with trimap")
        return self._difference(other, self.boundaries.narrowest, other.boundaries.narrowest)

    def _difference(self, other: "Scores", mine: Counts, theirs: Counts) -> Difference:
        names = self.classes + tuple(name for name in other.classes if name not in self.classes)
        common = [names.index(name) for name in self.common_mean_over(other)]
        return uncertainty.difference(
            _spread(theirs, other.classes, names),
            _spread(mine, self.classes, names),
            classes=common,
        )

    def common_mean_over(self, other: "Scores") -> tuple[str, ...]:
        """Returns the classes that both means average over."""
        common = tuple(name for name in self.mean_over if name in other.mean_over)
        if not common:
            raise AtrousError("E-COMPARE", "the two results have no class in common")
        return common

    def as_dict(self) -> dict[str, Any]:
        """Returns everything as plain values for JSON; undefined scores are None."""
        result: dict[str, Any] = {
            "mean_iou": self.mean_iou,
            "mean_iou_interval": list(self.mean_iou_interval),
            **self.of_two_classes,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "frequency_weighted_iou": self.frequency_weighted_iou,
            "class_iou": self.class_iou,
            "expected_calibration_error": number(self.reliability.expected_calibration_error()),
            "trimap": {str(width): value for width, value in self.trimap.items()},
        }
        if self.boundaries is not None:
            for name, values in (
                ("boundary_iou", self.boundaries.boundary_iou()),
                ("boundary_f", self.boundaries.boundary_f()),
            ):
                result[f"mean_{name}"] = number(metrics.mean_over_present(values, self.chosen))
                result[f"class_{name}"] = self._by_class(values)
        return {**result, "protocol": self.protocol, "seconds": self.seconds}

    def __getitem__(self, key: str) -> Any:
        return self.as_dict()[key]

    def _by_class(self, values: NDArray[np.float64]) -> dict[str, float | None]:
        own = self.own_classes
        return dict(zip(own, map(number, values[: len(own)].tolist()), strict=True))


def _spread(counts: Counts, classes: Sequence[str], names: Sequence[str]) -> Counts:
    """Returns (N, 3, K) counts in the order of `names`; other classes have no pixels."""
    result = np.zeros((*counts.shape[:2], len(names)), np.int64)
    result[:, :, [names.index(name) for name in classes]] = counts
    return result


def number(value: float) -> float | None:
    """Returns the number, or None for NaN, which JSON cannot hold."""
    return None if np.isnan(value) else float(value)
