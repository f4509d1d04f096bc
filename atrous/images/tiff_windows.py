"""Pictures read by windows, so that memory does not grow with their size.

A TIFF consists of tiles or strips, each compressed by itself. Pillow can only decode a whole
picture. Therefore each tile or strip is wrapped as a small TIFF of its own, which Pillow decodes.
"""

import io
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffTags
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from atrous.images.decode import TIFF_MAGIC, damaged, open_image
from atrous.images.pages import split_page
from atrous.images.rgb import Values, conversion_notes, measure, to_rgb
from atrous.images.stores import is_address, read_range

CACHE_BYTES = 64 << 20  # decoded blocks that are kept, because neighbouring windows share them
MOST_BLOCK_PIXELS = 1 << 24  # windows save no memory if one block is larger
_ROWS_BYTES = 1 << 20  # an uncompressed strip is read in pieces of this size

_UNCOMPRESSED, _JPEG = 1, 7
_COMPRESSIONS = (_UNCOMPRESSED, 5, _JPEG, 8, 32773, 32946, 50000)  # LZW, deflate, PackBits, Zstd
_YCBCR = 6
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES = 273, 274, 277, 278, 279
_PLANES, _SAMPLE_FORMAT = 284, 339
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
# Tags that a block needs to be decoded. The numbers without a name are fill order, predictor,
# colour map, extra samples, JPEG tables, YCbCr and NoData.
_DECODING = (
    *(_BITS, _COMPRESSION, _PHOTOMETRIC, 266, _SAMPLES, _PLANES, 317, 320),
    *(338, _SAMPLE_FORMAT, 347, 529, 530, 531, 532, 42113),
)


