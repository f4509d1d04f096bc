"""TIFF files as scanners and satellites write them: in tiles, of any size."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2


def write_tiled(
    path: Path,
    size: tuple[int, int],
    pixels: Callable[[int, int], np.ndarray],
    *,
    side: int = 256,
    compression: int = 8,
) -> Path:
    """Writes an RGB TIFF tile by tile; a tile that is the one before is stored once.

    Args:
        path: The file.
        size: Height and width.
        pixels: Maps the place of a tile (row and column of its first pixel) to its pixels,
            (side, side, 3) uint8, also beyond the border.
        side: Of a tile, a multiple of 16.
        compression: 1 none, 7 JPEG, 8 deflate.
    """
    found: list[tuple[int, int]] = []  # offset and length of tiles
    last = None
    with path.open("wb") as file:
        file.write(b"II*\0" + struct.pack("<I", 0))
        for top in range(0, size[0], side):
            for left in range(0, size[1], side):
                tile = pixels(top, left)
                if tile is not last:
                    data = _compressed(tile, compression)
                    place = file.tell(), len(data)
                    file.write(data)
                    last = tile
                found.append(place)
        directory = ImageFileDirectory_v2()
        directory[256], directory[257], directory[258] = size[1], size[0], (8, 8, 8)
        directory[259], directory[277] = compression, 3
        directory[262] = 6 if compression == 7 else 2  # JPEG as YCbCr
        if compression == 7:
            directory[530] = (2, 2)
        directory[322], directory[323] = side, side
        directory.tagtype[324] = directory.tagtype[325] = 4
        directory[324], directory[325] = zip(*found, strict=True)
        start = file.tell() + file.tell() % 2
        file.seek(start)
        file.write(directory.tobytes(start))
        file.seek(4)
        file.write(struct.pack("<I", start))
    return path


def _compressed(pixels: np.ndarray, compression: int) -> bytes:
    if compression == 7:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=95, subsampling="4:2:0")
        return stream.getvalue()
    return zlib.compress(pixels.tobytes(), 1) if compression == 8 else pixels.tobytes()
