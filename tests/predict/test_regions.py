"""Polygons hold exactly the pixels of their regions: COCO's own tool paints them back."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from atrous.predict.regions import coco_annotation, outlines, polygon_area

# pycocotools' own warning
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def painted(ring, size):
    runs = coco_mask.frPyObjects([ring.ravel().astype(float).tolist()], *size)
    return coco_mask.decode(runs)[..., 0].astype(bool)


def regions(mask):
    """Counts 4-connected regions, the slow way."""
    left, count = mask.copy(), 0
    while left.any():
        count += 1
        front = [tuple(np.argwhere(left)[0])]
        while front:
            y, x = front.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and left[y, x]:
                left[y, x] = False
                front += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return count


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_polygons_painted_by_cocos_tool_are_the_mask(share):
    random = np.random.default_rng(round(10 * share))
    for _ in range(25):
        mask = random.random(random.integers(1, 25, 2)) < share
        found = [painted(ring, mask.shape) for ring in outlines(mask)]
        assert len(found) == regions(mask)
        assert np.array_equal(np.sum(found, axis=0, initial=0), mask)  # and no pixel twice
        assert [p.sum() for p in found] == [polygon_area(ring) for ring in outlines(mask)]


def test_a_hole_in_a_hole_in_a_hole():
    mask = np.zeros((13, 13), bool)
    for inset in range(6):
        mask[inset : 13 - inset, inset : 13 - inset] = inset % 2 == 0
    found = outlines(mask)
    assert len(found) == 3
    assert np.array_equal(np.sum([painted(r, mask.shape) for r in found], axis=0), mask)


def test_straight_lines_have_no_points_between():
    assert outlines(np.ones((3, 5), bool))[0].tolist() == [[0, 0], [5, 0], [5, 3], [0, 3]]
    assert outlines(np.zeros((3, 5), bool)) == []


def test_an_annotation_has_its_box_and_area():
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    mask[2, 4] = False
    (ring,) = outlines(mask)
    entry = coco_annotation(ring, polygon_area(ring), id=1, image_id=2, category_id=3)
    assert entry["bbox"] == [2, 1, 5, 3]
    assert entry["area"] == 14
    assert (entry["id"], entry["image_id"], entry["category_id"]) == (1, 2, 3)
