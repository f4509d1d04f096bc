"""The size of a picture from its first bytes, so that the front process never decodes one.

The worker checks again with what decodes the picture. Here a size only decides admission, so an
unknown kind or a damaged header has none.
"""

import math
import re
import struct

from atrous.errors import AtrousError

Size = tuple[int, int]  # (height, width)

_MOST_SEGMENTS = 2000  # of a JPEG before its frame; cameras write some tens
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers that hold the size
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # JPEG markers without a segment
_TIFF_TYPES = {3: ("H", 2), 4: ("I", 4), 16: ("Q", 8)}  # struct letter and bytes
_SPATIAL_EXTENT = re.compile(rb"ispe\0{4}(.{4})(.{4})", re.DOTALL)  # of AVIF and HEIC
_PNM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})")


def picture_size(data: bytes) -> Size | None:
    """Returns height and width as the header says; None where it does not say.

    >>> picture_size(b"GIF89a" + bytes([3, 0, 2, 0]))
    (2, 3)
    """
    try:
        return _size(data)
    except (struct.error, IndexError, ValueError):
        return None


def check_pixels(size: Size, most: int) -> None:
    """Refuses a picture by its header.

    Raises:
        AtrousError: More pixels than `most`.
    """
    height, width = size
    if height * width > most:
        raise AtrousError(
            "E-IMAGE-PIXELS",
            f"{width}x{height} is {height * width / 1e6:.1f} megapixels, more than the "
            f"{most / 1e6:.4g} this server takes",
            fix="shrink the picture",
        )


def _size(data: bytes) -> Size | None:
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return struct.unpack_from(">II", data, 16)[::-1]
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return struct.unpack_from("<HH", data, 6)[::-1]
    if data[:2] == b"BM":
        return _bmp(data)
    if data[4:8] == b"ftyp":
        return _heif(data)
    match = _PNM.match(data[:4096])
    return (int(match[2]), int(match[1])) if match else None


def _jpeg(data: bytes) -> Size | None:
    at = 2
    for _ in range(_MOST_SEGMENTS):
        while data[at] != 0xFF:  # padding and garbage between segments is skipped by decoders
            at = data.index(b"\xff", at)
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if marker in _FRAMES:
            return struct.unpack_from(">HH", data, at + 3)
        if marker not in _ALONE and marker != 0:
            at += struct.unpack_from(">H", data, at)[0]
    return None


def _webp(data: bytes) -> Size | None:
    kind = data[12:16] if len(data) >= 30 else b""
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return height, width
    return None


def _heif(data: bytes) -> Size | None:
    """Returns the largest of the file's images: tiles of a grid and thumbnails are smaller."""
    extents = _SPATIAL_EXTENT.findall(data[:65536])
    sizes = [(int.from_bytes(height), int.from_bytes(width)) for width, height in extents]
    return max(sizes, key=math.prod, default=None)


def _bmp(data: bytes) -> Size:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        return struct.unpack_from("<HH", data, 18)[::-1]
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), abs(width)


def _tiff(data: bytes) -> Size | None:
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"+\0", b"\0+"):  # BigTIFF
        start, number, entry, value = struct.unpack_from(order + "Q", data, 8)[0], "Q", 20, 12
    else:
        start, number, entry, value = struct.unpack_from(order + "I", data, 4)[0], "H", 12, 8
    count = struct.unpack_from(order + number, data, start)[0]
    start += struct.calcsize(order + number)
    sides = {}
    for at in range(start, start + min(count, 4096) * entry, entry):
        tag, kind = struct.unpack_from(order + "HH", data, at)
        if tag in (256, 257) and kind in _TIFF_TYPES:
            sides[tag] = struct.unpack_from(order + _TIFF_TYPES[kind][0], data, at + value)[0]
    return (sides[257], sides[256]) if len(sides) == 2 else None
