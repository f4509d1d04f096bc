"""Boundary measures against SciPy's dilations, the definition of Boundary IoU, and naive loops."""

import numpy as np
import pytest
import scipy.ndimage

from atrous.evaluation import boundary, metrics
from atrous.evaluation.boundary import MAX_WIDTH, Boundaries

DISK = {w: np.hypot(*np.mgrid[-w : w + 1, -w : w + 1]) <= w for w in (*range(8), 13, 39, MAX_WIDTH)}


def maps(seed: int, *, void: bool, shape: tuple[int, int] = (70, 90), k: int = 4):
    """Blobs, the true ones with an unlabelled line between them, and displaced predictions."""
    rng = np.random.default_rng(seed)
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=(k, *shape)), (0, 8, 8))
    target = smooth.argmax(0).astype(np.uint8)
    labels = np.roll(target, (2, -3), (0, 1))
    labels[rng.random(shape) < 0.01] = rng.integers(k)
    if void:
        target[boundary.contours(target)] = 255
    return target, labels


@pytest.mark.parametrize("radius", [1, 5, 40])
@pytest.mark.parametrize("density", [0.0, 0.001, 0.05, 1.0])
def test_squared_distance_matches_scipy(radius, density):
    mask = np.random.default_rng(0).random((41, 77)) < density
    if density == 0.001:
        mask[20, 30] = True
    found = boundary.squared_distance(mask, radius)
    if density == 0:
        assert (found > radius**2).all()
        return
    expected = np.rint(scipy.ndimage.distance_transform_edt(~mask) ** 2)
    near = expected <= radius**2
    np.testing.assert_array_equal(found[near], expected[near])
    assert (found[~near] > radius**2).all()


@pytest.mark.parametrize("width", [1, 2, 7, 13, MAX_WIDTH])
def test_trimap_is_the_dilated_void_without_the_void(width):
    target, labels = maps(1, void=True)
    void = target == 255
    band = scipy.ndimage.binary_dilation(void, DISK[width]) & ~void
    counts = metrics.confusion_matrix(np.where(band, target, 255), labels, 4)
    boundaries = Boundaries(4, 255)
    boundaries.update(target, labels)
    assert boundaries.trimap()[width] == pytest.approx(metrics.mean_iou(counts), abs=1e-12)
    assert boundaries.pictures == {"void": 1, "borders": 0}


@pytest.mark.parametrize("width", [1, 2, 7, MAX_WIDTH])
def test_trimap_without_void_is_the_dilated_class_borders(width):
    target, labels = maps(2, void=False)
    band = scipy.ndimage.binary_dilation(boundary.contours(target), DISK[width - 1])
    counts = metrics.confusion_matrix(np.where(band, target, 255), labels, 4)
    boundaries = Boundaries(4, 255)
    boundaries.update(target, labels)
    assert boundaries.trimap()[width] == pytest.approx(metrics.mean_iou(counts), abs=1e-12)
    assert boundaries.pictures == {"void": 0, "borders": 1}


def test_trimap_adds_counts_of_pictures_before_dividing():
    pairs = [maps(seed, void=True) for seed in (3, 4)]
    boundaries = Boundaries(4, 255)
    total = np.zeros((4, 4), np.int64)
    for target, labels in pairs:
        boundaries.update(target, labels)
        band = scipy.ndimage.binary_dilation(target == 255, DISK[5])
        total += metrics.confusion_matrix(np.where(band, target, 255), labels, 4)
    assert boundaries.trimap()[5] == pytest.approx(metrics.mean_iou(total), abs=1e-12)


def test_picture_of_one_class_has_no_band():
    boundaries = Boundaries(2, 255)
    boundaries.update(np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8))
    assert set(boundaries.trimap().values()) == {None}
    assert list(boundaries.trimap()) == list(range(1, MAX_WIDTH + 1))


@pytest.mark.parametrize("shape", [(70, 90), (5, 200), (1, 1)])
def test_boundary_iou_is_that_of_its_authors(shape):
    """Their rule for one mask: what `distance` 3x3 erosions of the zero-padded mask remove."""
    target, labels = maps(5, void=False, shape=shape)
    distance = max(1, round(0.02 * np.hypot(*shape)))

    def ring(mask):
        eroded = np.pad(mask, 1)
        for _ in range(distance):
            eroded = scipy.ndimage.binary_erosion(eroded, np.ones((3, 3)))
        return mask & ~eroded[1:-1, 1:-1]

    boundaries = Boundaries(4, 255)
    boundaries.update(target, labels)
    for index, found in enumerate(boundaries.boundary_iou()):
        true, predicted = ring(target == index), ring(labels == index)
        union = (true | predicted).sum()
        expected = (true & predicted).sum() / union if union else np.nan
        assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("void", [False, True])
def test_boundary_f_matches_naive_matching(void):
    target, labels = maps(6, void=void, shape=(160, 200))
    radius = 0.0075 * np.hypot(*target.shape)
    labels_seen = np.where(target == 255, 255, labels)
    boundaries = Boundaries(4, 255)
    boundaries.update(target, labels)
    for index, found in enumerate(boundaries.boundary_f()):
        true = boundary.contours(target) & (target == index)
        predicted = boundary.contours(labels_seen) & (labels_seen == index)
        recall = (scipy.ndimage.distance_transform_edt(~predicted)[true] <= radius).mean()
        precision = (scipy.ndimage.distance_transform_edt(~true)[predicted] <= radius).mean()
        assert found == pytest.approx(2 * precision * recall / (precision + recall))
        assert 0 < found < 1


@pytest.mark.parametrize("void", [False, True])
def test_perfect_prediction_scores_one(void):
    target, _ = maps(7, void=void)
    clean, _ = maps(7, void=False)
    boundaries = Boundaries(5, 255)
    boundaries.update(target, clean)
    np.testing.assert_array_equal(boundaries.boundary_iou()[:4], np.ones(4))
    np.testing.assert_array_equal(boundaries.boundary_f()[:4], np.ones(4))
    assert np.isnan(boundaries.boundary_iou()[4])
    assert np.isnan(boundaries.boundary_f()[4])
    assert boundaries.trimap()[1] == 1


def test_missed_class_has_zero_boundary_scores():
    target = np.zeros((20, 20), np.uint8)
    target[5:15, 5:15] = 1
    boundaries = Boundaries(2, 255)
    boundaries.update(target, np.zeros_like(target))
    assert boundaries.boundary_iou()[1] == 0
    assert boundaries.boundary_f()[1] == 0


def test_contour_of_another_class_does_not_match():
    target = np.zeros((40, 40), np.uint8)
    target[10:30, 10:30] = 1
    labels = np.where(target == 1, 2, 0).astype(np.uint8)
    boundaries = Boundaries(3, 255)
    boundaries.update(target, labels)
    np.testing.assert_array_equal(boundaries.boundary_f(), [1, 0, 0])
