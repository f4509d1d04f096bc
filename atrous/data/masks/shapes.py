"""Targets from shapes: polygons and small masks, checked and painted in order.

pycocotools fills the polygons of every format, by the even-odd rule: a pixel is inside where the
number of edges above it is odd. The rule also holds for outlines that cross themselves.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.data.dataset import Target
from atrous.errors import AtrousError, DataError, needing
from atrous.predict.rle import decode_runs, unpack_counts

Points = NDArray[np.float64]  # (N, 2) x and y in pixels, from the picture's upper left corner

_ELLIPSE_CORNERS = 64
_TOLERANCE = 0.01  # share of a side by which a point may lie outside of the picture
_EDGES_AT_ONCE = 256  # compared with all others


class Region(NamedTuple):
    """A binary mask placed in a picture."""

    top: int
    left: int
    inside: NDArray[np.bool_]  # (h, w)


class Shape(NamedTuple):
    """One annotated object: the union of its outlines, or a binary mask."""

    value: int  # written into the target
    outlines: tuple[Points, ...]
    region: Region | None = None
    where: str = ""  # names the shape in messages: "shape 3 'car'"
    clip: bool = False  # whether the tool lets shapes cross the border of the picture


def rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    """Returns the corners of an upright rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def ellipse(center: Any, radii: Any) -> Points:
    """Returns an ellipse, with its center (x, y) and its horizontal and vertical radius."""
    angles = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
    outline: Points = center + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return outline


def paint(
    shapes: Sequence[Shape],
    target: Target,
    *,
    order: Literal["given", "area"],
    where: object,
) -> Target:
    """Paints shapes into a target (H, W), in place. Later or smaller shapes lie on top.

    Raises:
        AtrousError: A shape cannot be drawn. The message names the shape.
    """
    size = (target.shape[0], target.shape[1])
    drawn = [(shape.value, _drawn(shape, size, where)) for shape in shapes]
    if order == "area":
        drawn.sort(key=lambda pair: -int(pair[1].inside.sum()))
    for value, (top, left, inside) in drawn:
        height, width = inside.shape
        target[top : top + height, left : left + width][inside] = value
    return target


def _drawn(shape: Shape, size: tuple[int, int], where: object) -> Region:
    """Returns the pixels of a shape within a picture of (height, width)."""
    outlines = list(shape.outlines)
    for i, outline in enumerate(outlines):
        problem = outline_problem(outline, None if shape.clip else size)
        if problem:
            raise _bad_shape(problem, shape, where)
        if shape.clip and outline_problem(outline, size):
            outlines[i] = clipped(outline, size)
    outlines = [outline for outline in outlines if len(outline)]
    if shape.region is not None:
        region = _cut(shape.region, size)
        if region.inside.shape != shape.region.inside.shape and not shape.clip:
            raise _bad_shape("lies outside of the picture", shape, where)
    else:
        region = fill(outlines, size) if outlines else Region(0, 0, np.zeros((0, 0), np.bool_))
    if shape.clip and not region.inside.size:
        raise _bad_shape("lies entirely outside of the picture", shape, where)
    return region


def _cut(region: Region, size: tuple[int, int]) -> Region:
    """Returns the part of a region that lies in a picture of (height, width)."""
    top, left, inside = region
    above, before = max(0, -top), max(0, -left)
    rest = inside[above : max(0, size[0] - top), before : max(0, size[1] - left)]
    return Region(top + above, left + before, rest)


def outline_problem(outline: Points, size: tuple[int, int] | None) -> str:
    """Returns why an outline cannot be drawn, or "".

    Args:
        outline: Its points.
        size: (height, width) of the picture its points must lie in; None if they need not.
    """
    if len(outline) < 3:
        return f"has {len(outline)} points, and a polygon needs 3"
    if not np.isfinite(outline).all():
        return "has a coordinate that is not a number"
    if size is None:
        return ""
    limit = np.array([size[1], size[0]], dtype=np.float64)  # width, height
    outside = np.maximum(-outline, outline - limit) > limit * _TOLERANCE
    if outside.any():
        x, y = outline[outside.any(axis=1)][0]
        return f"has the point ({x:g}, {y:g}), outside of the {size[1]}x{size[0]} picture"
    return ""


def _bad_shape(problem: str, shape: Shape, where: object) -> AtrousError:
    return DataError(
        "E-SHAPE",
        f"{shape.where} {problem}",
        where=where,
        fix="correct the shape in the annotation tool",
    )


def fill(outlines: Sequence[Points], size: tuple[int, int]) -> Region:
    """Returns the pixels inside any of some outlines, cut at the borders of a picture.

    Args:
        outlines: At least three points each, in or close to the picture (`outline_problem`).
        size: (height, width) of the picture.
    """
    with needing("drawing polygons", "data"):
        from pycocotools import mask as mask_api
    height, width = size
    parts = mask_api.frPyObjects([outline.ravel() for outline in outlines], height, width)
    counts = unpack_counts(mask_api.merge(parts)["counts"])
    # Runs walk down the columns. Only the columns between the first and the last pixel are made.
    left = counts[0] // height
    counts[0] -= left * height
    beyond = counts[-1] // height if len(counts) % 2 else 0
    counts[-1] -= beyond * height
    columns = width - left - beyond
    return Region(0, left, decode_runs(counts, columns * height).reshape(columns, height).T)


def clipped(outline: Points, size: tuple[int, int]) -> Points:
    """Returns an outline cut at the borders of a picture (Sutherland and Hodgman, 1974).

    pycocotools walks every pixel of an outline, also far away from the picture. Clipping first
    bounds its time and memory.

    Args:
        outline: Its points (N, 2).
        size: (height, width) of the picture.

    Returns:
        The points of the part within the picture, (M, 2); M is 0 if there is none.
    """
    for axis, sign, limit in ((0, 1, 0.0), (1, 1, 0.0), (0, -1, -size[1]), (1, -1, -size[0])):
        if not len(outline):
            break
        depth = sign * outline[:, axis] - limit  # above 0 within
        kept = []
        for i in range(len(outline)):
            before, after = depth[i - 1], depth[i]
            if (before < 0) != (after < 0):
                share = before / (before - after)
                kept.append(outline[i - 1] + share * (outline[i] - outline[i - 1]))
            if after >= 0:
                kept.append(outline[i])
        outline = np.array(kept).reshape(-1, 2)
    return np.clip(outline, 0, (size[1], size[0]))  # a crossing may round beyond the border


def crosses_itself(outline: Points) -> bool:
    """Returns whether two edges of a closed outline cross."""
    start, end = outline, np.roll(outline, -1, axis=0)
    for first in range(0, len(outline), _EDGES_AT_ONCE):
        one = slice(first, first + _EDGES_AT_ONCE)
        here = _side(start[one, None], end[one, None], start[None])  # (one, N)
        here *= _side(start[one, None], end[one, None], end[None])
        there = _side(start[None], end[None], start[one, None])
        there *= _side(start[None], end[None], end[one, None])
        if ((here < 0) & (there < 0)).any():  # each edge has its ends on both sides of the other
            return True
    return False


def _side(start: Points, end: Points, point: Points) -> Points:
    along, to_point = end - start, point - start
    return np.sign(along[..., 0] * to_point[..., 1] - along[..., 1] * to_point[..., 0])
