"""Targets from shapes: polygons and small masks, checked and painted one over the other.

Polygons are filled as pycocotools fills them, bit for bit, whatever format they come from: the
outline is walked on a grid five times finer than the pixels, and a pixel is inside where the
number of crossings above it is odd (the even-odd rule, which is also that of self-crossing ones).
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.data.dataset import Target
from atrous.errors import AtrousError, ExitCode

Points = NDArray[np.float64]  # (N, 2) x and y in pixels, from the picture's upper left corner

_FINER = 5  # grid steps a pixel
_TOLERANCE = 0.01  # of a side, by which a point may lie outside of the picture
_STEPS_AT_ONCE = 1 << 20  # of the outline held in memory
_EDGES_AT_ONCE = 256  # compared with all others


class Region(NamedTuple):
    """A binary mask placed in a picture."""

    top: int
    left: int
    inside: NDArray[np.bool_]  # (h, w)


class Shape(NamedTuple):
    """One annotated object: the union of its outlines, or a region drawn elsewhere."""

    value: int  # what it paints into the target
    outlines: tuple[Points, ...]
    region: Region | None = None
    where: str = ""  # names the shape in messages: "shape 3 'car'"


def paint(
    shapes: Sequence[Shape],
    target: Target,
    *,
    order: Literal["given", "area"],
    where: object,
) -> Target:
    """Paints shapes into a target (H, W), in place: later ones, or smaller ones, lie on top.

    Raises:
        AtrousError: A shape that cannot be drawn; says which.
    """
    drawn = [(shape.value, _region(shape, target.shape, where)) for shape in shapes]
    if order == "area":
        drawn.sort(key=lambda pair: -int(pair[1].inside.sum()))
    for value, (top, left, inside) in drawn:
        height, width = inside.shape
        target[top : top + height, left : left + width][inside] = value
    return target


def _region(shape: Shape, size: tuple[int, ...], where: object) -> Region:
    """Returns where a shape is: the union of its parts."""
    parts = list(_parts(shape, size, where))
    if len(parts) == 1:
        return parts[0]
    top = min((part.top for part in parts), default=0)
    left = min((part.left for part in parts), default=0)
    bottom = max((part.top + part.inside.shape[0] for part in parts), default=0)
    right = max((part.left + part.inside.shape[1] for part in parts), default=0)
    union = np.zeros((bottom - top, right - left), dtype=np.bool_)
    for part in parts:
        rows = slice(part.top - top, part.top - top + part.inside.shape[0])
        columns = slice(part.left - left, part.left - left + part.inside.shape[1])
        union[rows, columns] |= part.inside
    return Region(top, left, union)


def _parts(shape: Shape, size: tuple[int, ...], where: object) -> Iterator[Region]:
    height, width = size
    if shape.region is not None:
        top, left, inside = shape.region
        if top < 0 or left < 0 or top + inside.shape[0] > height or left + inside.shape[1] > width:
            raise _bad_shape("lies outside of the picture", shape, where)
        yield shape.region
    for outline in shape.outlines:
        if problem := outline_problem(outline, (height, width)):
            raise _bad_shape(problem, shape, where)
        yield fill(outline, (height, width))


def outline_problem(outline: Points, size: tuple[int, int]) -> str:
    """Returns why an outline cannot be drawn in a picture of (height, width); empty if it can."""
    if len(outline) < 3:
        return f"has {len(outline)} points, and a polygon needs 3"
    if not np.isfinite(outline).all():
        return "has a coordinate that is not a number"
    limit = np.array([size[1], size[0]], dtype=np.float64)  # width, height
    outside = np.maximum(-outline, outline - limit) > limit * _TOLERANCE
    if outside.any():
        x, y = outline[outside.any(axis=1)][0]
        return f"has the point ({x:g}, {y:g}), outside of the {size[1]}x{size[0]} picture"
    return ""


def _bad_shape(problem: str, shape: Shape, where: object) -> AtrousError:
    return AtrousError(
        "E-SHAPE",
        f"{shape.where} {problem}",
        where=where,
        fix="correct or delete the shape in the annotation tool",
        exit_code=ExitCode.DATA,
    )


def fill(outline: Points, size: tuple[int, int]) -> Region:
    """Returns the pixels inside an outline, cut at the borders of a picture of (height, width)."""
    height = size[0]
    corners = (_FINER * outline + 0.5).astype(np.int64)
    crossings = [_crossings(edges, size) for edges in _batches(corners)]
    columns = np.concatenate([columns for columns, _ in crossings])
    rows = np.concatenate([rows for _, rows in crossings])
    if not columns.size:
        return Region(0, 0, np.zeros((0, 0), dtype=np.bool_))
    left = int(columns.min())
    count = int(columns.max()) - left + 1
    top = min(int(rows.min()), height - 1)
    span = height - top + 1  # one more: a crossing below the last row
    toggles = np.bincount((columns - left) * span + rows - top, minlength=count * span)
    odd = np.cumsum(toggles.reshape(count, span), axis=1)[:, :-1] % 2 == 1
    return Region(top, left, odd.T)


def _batches(corners: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yields the closed outline's edges (M, 4), start and end, few enough to walk at once."""
    edges = np.hstack([corners, np.roll(corners, -1, axis=0)])
    edges = edges[(edges[:, :2] != edges[:, 2:]).any(axis=1)]
    steps = np.abs(edges[:, 2:] - edges[:, :2]).max(axis=1, initial=0)
    batch = np.cumsum(steps) // _STEPS_AT_ONCE
    for number in np.unique(batch):
        yield edges[batch == number]
    if not len(edges):
        yield edges


