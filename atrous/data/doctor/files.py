"""Checks of a data set's files: missing, unreadable and repeated files."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from atrous.data.doctor.duplicates import near_pairs, same_files, shared_files, split_pairs
from atrous.data.doctor.findings import Finding, Level, about_files
from atrous.data.doctor.survey import Survey

_TINY = 64  # pixels of the shorter side
_HUGE = 25_000_000  # pixels
_CHECKSUMS = ("PNG",)  # formats whose files have checksums


def check_splits(survey: Survey) -> Iterator[Finding]:
    """Finds splits that cannot be listed or have no samples."""
    for split, failure in survey.failures.items():
        what = f"the split {split!r} cannot be read: {failure.what}"
        # Training needs no test pictures.
        level: Level = "warning" if split.startswith("test") else "error"
        yield Finding(level, failure.code, what, failure.fix, (failure.where,))
    for split, indices in survey.splits.items():
        if not indices:
            what = f"the split {split!r} has no samples"
            fix = "put pictures and annotations into the folders of this layout"
            yield Finding("error", "E-DATA-EMPTY", what, fix)


_PARTNERS = {
    "E-DATA-UNLABELLED": "pictures of {} without annotation",
    "E-DATA-NO-PICTURE": "annotations of {} without picture",
    "E-DATA-TWICE": "files of {} with the name of another",
}


def check_pairs(survey: Survey) -> Iterator[Finding]:
    """Finds pictures and annotations without a partner, or with several."""
    for split, problems in survey.problems.items():
        for code, what in _PARTNERS.items():
            where = (f"{p.where}: {p.what}" for p in problems if p.code == code)
            fix = "add the missing files or remove these; --allow-unlabelled leaves these out"
            yield from about_files(where, "error", code, what.format(split), fix)


def check_readable(survey: Survey) -> Iterator[Finding]:
    """Finds samples that cannot be read, with the reason."""
    by_code = defaultdict(list)
    for measurement in survey.measurements:
        for trouble in measurement.troubles:
            by_code[trouble.code].append(trouble)
    by_code.pop("E-MASK-COLOR", None)  # `labels.check_colors` judges all of these together
    for code, troubles in by_code.items():
        where = tuple(f"{trouble.where}: {trouble.what}" for trouble in troubles)
        what = f"samples that cannot be read: {len(troubles)} ({troubles[0].what})"
        yield Finding("error", code, what, troubles[0].fix, where)


def check_duplicates(survey: Survey) -> Iterator[Finding]:
    """Finds pictures that a split holds twice, or that two splits share and must not share."""
    measurements = survey.measurements
    pictures = [m.picture for m in measurements]
    for split, indices in survey.splits.items():
        groups = same_files(measurements, dict.fromkeys(indices))
        where = (" = ".join(pictures[i] for i in group) for group in groups)
        what = f"pictures that are in {split} more than once"
        yield from about_files(where, "warning", "W-DATA-DUPLICATE", what, "keep one copy of each")
    for one, other in split_pairs(survey.splits):
        ours, theirs = survey.splits[one], survey.splits[other]
        for found, code, how in (
            (shared_files(measurements, ours, theirs), "W-DATA-LEAK", "the same file"),
            (list(near_pairs(measurements, ours, theirs)), "W-DATA-NEAR-LEAK", "nearly the same"),
        ):
            if found:
                pairs = tuple(f"{pictures[a]} = {pictures[b]}" for a, b in found)
                count = len({second for _, second in found})
                what = f"pictures of {other} that are in {one} too ({how}): {count}"
                fix = (
                    f"scores on {other} will be too high: remove the pictures from {one} or {other}"
                )
                yield Finding("warning", code, what, fix, pairs)


def check_sizes(survey: Survey) -> Iterator[Finding]:
    """Finds pictures that are too small to learn from, or large enough to slow training down."""
    sized = [(m.picture, m.size) for m in survey.measurements if m.size]
    tiny = (f"{path}: {h}x{w}" for path, (h, w) in sized if min(h, w) < _TINY)
    what = f"pictures less than {_TINY} pixels high or wide"
    fix = "at output stride 16 they shrink to four features a side; leave these pictures out"
    yield from about_files(tiny, "warning", "W-DATA-TINY", what, fix)
    huge = (f"{path}: {h}x{w}" for path, (h, w) in sized if h * w > _HUGE)
    what = f"pictures of more than {_HUGE // 1_000_000} million pixels"
    fix = "cut them into tiles: every crop decodes the whole picture"
    yield from about_files(huge, "warning", "W-DATA-HUGE", what, fix)


def check_formats(survey: Survey) -> Iterator[Finding]:
    """Notes files without checksums and pictures that EXIF turns."""
    formats = Counter(m.format for m in survey.measurements if m.format)
    formats += Counter(m.mask.split()[0] for m in survey.measurements if m.mask)
    unprotected = {name: count for name, count in formats.items() if name not in _CHECKSUMS}
    if unprotected:
        named = ", ".join(f"{count} {name}" for name, count in sorted(unprotected.items()))
        what = f"files without checksums, in which a flipped bit may go unnoticed: {named}"
        yield Finding("note", "N-DATA-UNPROTECTED", what)
    turned = (m.picture for m in survey.measurements if m.turned)
    what = "pictures turned by EXIF, whose annotations must be upright"
    yield from about_files(turned, "note", "N-DATA-TURNED", what)
