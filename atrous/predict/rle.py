"""Run lengths: binary masks as COCO and CVAT store them.

A mask is read column by column (COCO) or row by row (CVAT); the counts are the lengths of its runs
of equal pixels, alternately off and on, beginning with off.

COCO also packs the counts into text (Lin et al., Microsoft COCO, arXiv:1405.0312). Each count from
the fourth on is replaced by its difference to the count two before it. A number is then written in
groups of five bits, lowest group first. A group becomes the character 48 + bits, plus 32 if another
group follows. The highest bit of the last group is the sign. The format is that of pycocotools.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError, DataError


def unpack_counts(text: str | bytes) -> list[int]:
    """Returns the run lengths packed into COCO text.

    Raises:
        AtrousError: A character COCO does not write, or text that ends within a number.

    >>> unpack_counts("04l0O")
    [0, 4, 28, 3]
    """
    data = text.encode("ascii", "replace") if isinstance(text, str) else text
    counts: list[int] = []
    value = shift = 0
    for byte in data:
        group = byte - 48
        if not 0 <= group < 64 or shift > 30:
            raise _broken(f"character {chr(byte)!r} in packed run lengths")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:  # the sign, extended
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise _broken("packed run lengths end within a number")
    return counts


def pack_counts(counts: Sequence[int]) -> str:
    """Returns run lengths as COCO text, the inverse of `unpack_counts`.

    >>> pack_counts([0, 4, 28, 3])
    '04l0O'
    """
    text = []
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            group = value & 31
            value >>= 5
            more = value != (-1 if group & 16 else 0)
            text.append(chr(48 + (group | 32 if more else group)))
    return "".join(text)


def decode_runs(counts: Sequence[int], size: int) -> NDArray[np.bool_]:
    """Returns `size` pixels from their run lengths, in the order the format walks them.

    Raises:
        AtrousError: A negative count, or counts that do not add up to `size`.
    """
    lengths = np.asarray(counts, dtype=np.int64)
    if lengths.size and lengths.min() < 0:
        raise _broken(f"a run of {int(lengths.min())} pixels")
    if int(lengths.sum()) != size:
        raise _broken(f"runs of {int(lengths.sum())} pixels for a mask of {size}")
    states = np.arange(lengths.size) % 2 == 1
    return np.repeat(states, lengths)


def encode_runs(pixels: NDArray[np.bool_]) -> list[int]:
    """Returns the run lengths of pixels in the order given, the inverse of `decode_runs`."""
    changes = np.flatnonzero(np.diff(pixels)) + 1
    bounds = np.concatenate(([0], changes, [pixels.size]))
    counts = np.diff(bounds).tolist()
    return [0, *counts] if pixels.size and pixels[0] else counts


def decode_coco(rle: object, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns the mask (H, W) of a COCO segmentation: ``{"size": [H, W], "counts": ...}``.

    Raises:
        AtrousError: Not of that form, or not of the picture's size (height, width).
    """
    if not isinstance(rle, dict) or not isinstance(rle.get("counts"), (str, bytes, list)):
        raise _broken("a segmentation without counts")
    height, width = size
    if rle.get("size", [height, width]) != [height, width]:
        raise _broken(f"run lengths for a picture of {rle['size']}, but it is {[height, width]}")
    counts = rle["counts"]
    if not isinstance(counts, list):
        counts = unpack_counts(counts)
    elif not all(type(count) is int and abs(count) < 1 << 40 for count in counts):
        raise _broken("counts that are no pixel counts")
    return decode_runs(counts, height * width).reshape(width, height).T


def encode_coco(mask: NDArray[np.bool_]) -> dict[str, object]:
    """Returns a mask (H, W) as a COCO segmentation with packed counts."""
    return {"size": list(mask.shape), "counts": pack_counts(encode_runs(mask.ravel(order="F")))}


def _broken(what: str) -> AtrousError:
    return DataError("E-SHAPE-RLE", what, fix="export the annotations again")
