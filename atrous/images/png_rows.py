"""Index pictures written row by row, so that none is ever whole in memory."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from atrous.classes import Color

_PALETTE, _GREY = 3, 0  # colour types


class IndexPng:
    """A PNG that is being written: with a palette, or 16-bit grey above 256 classes.

    Args:
        path: The file.
        size: Height and width.
        palette: Colour of each class.
    """

    def __init__(self, path: Path, size: tuple[int, int], palette: Sequence[Color]) -> None:
        self._file = path.open("wb")
        self._deflate = zlib.compressobj()
        self._wide = len(palette) > 256
        self._file.write(b"\x89PNG\r\n\x1a\n")
        depth, kind = (16, _GREY) if self._wide else (8, _PALETTE)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], depth, kind, 0, 0, 0))
        if not self._wide:
            self._chunk(b"PLTE", bytes(channel for color in palette for channel in color))

    def write(self, rows: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
        """Adds rows (n, W) of labels."""
        bytes_ = rows.astype(">u2" if self._wide else np.uint8).view(np.uint8)
        unfiltered = np.pad(bytes_, ((0, 0), (1, 0)))  # each row starts with its filter: 0, none
        if data := self._deflate.compress(unfiltered.tobytes()):
            self._chunk(b"IDAT", data)

    def _chunk(self, kind: bytes, data: bytes) -> None:
        checksum = zlib.crc32(data, zlib.crc32(kind))
        self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._chunk(b"IDAT", self._deflate.flush())
            self._chunk(b"IEND", b"")
        self._file.close()
