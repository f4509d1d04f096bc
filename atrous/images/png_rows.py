"""PNG pictures written row by row, so that a whole picture is never in memory."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from atrous.classes import Color

_TYPES = {"palette": (8, 3), "grey": (8, 0), "grey16": (16, 0), "rgba": (8, 6)}  # depth, colours


class PngRows:
    """A PNG file that is being written.

    Args:
        path: The file.
        size: Height and width.
        kind: What a pixel holds.
        palette: Colours, for the kind with a palette.
        text: Key and value of a text that is stored with the picture; an empty value is not.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        kind: Literal["palette", "grey", "grey16", "rgba"],
        *,
        palette: Sequence[Color] = (),
        text: tuple[str, str] = ("", ""),
    ) -> None:
        self._file = path.open("wb")
        self._deflate = zlib.compressobj()
        self._depth, colors = _TYPES[kind]
        self._file.write(b"\x89PNG\r\n\x1a\n")
        header = struct.pack(">IIBBBBB", size[1], size[0], self._depth, colors, 0, 0, 0)
        self._chunk(b"IHDR", header)
        if kind == "palette":
            self._chunk(b"PLTE", bytes(channel for color in palette for channel in color))
        if text[1]:
            self._chunk(b"tEXt", "\0".join(text).encode("latin-1"))

    def write(self, rows: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
        """Adds rows (n, W), or (n, W, 4) for RGBA."""
        values = rows.astype(">u2" if self._depth == 16 else np.uint8)
        bytes_ = values.reshape(len(rows), -1).view(np.uint8)
        unfiltered = np.pad(bytes_, ((0, 0), (1, 0)))  # each row starts with its filter: 0, none
        if data := self._deflate.compress(unfiltered.tobytes()):
            self._chunk(b"IDAT", data)

    def _chunk(self, kind: bytes, data: bytes) -> None:
        checksum = zlib.crc32(data, zlib.crc32(kind))
        self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            if raised[0] is None:
                self._chunk(b"IDAT", self._deflate.flush())
                self._chunk(b"IEND", b"")
        finally:
            self._file.close()
