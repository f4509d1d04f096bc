"""PNG files of every kind, which Pillow reads but does not write."""

import struct
import zlib

import numpy as np

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip


def png_file(kind: int, depth: int, height: int, width: int, *, interlaced: bool) -> bytes:
    """Returns a file of random samples, each row with a random filter.

    Args:
        kind: PNG's colour type.
        depth: Bits of a sample.
        height: Of the picture.
        width: Of the picture.
        interlaced: Adam7.
    """
    random = np.random.default_rng(depth * 10 + kind)
    channels = CHANNELS[kind]
    samples = random.integers(0, 2**depth, (height, width, channels))
    if interlaced:
        data = b"".join(
            _rows(samples[y::dy, x::dx], depth, random)
            for x, y, dx, dy in PASSES
            if samples[y::dy, x::dx].size
        )
    else:
        data = _rows(samples, depth, random)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    chunks = [(b"IHDR", header), (b"gAMA", struct.pack(">I", 100_000))]
    if kind == 3:
        chunks.append((b"PLTE", random.integers(0, 256, 3 * 2**depth, dtype=np.uint8).tobytes()))
    packed = zlib.compress(data)
    chunks += [(b"IDAT", packed[:20]), (b"IDAT", packed[20:]), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _rows(samples: np.ndarray, depth: int, random: np.random.Generator) -> bytes:
    height, _, channels = samples.shape
    if depth == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        bits = (samples.reshape(height, -1, 1) >> np.arange(depth)[::-1]) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    step = max(1, channels * depth // 8)
    above = np.zeros(rows.shape[1], int)
    result = []
    for row in rows.astype(int):
        kind = int(random.integers(5))
        left, corner = np.zeros_like(row), np.zeros_like(row)
        left[step:], corner[step:] = row[:-step], above[:-step]
        guess = (0 * row, left, above, (left + above) // 2, _paeth(left, above, corner))[kind]
        result.append(bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes())
        above = row
    return b"".join(result)


def _paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    estimate = left + above - corner
    a, b, c = (np.abs(estimate - each) for each in (left, above, corner))
    return np.where((a <= b) & (a <= c), left, np.where(b <= c, above, corner))


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
