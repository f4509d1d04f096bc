"""Pictures that are too large for the memory, seen in overlapping tiles without seams.

A logit depends on the picture up to `Engine.reach` pixels away. Tiles begin at multiples of all
strides and overlap by twice the reach, so that their logits equal those of the whole picture. If
the memory is too small for such tiles, they overlap less. Between two tiles the logits pass
linearly from one to the other. Image pooling averages the features of the whole picture, which are
collected from all tiles before the first tile is labelled.
"""

from collections.abc import Iterator
from itertools import count, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.engines.protocol import Engine
from atrous.errors import ResourceError
from atrous.images.bands import Pixels
from atrous.images.tiff_windows import Windows

Size = tuple[int, int]  # (height, width)

ALIGNMENT = 32  # the largest output stride of all networks
RAMP = 64  # pixels over which one tile passes to the next
MOST_WORK = 3.0  # if the network would see more pixels per pixel of the picture, overlap less
_SMALLEST_STEP = 192
_BAND_BYTES = 8192  # labels and rows in progress, for each column of the picture
_BYTES_AT_MOST = 2048  # no network needs more for a pixel, so small pictures need no question


class Axis(NamedTuple):
    """The tiles along one side of a picture.

    Attributes:
        side: Length of the side in pixels.
        number: Number of tiles.
        length: Length of every tile.
        margin: Pixels at an inner end of a tile that the network sees and the result leaves out.
    """

    side: int
    number: int
    length: int
    margin: int

    @property
    def starts(self) -> tuple[int, ...]:
        """The first pixel of each tile."""
        if self.number == 1:
            return (0,)
        last, steps = (self.side - self.length) // ALIGNMENT, self.number - 1
        return tuple(index * last // steps * ALIGNMENT for index in range(self.number))

    @property
    def cuts(self) -> tuple[int, ...]:
        """The first pixel of each tile's part of the result, then the end of the side."""
        return (0, *(start + self.margin for start in self.starts[1:]), self.side)


class Grid(NamedTuple):
    """The tiles of a picture, all of one size.

    Attributes:
        rows: Tiles along the height.
        columns: Tiles along the width.
        margin: Pixels at an inner edge of a tile that the network sees and the result leaves out.
    """

    rows: Axis
    columns: Axis
    margin: int

    @property
    def pixels(self) -> int:
        """Pixels that the network sees, overlaps counted each time."""
        rows, columns = self.rows, self.columns
        return rows.number * rows.length * columns.number * columns.length


class Part(NamedTuple):
    """A rectangle of the picture with its logits.

    Attributes:
        top: First row in the picture.
        left: First column.
        image: The picture in the rectangle, (H, W, C).
        coarse: Logits (h, w, K) for the rectangle, and one row and column more where the picture
            goes on, so that every pixel can be interpolated.
    """

    top: int
    left: int
    image: Pixels
    coarse: NDArray[np.float32]


def fits(engine: Engine, size: Size, memory: int) -> bool:
    """Returns whether the network can see a whole picture within `memory` bytes."""
    pixels = size[0] * size[1]
    if pixels * _BYTES_AT_MOST <= memory:
        return True  # the engine would have to read its graph to answer
    return engine.bytes_fixed + pixels * engine.bytes_per_pixel <= memory


def plan(engine: Engine, picture: Windows, memory: int) -> Grid:
    """Chooses the tiles of a picture.

    Of all grids whose tiles fit into the memory, the one that makes the network see the fewest
    pixels, with the largest margin up to `Engine.reach` for which that is at most `MOST_WORK`
    times the picture.

    Args:
        engine: The engine that will run.
        picture: The picture.
        memory: Bytes the process may take.

    Raises:
        AtrousError: The memory is too small for any tile.
    """
    size = picture.size
    rows_in_progress = 4 * RAMP * len(engine.classes) // engine.logits_stride**2 + _BAND_BYTES
    fixed = engine.bytes_fixed + picture.bytes_held + size[1] * rows_in_progress
    copies = getattr(picture, "bytes_per_pixel", 0)  # of channels that are no 8-bit RGB
    pixels = (memory - fixed) // max(1, engine.bytes_per_pixel + copies)
    grid = None
    for margin in range(_aligned(max(1, engine.reach)), 0, -ALIGNMENT):
        grid = cheapest_grid(size, margin, pixels) or grid
        if grid is not None and grid.pixels <= MOST_WORK * size[0] * size[1]:
            return grid
    if grid is None:
        height, width = (min(axis.length for axis in _axes(side, ALIGNMENT)) for side in size)
        needed = fixed + height * width * engine.bytes_per_pixel
        raise ResourceError(
            "E-MEMORY",
            f"{memory / 1e6:.0f} MB are too few for this model and a picture of {size[0]} x "
            f"{size[1]} (height x width)",
            fix=f"allow at least {-(-needed // 10**6)} MB with --memory",
        )
    return grid


def cheapest_grid(size: Size, margin: int, pixels: int) -> Grid | None:
    """Returns the grid with the least work, of tiles of at most `pixels`; None without any."""
    best = None
    columns = list(_axes(size[1], margin))  # from the longest to the shortest tiles
    at = len(columns) - 1
    for rows in _axes(size[0], margin):
        while at > 0 and rows.length * columns[at - 1].length <= pixels:
            at -= 1
        grid = Grid(rows, columns[at], margin)
        if rows.length * columns[at].length <= pixels and (not best or grid.pixels < best.pixels):
            best = grid
    return best


def _axes(side: int, margin: int) -> Iterator[Axis]:
    """Yields the ways to cut a side into one tile, two tiles, and so on."""
    yield Axis(side, 1, side, margin)
    overlap = 2 * margin + RAMP
    for number in count(2):
        step = _aligned(-(-(side - overlap) // number))
        if step < _SMALLEST_STEP:
            return
        # The last tile ends at the border, so that the network sees the real border.
        length = step + overlap + (side - step - overlap) % ALIGNMENT
        yield Axis(side, number, length, margin)


def _aligned(length: int) -> int:
    """Rounds up to a multiple of all strides."""
    return -(-length // ALIGNMENT) * ALIGNMENT


def parts(engine: Engine, picture: Windows, grid: Grid) -> Iterator[Part]:
    """Yields the logits of a picture part by part, row by row of the grid.

    Until the last part, the engine sees no other picture.

    If the margin is the engine's reach, the logits are those of the whole picture.

    Args:
        engine: The engine that sees the tiles.
        picture: A picture of any size.
        grid: The grid from `plan` for this picture.

    Raises:
        AtrousError: The picture cannot be read.
    """
    with engine.alone():
        pooled = pooled_features(engine, picture, grid)
        stride, ramp = engine.logits_stride, RAMP // engine.logits_stride
        below: dict[
            int, NDArray[np.float32]
        ] = {}  # by column: first logits of the next row's parts
        for top, rows in _owned(grid.rows):
            right = None  # first logits of the next column's part
            for left, columns in _owned(grid.columns):
                window = picture.read(top, left, grid.rows.length, grid.columns.length)
                logits = engine.tile_logits(window, pooled)
                height, width = (-(-(own.stop - own.start) // stride) for own in (rows, columns))
                logits = logits[rows.start // stride :, columns.start // stride :]
                logits = logits[: height + ramp, : width + ramp]
                if right is not None:
                    _mix(right, logits[:, :ramp], axis=1)
                right = logits[:, width:].copy()
                logits = logits[:, : width + 1]
                if left in below:
                    _mix(below[left], logits[:ramp], axis=0)
                below[left] = logits[height:].copy()
                place = top + rows.start, left + columns.start
                yield Part(*place, window[rows, columns], logits[: height + 1])


def pooled_features(engine: Engine, picture: Windows, grid: Grid) -> NDArray[np.float32] | None:
    """Returns the mean of the backbone's features over a whole picture, (C,).

    Returns None for networks without image pooling.
    """
    total: Any = 0.0
    stride = engine.output_stride
    for top, rows in _owned(grid.rows):
        for left, columns in _owned(grid.columns):
            window = picture.read(top, left, grid.rows.length, grid.columns.length)
            features = engine.high_level(window)
            if features is None:
                return None
            own = (slice(own.start // stride, -(-own.stop // stride)) for own in (rows, columns))
            total = total + features[tuple(own)].sum((0, 1), dtype=np.float64)
    height, width = (-(-side // stride) for side in picture.size)
    mean: NDArray[np.float32] = (total / (height * width)).astype(np.float32)
    return mean


def _owned(axis: Axis) -> Iterator[tuple[int, slice]]:
    """Yields the start of each tile, and the slice of the tile that is part of the result."""
    for start, (first, last) in zip(axis.starts, pairwise(axis.cuts), strict=True):
        yield start, slice(first - start, last - start)


def _mix(before: NDArray[np.float32], after: NDArray[np.float32], *, axis: int) -> None:
    """Blends linearly from `before` to `after` along an axis; writes into `after`."""
    count = before.shape[axis]
    weight = (np.arange(count) / count).astype(np.float32)
    weight = weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    after -= before
    after *= weight
    after += before
