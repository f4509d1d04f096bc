from pathlib import Path

import numpy as np
import pytest

from atrous.classes import ADE20K, ADE20K_31, ADE20K_151
from atrous.data.opening import open_dataset
from atrous.errors import AtrousError
from tests.data.trees import picture, save


@pytest.fixture
def raw(tmp_path: Path) -> np.ndarray:
    """Labels of every value of the benchmark, written as its validation split."""
    labels = (np.arange(72 * 96) % 151).reshape(72, 96).astype(np.uint8)
    root = tmp_path / "ADEChallengeData2016"
    save(root / "images/validation/ADE_val_00000001.jpg", picture())
    save(root / "annotations/validation/ADE_val_00000001.png", labels)
    return labels


def test_classes_count_from_one_and_zero_is_unlabelled(tmp_path: Path, raw: np.ndarray) -> None:
    dataset = open_dataset(tmp_path)
    expected = raw - np.uint8(1)  # 0 wraps to 255
    np.testing.assert_array_equal(dataset[0].target, expected)
    assert dataset.classes == ADE20K.classes
    assert (len(dataset.classes), dataset.classes[0], dataset.classes[149]) == (150, "wall", "flag")


def test_151_classes_keep_the_values_and_leave_zero_unlabelled(
    tmp_path: Path, raw: np.ndarray
) -> None:
    dataset = open_dataset(tmp_path / "ADEChallengeData2016", num_classes=151)
    np.testing.assert_array_equal(dataset[0].target, np.where(raw == 0, 255, raw))
    assert dataset.classes == ADE20K_151.classes
    assert dataset.classes[1] == "wall"


def test_32_classes_are_the_first_31_and_the_rest(tmp_path: Path, raw: np.ndarray) -> None:
    dataset = open_dataset(tmp_path, num_classes=32)
    np.testing.assert_array_equal(dataset[0].target, np.where(raw > 31, 0, raw))
    assert dataset.classes == ADE20K_31.classes


def test_other_number_of_classes_is_refused(tmp_path: Path, raw: np.ndarray) -> None:
    with pytest.raises(AtrousError, match="E-DATA-CLASSES"):
        open_dataset(tmp_path, num_classes=21)
