"""Reads mask files: pictures whose pixels are class indices.

Nothing may be interpolated, scaled or dithered. Palette pictures give their indices, grey pictures
their values, and colour pictures are looked up in a colour table. Files whose meaning would have to
be guessed are refused.
"""

from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.classes import Color
from atrous.data.masks.colors import ColorTable, labels_of_colors
from atrous.errors import AtrousError, DataError
from atrous.images.decode import head_of, name_of, open_image, upright

Labels = NDArray[np.uint8 | np.uint16]  # (H, W), as stored in the file, before any mapping

# In order of preference. JPEG is listed so that JPEG masks are found and refused.
SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jpg", ".jpeg")

_AS_GREY = "save class indices as palette, 8-bit or 16-bit grey PNG"
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
_WHITE_IS_ZERO = 0
_INDICES = ("1", "L", "P", "LA", "PA")  # modes of Pillow whose first value is the class
_WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class Mask(NamedTuple):
    """The content of a mask file."""

    labels: Labels
    format: str  # "PNG", as Pillow names it
    mode: str  # "P", as Pillow names it
    palette: tuple[Color, ...]  # colours of a palette picture, else empty


def read_mask(
    source: Path | IO[bytes], *, colors: ColorTable = (), allow_lossy: bool = False
) -> Mask:
    """Reads a mask file.

    Palette pictures give their indices; the colours do not matter. Grey pictures give their values,
    unscaled, for any number of bits. Bilevel pictures give 0 and 1. Colour pictures are looked up
    in the colour table; without a table they give their grey value, if all channels agree. EXIF
    orientation is applied. Checksums of PNG chunks are verified, so that a damaged file is an
    error and not another label.

    Args:
        source: A path or a binary stream.
        colors: Label of each colour; needed for masks stored in colour.
        allow_lossy: Read JPEG masks although their labels cannot be trusted.

    Raises:
        AtrousError: The file is unreadable, lossy, animated, transparent, in unknown colours, or of
            a kind that holds no indices.
    """
    where = name_of(source)
    with open_image(source, checksums=True) as image:
        if not isinstance(source, Path):
            source.seek(0)
        head = head_of(source, 32)
        if not allow_lossy and _is_lossy(image, head):
            raise DataError(
                "E-MASK-LOSSY",
                f"a mask saved as {image.format}: lossy compression corrupts labels along edges",
                where=where,
                fix="export the masks again as PNG; --force reads these files nevertheless",
            )
        if getattr(image, "is_animated", False):
            raise _refused(where, "has several frames", "save each mask as a single picture")
        divisor = _grey_scale(image, head, where)
        labels = _labels(upright(image), image.mode, colors, where)
        if divisor > 1:
            labels = labels // np.uint8(divisor)
        return Mask(labels, image.format or "", image.mode, _palette(image))


def _is_lossy(image: Image.Image, head: bytes) -> bool:
    if image.format == "TIFF":
        return any(name in str(image.info.get("compression")) for name in ("jpeg", "webp"))
    if image.format == "WEBP":
        return head[12:16] != b"VP8L"
    return image.format in ("JPEG", "MPO")


def _grey_scale(image: Image.Image, head: bytes, where: object) -> int:
    """Returns the factor by which Pillow scaled grey values of few bits; refuses other scaling."""
    if image.format == "PNG":
        bits, color_type = head[24], head[25]
        if bits == 16 and color_type != 0:
            raise _refused(where, "has 16 bits a channel and several channels", _AS_GREY)
        return {2: 85, 4: 17}.get(bits, 1) if color_type == 0 else 1
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]  # every TIFF has it
        bits = tags.get(_TIFF_BITS, (1,))[0]
        if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO or bits not in (1, 8, 16, 32):
            raise _refused(where, f"is a TIFF of {bits} bits a value or with white as 0", _AS_GREY)
    if image.format == "PPM":
        raise _refused(where, "is a PNM file, whose values are relative to a maximum", _AS_GREY)
    return 1


def _palette(image: Image.Image) -> tuple[Color, ...]:
    if image.mode not in ("P", "PA"):
        return ()
    values = image.getpalette("RGB") or []
    return tuple(zip(values[0::3], values[1::3], values[2::3], strict=True))


def _labels(image: Image.Image, mode: str, colors: ColorTable, where: object) -> Labels:
    """Returns the labels of an upright picture that was stored in a mode of Pillow's."""
    if mode not in (*_INDICES, *_WIDE, "RGB", "RGBA"):
        raise _refused(where, f"is of mode {mode}, which holds no class indices", _AS_GREY)
    values = np.asarray(image)
    if mode in ("LA", "PA", "RGBA"):
        if values[..., -1].min(initial=255) < 255:
            what = "has transparent pixels, whose class is unknown"
            fix = "save the mask without transparency, with unlabelled pixels as 255"
            raise _refused(where, what, fix)
        values = values[..., :-1]
    if mode in ("RGB", "RGBA"):
        return labels_of_colors(values, colors, where)
    if mode in _INDICES:
        return np.ascontiguousarray(values.reshape(values.shape[:2])).astype(np.uint8, copy=False)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > 65535:
        raise _refused(where, f"holds values from {low} to {high}, not 0 to 65535", _AS_GREY)
    return values.astype(np.uint16)


def _refused(where: object, what: str, fix: str) -> AtrousError:
    return DataError("E-MASK-MODE", f"this mask {what}", where=where, fix=fix)
