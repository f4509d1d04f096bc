import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from atrous.data import Dataset, scenes
from atrous.data.scenes.painting import Canvas
from atrous.data.scenes.scenery import SCENES
from atrous.errors import AtrousError


def test_scenes_are_pictures_with_targets() -> None:
    dataset: Dataset = scenes(3, 4, size=(48, 64))
    for image, target in scenes(3, 4, size=(48, 64)):
        assert (image.shape, image.dtype) == ((48, 64, 3), np.uint8)
        assert (target.shape, target.dtype) == ((48, 64), np.uint8)
        assert target.max() < len(dataset.classes)
    assert len(dataset) == len(set(dataset.names)) == 4
    with pytest.raises(IndexError):
        dataset[4]


def test_scene_depends_on_seed_and_index_alone() -> None:
    few, many = scenes(5, 3), scenes(5, 1000)
    for index in (2, 0):  # in any order
        np.testing.assert_array_equal(few[index].image, many[index].image)
        np.testing.assert_array_equal(few[index].target, many[index].target)
    copy = pickle.loads(pickle.dumps(many))
    np.testing.assert_array_equal(copy[1].image, few[1].image)


def test_seeds_and_indices_give_different_scenes() -> None:
    pictures = [scenes(seed, 3)[index].image.tobytes() for seed in (0, 1) for index in range(3)]
    assert len(set(pictures)) == 6


def test_fingerprint_tells_scenes_apart() -> None:
    sets = scenes(0, 5), scenes(1, 5), scenes(0, 6), scenes(0, 5, size=(64, 64))
    assert len({dataset.fingerprint() for dataset in sets}) == 4
    assert scenes(0, 5).fingerprint() == sets[0].fingerprint()


def test_scenes_stay_what_they_were() -> None:
    # Scores in documents were measured on these pictures; new ones need a new version.
    digest = hashlib.sha256()
    for _, target in scenes(0, 8):
        digest.update(target.tobytes())
    assert digest.hexdigest() == "f1863135178641e4cacca53cdcce28add0f8de36f7ed9cffd3f47302939349e2"


def test_layout_is_the_same_at_every_size() -> None:
    small, large = scenes(0, 3, size=(96, 120)), scenes(0, 3, size=(288, 360))
    for (_, coarse), (_, fine) in zip(small, large, strict=True):
        assert (fine[1::3, 1::3] == coarse).mean() > 0.97


def test_every_class_is_common() -> None:
    counts = np.bincount(
        np.concatenate([target.ravel() for _, target in scenes(0, 60, size=(64, 80))])
    )
    assert len(counts) == len(SCENES.classes)
    assert (counts / counts.sum()).min() > 0.04


def color_codes(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    red, green, blue = (image >> 4).astype(np.int64).transpose(2, 0, 1)
    return (red * 16 + green) * 16 + blue


def mean_iou(confusion: NDArray[np.int64]) -> float:
    hits = np.diag(confusion)
    return float((hits / (confusion.sum(0) + confusion.sum(1) - hits)).mean())


@pytest.fixture(scope="module")
def classes_behind_colors() -> NDArray[np.float64]:
    num_classes = len(SCENES.classes)
    seen = np.zeros((16**3, num_classes))
    for image, target in scenes(100, 100):
        codes = color_codes(image) * num_classes + target
        seen += np.bincount(codes.ravel(), minlength=seen.size).reshape(seen.shape)
    return seen


@pytest.mark.parametrize("balanced", [False, True])
def test_color_alone_does_not_tell_classes_apart(
    classes_behind_colors: NDArray[np.float64], balanced: bool
) -> None:
    # The best any classifier of single colours can do, but for its 16 levels a channel: for each
    # colour the class most often (or, balanced, most likely) behind it, on other seeds.
    seen = classes_behind_colors
    num_classes = seen.shape[1]
    guess = (seen / (seen.sum(axis=0) if balanced else 1)).argmax(axis=1)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for image, target in scenes(200, 20):
        pairs = target.astype(np.int64) * num_classes + guess[color_codes(image)]
        confusion += np.bincount(pairs.ravel(), minlength=num_classes**2).reshape(confusion.shape)
    assert 0.1 < mean_iou(confusion) < 0.5  # asked for: below 0.60


def test_labels_are_exact_at_pixel_centers() -> None:
    canvas = Canvas((60, 90))
    canvas.polygon([(0.2, 0.15), (1.1, 0.3), (0.6, 0.9)], (255, 0, 0), 1)
    canvas.ellipse((1.0, 0.7), (0.3, 0.2), (0, 255, 0), 2)
    _, labels = canvas.develop()
    y, x = ((np.mgrid[:60, :90] + 0.5) / 60).astype(float)

    def side(ax: float, ay: float, bx: float, by: float) -> NDArray[np.float64]:
        length = np.hypot(bx - ax, by - ay)
        return ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / length  # signed distance to a line

    inside = np.minimum.reduce(
        [side(0.2, 0.15, 1.1, 0.3), side(1.1, 0.3, 0.6, 0.9), side(0.6, 0.9, 0.2, 0.15)]
    )
    ellipse = 1 - np.hypot((x - 1.0) / 0.3, (y - 0.7) / 0.2)
    expected = np.where(ellipse > 0, 2, np.where(inside > 0, 1, 0))
    near_edge = (abs(ellipse) < 0.05) | (abs(inside) < 0.5 / 60)  # within half a pixel
    np.testing.assert_array_equal(labels[~near_edge], expected[~near_edge])
    assert (labels != expected).mean() < 0.01


def test_picture_and_labels_share_their_edges() -> None:
    for image, target in scenes(0, 4, size=(96, 120)):
        edge = target[:, 1:] != target[:, :-1]
        step = abs(np.diff(image.astype(int), axis=1)).sum(axis=2)
        assert step[edge].mean() > 2 * step[~edge].mean()


def test_scenes_need_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['torchvision'] = None\n"
        "import atrous\n"
        "image, target = next(iter(atrous.data.scenes(0, 1)))\n"
        "assert image.shape == (128, 160, 3)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("seed", "n", "size"), [(-1, 1, (64, 64)), (0, -1, (64, 64)), (0, 1, (8, 64))]
)
def test_impossible_scenes_are_refused(seed: int, n: int, size: tuple[int, int]) -> None:
    with pytest.raises(AtrousError, match="E-SCENES"):
        scenes(seed, n, size=size)
