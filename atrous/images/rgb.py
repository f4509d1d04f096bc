"""Converts a picture of any Pillow mode to 8-bit RGB and keeps its range of values.

The mode leaves two questions: how many of 16 bits are in use, and whether a fourth channel is
opacity or a spectral band. The pixels answer both. `measure` looks at the pixels and `to_rgb`
converts by the answer; they are two functions, so that all blocks of one TIFF are converted alike.
"""

from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.errors import InputError

_DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners use
_UNSIGNED, _SAMPLE_FORMAT = 1, 339  # of TIFF
_NO_DATA = 42113  # GDAL's TIFF tag: the value of pixels without a measurement, as text
# Values that geographic tools write for pixels without a measurement, with or without the tag.
_NEVER_DATA = (-9999.0, -32768.0)
_LARGEST = 1e38  # larger magnitudes, up to the extremes of 32-bit floats, mean the same
_DIM = 15  # the largest upper byte of a 12-bit value
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


class Values(NamedTuple):
    """Facts about the pixels that the conversion depends on; the defaults are plain RGB's.

    Attributes:
        low: Smallest value of a grey picture with more than 8 bits.
        high: Largest value of the same, or largest upper byte of a 16-bit colour picture.
        missing: Its pixels without a value: NoData, NaN and infinities.
        extreme: Pixels whose fourth channel is 0 or 255.
        clear: Pixels whose fourth channel is below 255.
        pixels: All pixels with a fourth channel.
    """

    low: float = np.inf
    high: float = -np.inf
    missing: int = 0
    extreme: int = 0
    clear: int = 0
    pixels: int = 0

    def joined(self, other: "Values") -> "Values":
        """Returns the values of two parts of one picture."""
        counts = (a + b for a, b in zip(self[2:], other[2:], strict=True))
        return Values(min(self.low, other.low), max(self.high, other.high), *counts)

    @property
    def is_opacity(self) -> bool:
        """Whether the fourth channel is opacity, which is mostly 0 or 255 as no band is."""
        return 2 * self.extreme >= self.pixels


def measure(image: Image.Image, size: tuple[int, int] | None = None) -> Values:
    """Returns the facts about a picture's pixels that its mode leaves open.

    Args:
        image: The picture.
        size: Height and width to look at, from the top left corner; None: all.
    """
    height, width = image.height, image.width
    if size is not None:
        height, width = min(height, size[0]), min(width, size[1])
    if _is_deep(image):
        values, valid = (array[:height, :width] for array in _deep(image))
        found = values[valid]
        missing = values.size - found.size
        if not found.size:
            return Values(missing=missing)
        return Values(float(found.min()), float(found.max()), missing)
    result = Values()
    if image.mode in _WITH_ALPHA:
        alpha = image.getchannel(image.getbands()[-1])
        counts = alpha.crop((0, 0, width, height)).histogram()
        counted = counts[0] + counts[255], sum(counts[:255]), sum(counts)
        result = Values(0.0, 0.0, 0, *counted)
    if image.info.get("deep_rgb"):
        brightest = np.asarray(image)[:height, :width, :3].max()
        result = result._replace(low=0.0, high=float(brightest))
    return result


def to_rgb(image: Image.Image, values: Values | None = None) -> Image.Image:
    """Converts a picture of any mode to 8-bit RGB.

    Grey values of more than 8 bits are scaled: 16-bit ones from the number of bits in use, 32-bit
    ones from their smallest to their largest value; pixels without a value become black. Opacity
    is laid on white; a fourth channel that is not opacity is left out. ``info["notes"]`` of the
    result holds these decisions as text.

    Args:
        image: The picture.
        values: From `measure`, of the picture or of the larger one it is a part of.

    Raises:
        AtrousError: A 32-bit picture without a single valid value, or a colour picture of 16 bits
            that uses at most 12 of them: Pillow reads the upper 8 alone.
    """
    values = values or measure(image)
    if image.info.get("deep_rgb") and values.high <= _DIM:
        raise InputError(
            "E-IMAGE-DEPTH",
            "its 16-bit channels use 12 bits or fewer: read as they are, they are almost black",
            where=getattr(image, "filename", ""),
            fix="scale the picture to 8 bits: gdal_translate -ot Byte -scale IN OUT",
        )
    notes = conversion_notes(image, values)
    if _is_deep(image):
        result = Image.fromarray(_scaled(image, values)).convert("RGB")
    elif (image.mode in _WITH_ALPHA and values.is_opacity) or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        result = Image.alpha_composite(white, rgba).convert("RGB")
    else:
        result = image.convert("RGB")
    if notes:
        result.info["notes"] = notes
    return result


def conversion_notes(image: Image.Image, values: Values) -> tuple[str, ...]:
    """Returns the decisions of `to_rgb` for a picture with these values, as text."""
    if _is_deep(image):
        missing = f"; {values.missing} pixels without a value are black" if values.missing else ""
        low, high = _range(image, values)
        return (f"values from {low:g} to {high:g} became 0 to 255{missing}",)
    deep = ("values from 0 to 65535 became 0 to 255",) if image.info.get("deep_rgb") else ()
    if (bits := image.info.get("bits_per_sample", 8)) > 8:  # of JPEG XL
        deep = (f"{bits} bits of a channel were read as 8",)
    if image.mode in _WITH_ALPHA and not values.is_opacity:
        return (
            *deep,
            f"channel {len(image.getbands())} is not opacity and was left out",
        )
    if image.mode == "RGBX":
        return (*deep, "channel 4 was left out")
    if values.clear or "transparency" in image.info:
        return (*deep, "transparent parts were laid on white")
    return deep


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _deep(image: Image.Image) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Returns the values of a grey picture of more than 8 bits, and which of them are data."""
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    if image.mode == "I" and tags and tags.get(_SAMPLE_FORMAT, (1,))[0] == _UNSIGNED:
        values = values.view(np.uint32)  # Pillow reads unsigned 32-bit TIFFs as signed
    if image.mode.startswith("I;16"):
        values = values.astype(np.uint16)
        valid = np.ones(values.shape, bool)
    else:
        values = values.astype(np.float64)
        valid = (np.abs(values) < _LARGEST) & ~np.isin(values, _NEVER_DATA)  # False for NaN
    with suppress(ValueError):  # a tag that holds no number
        # Compared in the type of the file: 1e20 as a 32-bit float differs from 1e20 in 64 bits.
        kind: Any = np.float32 if image.mode == "F" else np.float64
        valid &= values != kind(str(tags.get(_NO_DATA, "nan")).strip(" \0"))
    return values, valid


def _range(image: Image.Image, values: Values) -> tuple[float, float]:
    """Returns the values that become 0 and 255."""
    if values.low > values.high:
        raise InputError(
            "E-IMAGE-VALUES",
            "the picture holds no valid value, only NoData, NaN or infinities",
            where=getattr(image, "filename", ""),
        )
    if image.mode == "F" or values.low < 0 or values.high > 65535:
        return values.low, values.high
    return 0, next(2**bits - 1 for bits in _DEPTHS if values.high < 2**bits)


def _scaled(image: Image.Image, values: Values) -> NDArray[np.uint8]:
    low, high = _range(image, values)
    pixels, valid = _deep(image)
    kind: Any = np.float32 if pixels.dtype == np.uint16 else np.float64
    scale = 255 / (high - low) if high > low else 0
    known: NDArray[Any] = np.where(valid, pixels, low).astype(kind)
    scaled = np.rint((known - kind(low)) * kind(scale))
    return np.where(valid, np.clip(scaled, 0, 255), 0).astype(np.uint8)
