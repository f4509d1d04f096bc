"""PNG pictures written row by row, so that a whole picture is never in memory."""

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from atrous.classes import Color

_TYPES = {"palette": (8, 3), "grey": (8, 0), "grey16": (16, 0), "rgba": (8, 6)}  # depth, colours


@contextmanager
def png_rows(
    path: Path,
    size: tuple[int, int],
    kind: Literal["palette", "grey", "grey16", "rgba"],
    *,
    palette: Sequence[Color] = (),
    text: tuple[str, str] = ("", ""),
) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Yields a function that adds rows (n, W), or (n, W, 4) for RGBA, to a PNG file.

    Args:
        path: The file, which is not complete before the block ends without an error.
        size: Height and width.
        kind: What a pixel holds.
        palette: Colours, for the kind with a palette.
        text: Key and value of a text that is stored with the picture; an empty value is not.
    """
    depth, colors = _TYPES[kind]
    deflate = zlib.compressobj()

    def chunk(name: bytes, data: bytes) -> None:
        checksum = zlib.crc32(data, zlib.crc32(name))
        file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum))

    def write(rows: NDArray[Any]) -> None:
        values = rows.astype(">u2" if depth == 16 else np.uint8)
        bytes_ = values.reshape(len(rows), -1).view(np.uint8)
        unfiltered = np.pad(bytes_, ((0, 0), (1, 0)))  # each row starts with its filter: 0, none
        if data := deflate.compress(unfiltered.tobytes()):
            chunk(b"IDAT", data)

    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], depth, colors, 0, 0, 0))
        if kind == "palette":
            chunk(b"PLTE", bytes(channel for color in palette for channel in color))
        if text[1]:
            chunk(b"tEXt", "\0".join(text).encode("latin-1"))
        yield write
        chunk(b"IDAT", deflate.flush())
        chunk(b"IEND", b"")
