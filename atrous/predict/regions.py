"""Label maps as polygons: the outlines of connected regions, exact to the pixel.

Corners lie between pixels: pixel (row, column) is the square from (column, row) to (column + 1,
row + 1). Pixels that touch only at a corner are not connected. COCO's polygons have no holes, so a
hole is joined to the outline around it by a cut without width.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]  # (x, y)
Ring = list[Point]
Polygon = NDArray[np.number]  # (n, 2) corners (x, y)

_TURNS = {  # direction -> the directions to try next: right, straight on, left
    (1, 0): ((0, 1), (1, 0), (0, -1)),
    (0, 1): ((-1, 0), (0, 1), (1, 0)),
    (-1, 0): ((0, -1), (-1, 0), (0, 1)),
    (0, -1): ((1, 0), (0, -1), (-1, 0)),
}


def boxed(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], tuple[int, int, int, int]]:
    """Returns a mask, somewhere true, within its box, and the box: left, top, right, bottom."""
    rows, columns = (np.flatnonzero(mask.any(axis)).tolist() for axis in (1, 0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return mask[top:bottom, left:right], (left, top, right, bottom)


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """Returns a closed polygon (n, 2) of corners (x, y) for each connected region of a mask.

    The region lies to the right of its outline (clockwise on the screen).

    >>> outlines(np.array([[0, 1, 1], [0, 1, 0]], bool))[0].tolist()
    [[1, 0], [3, 0], [3, 1], [2, 1], [2, 2], [1, 2]]
    """
    rings = list(_rings(mask))
    owner = {  # the edge along each pixel's left side -> its ring
        start: index
        for index, ring in enumerate(rings)
        for start, end in zip(ring, ring[1:] + ring[:1], strict=True)
        if end[1] < start[1]
    }
    outer = {index: ring for index, ring in enumerate(rings) if _encloses(ring)}
    holes = [index for index in range(len(rings)) if index not in outer]
    merged = {index: index for index in outer}  # ring -> the outline it is part of
    for index in sorted(holes, key=lambda i: min(rings[i])):
        corner = min(rings[index])  # leftmost, then topmost: the pixel to its left is the region's
        x, y = corner
        while (x, y + 1) not in owner or owner[(x, y + 1)] == index:
            x -= 1
        target = merged[owner[(x, y + 1)]]
        merged[index] = target
        outer[target] = _joined(outer[target], (x, y), rings[index], corner)
    return [_corners(ring) for ring in outer.values()]


def _rings(mask: NDArray[np.bool_]) -> Iterator[Ring]:
    """Yields every closed border as a list of lattice points, one pixel apart."""
    padded = np.pad(mask, 1)
    here = padded[1:, 1:]
    above, left = padded[:-1, 1:], padded[1:, :-1]
    ways: dict[Point, list[Point]] = {}
    for found, offset, step in (
        (here & ~above, (0, 0), (1, 0)),  # along the top, to the right
        (above & ~here, (1, 0), (-1, 0)),  # along the bottom, to the left
        (here & ~left, (0, 1), (0, -1)),  # along the left, upwards
        (left & ~here, (0, 0), (0, 1)),  # along the right, downwards
    ):
        for y, x in np.argwhere(found).tolist():
            ways.setdefault((x + offset[0], y + offset[1]), []).append(step)
    while ways:
        start = next(iter(ways))
        point, step = start, ways[start][0]
        ring: Ring = []
        while True:
            steps = ways[point]
            step = next(s for s in _TURNS[step] if s in steps) if ring else step
            steps.remove(step)
            if not steps:
                del ways[point]
            ring.append(point)
            point = (point[0] + step[0], point[1] + step[1])
            if point == start and not _goes_on(ways, point, step):
                break
        yield ring


def _goes_on(ways: dict[Point, list[Point]], point: Point, step: Point) -> bool:
    """Returns whether a border that is back at its start goes on around the same pixel."""
    return _TURNS[step][0] in ways.get(point, ())


def _encloses(ring: Ring) -> bool:
    """Returns whether a ring is the outline of a region; otherwise it is that of a hole."""
    return _twice_the_area(np.array(ring)) > 0


def _joined(outline: Ring, at: Point, hole: Ring, corner: Point) -> Ring:
    """Returns the outline with a cut from one of its points to a hole, around it, and back."""
    i, j = outline.index(at), hole.index(corner)
    around = hole[j:] + hole[:j] + [corner]
    return [*outline[: i + 1], *around, *outline[i:]]


def _corners(ring: Ring) -> NDArray[np.int32]:
    """Returns the points of a ring where it turns."""
    points = np.array(ring, np.int32)
    into, out = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns = (np.sign(into) != np.sign(out)).any(axis=1)
    return points[turns]


def simplified(ring: NDArray[np.int32], tolerance: float) -> Polygon:
    """Returns a closed polygon with fewer corners, all of them corners of `ring`.

    No corner of `ring` is farther than `tolerance` from the result (Douglas and Peucker, 1973).

    Args:
        ring: (n, 2) corners (x, y).
        tolerance: In pixels; 0 returns the ring as it is.
    """
    if tolerance <= 0 or len(ring) < 4:
        return ring
    far = int(((ring - ring[0]) ** 2).sum(1).argmax())
    closed = np.vstack([ring, ring[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, far]] = True
    parts = [(0, far), (far, len(ring))]
    while parts:
        first, last = parts.pop()
        if last - first < 2:
            continue
        distances = _distances(closed[first + 1 : last], closed[first], closed[last])
        farthest = int(distances.argmax())
        if distances[farthest] > tolerance:
            middle = first + 1 + farthest
            keep[middle] = True
            parts += [(first, middle), (middle, last)]
    return ring[keep[:-1]]


def _distances(points: NDArray[Any], start: NDArray[Any], end: NDArray[Any]) -> NDArray[Any]:
    """Returns the distances of points (n, 2) to the line segment from `start` to `end`."""
    along = (end - start).astype(np.float64)
    length = float(along @ along)
    offsets = (points - start).astype(np.float64)
    share = np.clip(offsets @ along / length, 0, 1) if length else np.zeros(len(points))
    distances: NDArray[Any] = np.hypot(*(offsets - share[:, None] * along).T)
    return distances


def coco_annotation(ring: Polygon, area: int, **ids: int) -> dict[str, Any]:
    """Returns a region as an entry of COCO's ``annotations``; `area` in pixels."""
    low, high = ring.min(axis=0), ring.max(axis=0)
    return {
        **ids,
        "segmentation": [ring.ravel().tolist()],
        "area": area,
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "iscrowd": 0,
    }


def polygon_area(ring: NDArray[np.int32]) -> int:
    """Returns the pixels inside. Holes are wound the other way, so they do not count."""
    return abs(_twice_the_area(ring)) // 2


def _twice_the_area(ring: NDArray[Any]) -> int:
    """Returns twice the area inside; negative for a ring that is wound the other way."""
    x, y = ring.astype(np.int64).T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