class Windows(Protocol):
    """A picture that can be read window by window."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""

    @property
    def bytes_held(self) -> int:
        """The most memory that reading takes."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Decisions of the conversion to RGB; see `to_rgb`."""

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Returns a window inside the picture, (height, width, C); of RGB 8 bits."""


class _Block(NamedTuple):
    """A rectangle of a TIFF and where its data lie in the file."""

    top: int
    left: int
    height: int
    width: int
    offset: int
    length: int


class TiffWindows:
    """Windows of a TIFF file; see `open_tiff`.

    Args:
        path: The file.
        tags: The tags of its first picture.

    Attributes:
        size: Height and width.
        bytes_held: The most memory that reading takes.
        blocks: The tiles or strips, row by row.
    """

    def __init__(self, path: Path, tags: ImageFileDirectory_v2) -> None:
        self.path = path
        self.size = int(tags[_HEIGHT]), int(tags[_WIDTH])
        self.bytes_held = CACHE_BYTES
        self._tags = tags
        self.blocks = list(_tiles(tags) if _TILE_OFFSETS in tags else _strips(tags))
        self._bottoms = [block.top + block.height for block in self.blocks]
        self._cache: OrderedDict[_Block, NDArray[np.uint8]] = OrderedDict()
        self._cached = 0

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Returns a window inside the picture, (height, width, 3) RGB.

        Raises:
            AtrousError: The file is truncated or damaged there.
        """
        window = np.empty((height, width, 3), np.uint8)
        for block in islice(self.blocks, bisect_right(self._bottoms, top), None):
            if block.top >= top + height:
                break
            first, last = max(top, block.top), min(top + height, block.top + block.height)
            start, end = max(left, block.left), min(left + width, block.left + block.width)
            if start < end:
                window[first - top : last - top, start - left : end - left] = self._pixels(block)[
                    first - block.top : last - block.top, start - block.left : end - block.left
                ]
        return window

    @cached_property
    def _values(self) -> Values:
        """The values of all blocks together, so that all blocks are converted alike."""
        if max(self._tags.get(_BITS, (1,))) <= 8 and self._tags.get(_SAMPLES, 1) in (1, 3):
            return Values()  # 8-bit grey or RGB needs no values, so no block is decoded here
        values = Values()
        for block in self.blocks:
            with self._opened(block) as image:
                # The last tiles go beyond the picture.
                height, width = self.size[0] - block.top, self.size[1] - block.left
                values = values.joined(measure(image, (height, width)))
        return values

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Decisions of the conversion to RGB; see `to_rgb`."""
        with self._opened(self.blocks[0]) as image:
            return conversion_notes(image, self._values)

    def _pixels(self, block: _Block) -> NDArray[np.uint8]:
        if block in self._cache:
            self._cache.move_to_end(block)
            return self._cache[block]
        values = self._values
        with self._opened(block) as image:
            self._cache[block] = pixels = np.asarray(to_rgb(image, values))
        self._cached += pixels.nbytes
        while self._cached > CACHE_BYTES and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].nbytes
        return pixels

    @contextmanager
    def _opened(self, block: _Block) -> Iterator[Image.Image]:
        """Opens a block as a TIFF of its own."""
        data = read_range(self.path, block.offset, block.length)
        tags = ImageFileDirectory_v2(prefix=self._tags.prefix)
        for tag in _DECODING:
            if tag in self._tags:
                tags.tagtype[tag] = self._tags.tagtype[tag]
                tags[tag] = self._tags[tag]
        tags[_WIDTH], tags[_HEIGHT] = block.width, block.height
        tags[_STRIP_ROWS], tags[_STRIP_BYTES] = block.height, len(data)
        tags.tagtype[_STRIP_OFFSETS] = TiffTags.LONG
        tags[_STRIP_OFFSETS] = 0  # Pillow adds the length of the directory
        stream = io.BytesIO()
        stream.name = str(self.path)  # for error messages
        tags.save(stream)
        stream.write(data)
        stream.seek(0)
        with open_image(stream) as image:
            yield image


def open_tiff(path: Path) -> TiffWindows | None:
    """Returns the windows of a TIFF file.

    Returns None for other files, and for TIFFs that must be decoded whole: turned by their
    orientation tag, with 32-bit values, with separate colour planes, with a rare compression, or
    with blocks beyond 16 megapixels.

    Raises:
        AtrousError: The TIFF is damaged.
    """
    file_path, _ = split_page(path)
    try:
        if read_range(file_path, 0, 4) not in TIFF_MAGIC:
            return None
    except OSError:
        return None  # the caller decodes the file and reports the error
    with (
        path.open("rb") if is_address(path) else nullcontext(path) as source,
        open_image(source, max_pixels=2**62, decode=False) as image,
    ):
        if not isinstance(image, TiffImageFile) or not _has_windows(image.tag_v2):
            return None
        windows = TiffWindows(file_path, image.tag_v2)
    blocks = windows.blocks
    if max(block.height * block.width for block in blocks) > MOST_BLOCK_PIXELS:
        return None
    if max(block.offset + block.length for block in blocks) > file_path.stat().st_size:
        raise damaged(path, "the picture ends before its last tile or strip")
    return windows


def _has_windows(tags: ImageFileDirectory_v2) -> bool:
    compression = tags.get(_COMPRESSION, _UNCOMPRESSED)
    bits = tags.get(_BITS, (1,))
    return (
        compression in _COMPRESSIONS
        and tags.get(_ORIENTATION, 1) == 1
        and (tags.get(_PLANES, 1) == 1 or tags.get(_SAMPLES, 1) == 1)
        and max(bits) <= 16
        and (compression == _JPEG or tags.get(_PHOTOMETRIC) != _YCBCR)
        and (_TILE_OFFSETS in tags or _STRIP_OFFSETS in tags)
    )


def _tiles(tags: ImageFileDirectory_v2) -> Iterator[_Block]:
    height, width = int(tags[_TILE_HEIGHT]), int(tags[_TILE_WIDTH])
    tops, lefts = range(0, int(tags[_HEIGHT]), height), range(0, int(tags[_WIDTH]), width)
    places = ((top, left) for top in tops for left in lefts)
    for (top, left), *data in zip(places, tags[_TILE_OFFSETS], tags[_TILE_BYTES], strict=True):
        yield _Block(top, left, height, width, *data)


def _strips(tags: ImageFileDirectory_v2) -> Iterator[_Block]:
    """Yields strips. An uncompressed strip, often the whole picture, is cut into a few rows."""
    height, width = int(tags[_HEIGHT]), int(tags[_WIDTH])
    rows = min(int(tags.get(_STRIP_ROWS, height)), height)
    tops = range(0, height, rows)
    row_bytes = -(-width * sum(tags.get(_BITS, (1,))) // 8)
    few = max(1, _ROWS_BYTES // row_bytes)
    for top, *data in zip(tops, tags[_STRIP_OFFSETS], tags[_STRIP_BYTES], strict=True):
        bottom = min(top + rows, height)
        if tags.get(_COMPRESSION, _UNCOMPRESSED) != _UNCOMPRESSED:
            yield _Block(top, 0, bottom - top, width, *data)
            continue
        for first in range(top, bottom, few):
            count = min(few, bottom - first)
            offset = data[0] + (first - top) * row_bytes
            yield _Block(first, 0, count, width, offset, count * row_bytes)
