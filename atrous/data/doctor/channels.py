"""Checks of pictures with their own channels: normalisation, and their places on the ground."""

from collections.abc import Iterator

import numpy as np

from atrous.data.doctor.duplicates import split_pairs
from atrous.data.doctor.findings import Finding, about_files
from atrous.data.doctor.measure import Ground
from atrous.data.doctor.survey import Survey
from atrous.data.normalisation import normalisation_of
from atrous.errors import AtrousError


def check_normalisation(survey: Survey) -> Iterator[Finding]:
    """Proposes the normalisation that training would measure, or finds a channel without values."""
    bands = survey.bands
    if bands.plain or bands.mean or not survey.splits:
        return
    split = "train" if "train" in survey.splits else next(iter(survey.splits))
    sums = [m.sums for m in survey.of(split) if m.sums is not None]
    if not sums:
        return
    try:
        mean, std = normalisation_of(sums)
    except AtrousError as error:
        yield Finding("error", error.code, error.what, error.fix)
        return
    what = f"training measures the normalisation of {', '.join(bands.names)} ({bands.dtype}); "
    what += "this line of the dataset YAML gives it"
    line = f"normalize: {{mean: {list(mean)}, std: {list(std)}}}"
    yield Finding("note", "N-DATA-NORMALIZE", what, proposal=line)


def check_ground(survey: Survey) -> Iterator[Finding]:
    """Notes reference systems and resolutions, and finds splits that overlap on the ground."""
    placed = {
        split: [(m.name, m.ground) for m in survey.of(split) if m.ground] for split in survey.splits
    }
    grounds = [ground for part in placed.values() for _, ground in part]
    kinds = sorted({(g.crs, f"{g.pixel[0]:.6g} x {g.pixel[1]:.6g}") for g in grounds})
    what = "on the ground: " + "; ".join(f"{px} map units a pixel in {crs}" for crs, px in kinds)
    if len(kinds) == 1:
        yield Finding("note", "N-DATA-GROUND", what)
    elif kinds:
        fix = "resample all pictures to one resolution: gdalwarp -tr"
        yield Finding("warning", "W-DATA-GROUND", what, fix)
    for one, other in split_pairs(survey.splits):
        pairs = (f"{a} = {b}" for a, b in _overlaps(placed[one], placed[other]))
        what = f"pictures of {other} that overlap some of {one} on the ground"
        fix = f"scores on {other} will be too high: divide the splits by region"
        yield from about_files(pairs, "warning", "W-DATA-GROUND-LEAK", what, fix)


def _overlaps(
    first: list[tuple[str, Ground]], second: list[tuple[str, Ground]]
) -> Iterator[tuple[str, str]]:
    """Yields each picture of the second list with one of the first that covers the same ground."""
    if not first:
        return
    boxes = np.array([ground.bounds for _, ground in first])
    systems = np.array([ground.crs for _, ground in first])
    for name, (crs, pixel, (left, bottom, right, top)) in second:
        width = np.minimum(boxes[:, 2], right) - np.maximum(boxes[:, 0], left)
        height = np.minimum(boxes[:, 3], top) - np.maximum(boxes[:, 1], bottom)
        # Neighbours share a border, which rounding may turn into a sliver.
        found = (systems == crs) & (width > pixel[0] / 2) & (height > pixel[1] / 2)
        if found.any():
            yield first[int(found.argmax())][0], name
