from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.data.masks.shapes import Region, Shape, clipped, crosses_itself, fill, paint
from atrous.errors import AtrousError
from tests import reference

HERE = Path("somewhere.json")


def filled(outline: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    top, left, inside = fill([outline], size)
    mask = np.zeros(size, np.bool_)
    mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return mask


coordinates = st.one_of(
    st.floats(-20, 80, allow_nan=False), st.integers(-20, 80), st.sampled_from([0, 0.5, 30, 60])
)
outlines = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=12)


@given(outlines, st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_filling_equals_a_ray_from_every_pixel(
    outline: list[tuple[float, float]], h: int, w: int
) -> None:
    points = np.array(outline, np.float64)
    mask = filled(points, (h, w))
    for row, column in np.ndindex(h, w):
        x, y = column + 0.5, row + 0.5
        # Closer to the outline, rounding to a fifth of a pixel may decide.
        if reference.distance_to_outline(points, x, y) > 0.3:
            assert mask[row, column] == reference.is_inside(points, x, y)


@given(outlines, st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_clipping_leaves_the_part_within_the_picture(
    outline: list[tuple[float, float]], h: int, w: int
) -> None:
    points = np.array(outline, np.float64)
    rest = clipped(points, (h, w))
    assert (rest >= 0).all()
    assert (rest <= (w, h)).all()
    mask = filled(rest, (h, w)) if len(rest) else np.zeros((h, w), np.bool_)
    for row, column in np.ndindex(h, w):
        x, y = column + 0.5, row + 0.5
        if reference.distance_to_outline(points, x, y) > 0.3:
            assert mask[row, column] == reference.is_inside(points, x, y)


def test_rectangle_covers_the_pixels_whose_centres_it_holds() -> None:
    mask = filled(np.array([(2, 1), (5, 1), (5, 4), (2, 4)], np.float64), (6, 8))
    expected = np.zeros((6, 8), np.bool_)
    expected[1:4, 2:5] = True
    np.testing.assert_array_equal(mask, expected)


def square(left: float, top: float, side: float, value: int, name: str = "shape") -> Shape:
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float64) * side + (left, top)
    return Shape(value, (corners,), where=name)


def test_later_shapes_lie_on_top_or_smaller_ones() -> None:
    small, large = square(2, 2, 2, 1), square(0, 0, 6, 2)
    given_order = paint([small, large], np.zeros((8, 8), np.uint8), order="given", where=HERE)
    assert given_order[3, 3] == 2
    by_area = paint([small, large], np.zeros((8, 8), np.uint8), order="area", where=HERE)
    assert by_area[3, 3] == 1
    assert by_area[0, 0] == 2


def test_area_is_that_of_all_parts_together() -> None:
    parts = Shape(1, (*square(0, 0, 3, 1).outlines, *square(3, 3, 3, 1).outlines))  # 18 pixels
    middle = square(1, 1, 4, 2)  # 16 pixels
    target = paint([middle, parts], np.zeros((8, 8), np.uint8), order="area", where=HERE)
    assert target[2, 2] == 2


def test_region_is_painted_in_its_place() -> None:
    inside = np.array([[True, False], [True, True]])
    target = np.zeros((4, 4), np.uint8)
    paint([Shape(7, (), Region(1, 2, inside))], target, order="given", where=HERE)
    expected = np.zeros((4, 4), np.uint8)
    expected[1:3, 2:4][inside] = 7
    np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize(
    "outline",
    [
        [(1, 1), (5, 5)],
        [(1, 1), (5, float("nan")), (3, 3)],
        [(1, 1), (5, float("inf")), (3, 3)],
        [(1, 1), (150, 5), (3, 3)],
        [(1, 1), (5, 52), (3, 3)],
        [(-2, 1), (5, 5), (3, 3)],
    ],
)
def test_D19_impossible_outline_names_file_and_shape(
    outline: list[tuple[float, float]],
) -> None:
    shape = Shape(1, (np.array(outline, np.float64),), where="shape 3 'car'")
    with pytest.raises(AtrousError, match="E-SHAPE") as caught:
        paint([shape], np.zeros((50, 100), np.uint8), order="given", where=HERE)
    assert "shape 3 'car'" in caught.value.what
    assert caught.value.where == str(HERE)


def test_D19_points_just_outside_are_clipped() -> None:
    shape = square(-0.9, -0.4, 200, 1)  # within 1 % of 100 and 50 at the left and top
    shape = shape._replace(outlines=(np.clip(shape.outlines[0], -2, [100.9, 50.4]),))
    target = paint([shape], np.zeros((50, 100), np.uint8), order="given", where=HERE)
    assert target.all()


def test_D19_region_beyond_the_picture_is_refused() -> None:
    shape = Shape(1, (), Region(3, 3, np.ones((2, 2), np.bool_)), "mask 1")
    with pytest.raises(AtrousError, match=r"mask 1.*E-SHAPE"):
        paint([shape], np.zeros((4, 4), np.uint8), order="given", where=HERE)


def test_D19_self_crossing_outlines_are_found() -> None:
    bow_tie = np.array([(0, 0), (4, 4), (4, 0), (0, 4)], np.float64)
    assert crosses_itself(bow_tie)
    assert not crosses_itself(np.array([(0, 0), (4, 0), (4, 4), (0, 4)], np.float64))
    touching = np.array([(0, 0), (4, 0), (2, 2), (4, 4), (0, 4), (2, 2)], np.float64)
    assert not crosses_itself(touching)


@given(outlines)
def test_self_crossing_equals_a_naive_loop(outline: list[tuple[float, float]]) -> None:
    points = [(float(x), float(y)) for x, y in outline]
    edges = [(points[i], points[(i + 1) % len(points)]) for i in range(len(points))]

    def side(a, b, p) -> float:  # type: ignore[no-untyped-def]
        value = (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])
        return (value > 0) - (value < 0)

    def cross(one, other) -> bool:  # type: ignore[no-untyped-def]
        (a, b), (c, d) = one, other
        return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0

    expected = any(cross(one, other) for one in edges for other in edges)
    assert crosses_itself(np.array(points)) == expected