def _crossings(
    edges: NDArray[np.int64], size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns column and row of the pixels at which a walk along edges crosses pixel centres."""
    height, width = size
    steps = np.abs(edges[:, 2:] - edges[:, :2])  # (M, 2)
    flat = steps[:, 0] >= steps[:, 1]  # walked along x, else along y
    length = steps.max(axis=1, initial=0)
    major = np.where(flat, 0, 1)
    row = np.arange(len(edges))
    backwards = edges[row, major] > edges[row, major + 2]
    start = np.where(backwards[:, None], edges[:, 2:], edges[:, :2])
    end = np.where(backwards[:, None], edges[:, :2], edges[:, 2:])
    minor = 1 - major
    slope = (end[row, minor] - start[row, minor]) / np.maximum(length, 1)

    edge = np.repeat(row, length + 1)
    step = np.arange(edge.size) - np.repeat(np.cumsum(length + 1) - length - 1, length + 1)
    step = np.where(backwards[edge], length[edge] - step, step)
    along = start[row, major][edge] + step
    across = (start[row, minor][edge] + slope[edge] * step + 0.5).astype(np.int64)
    x = np.where(flat[edge], along, across)
    y = np.where(flat[edge], across, along)

    moved = (x[1:] != x[:-1]) & (edge[1:] == edge[:-1])
    column = (np.minimum(x[1:], x[:-1])[moved] + 0.5) / _FINER - 0.5
    upper = (np.minimum(y[1:], y[:-1])[moved] + 0.5) / _FINER - 0.5
    centred = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    rows = np.ceil(np.clip(upper[centred], 0, height))
    return column[centred].astype(np.int64), rows.astype(np.int64)


def crosses_itself(outline: Points) -> bool:
    """Whether two edges of a closed outline properly cross."""
    start, end = outline, np.roll(outline, -1, axis=0)
    for first in range(0, len(outline), _EDGES_AT_ONCE):
        one = slice(first, first + _EDGES_AT_ONCE)
        here = _side(start[one, None], end[one, None], start[None])  # (one, N)
        here *= _side(start[one, None], end[one, None], end[None])
        there = _side(start[None], end[None], start[one, None])
        there *= _side(start[None], end[None], end[one, None])
        if ((here < 0) & (there < 0)).any():  # each has its ends on both sides of the other
            return True
    return False


def _side(start: Points, end: Points, point: Points) -> Points:
    along, to_point = end - start, point - start
    return np.sign(along[..., 0] * to_point[..., 1] - along[..., 1] * to_point[..., 0])
