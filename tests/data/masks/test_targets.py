from pathlib import Path

import numpy as np
import pytest

from atrous.data import Item
from atrous.data.masks.files import Mask
from atrous.data.masks.targets import MaskReader
from atrous.errors import AtrousError, ExitCode
from tests.data.trees import blocks, save


def read(path: Path, reader: MaskReader) -> np.ndarray:
    return reader(Item("a", path, path), (0, 0))


def test_mapping_moves_values_and_drops_what_is_ignored(tmp_path: Path) -> None:
    labels = blocks(5)
    path = save(tmp_path / "m.png", labels)
    target = read(path, MaskReader(3, {0: None, 1: 0, 2: 1, 3: 2, 4: 2}))
    expected = np.array([255, 0, 1, 2, 2], np.uint8)[labels]
    np.testing.assert_array_equal(target, expected)
    assert target.dtype == np.uint8
    target[0, 0] = 9  # a target is the caller's to change


def test_mapping_reaches_16_bit_values(tmp_path: Path) -> None:
    labels = blocks(3).astype(np.uint16) * 1000
    target = read(save(tmp_path / "m.png", labels), MaskReader(3, {1000: 1, 2000: 2}))
    np.testing.assert_array_equal(target, labels // 1000)
    assert target.dtype == np.uint8


def test_values_a_mapping_does_not_list_stay(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255]], np.uint8)
    target = read(save(tmp_path / "m.png", labels), MaskReader(2, {7: None}))
    np.testing.assert_array_equal(target, labels)


def test_value_that_would_silently_merge_into_a_class_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.array([[0, 1]], np.uint8))
    with pytest.raises(AtrousError, match="E-MASK-MAPPING") as caught:
        read(path, MaskReader(2, {1: 0}))
    assert caught.value.exit_code == ExitCode.DATA
    np.testing.assert_array_equal(read(path, MaskReader(2, {0: None, 1: 0})), [[255, 0]])


def test_D10_value_beyond_8_bits_is_named_and_counted(tmp_path: Path) -> None:
    labels = np.array([[0, 300, 300, 65535]], np.uint16)
    with pytest.raises(AtrousError, match=r"300 \(2 px\), 65535 \(1 px\).*E-DATA-LABEL"):
        read(save(tmp_path / "m.png", labels), MaskReader(21))


def test_many_classes_give_16_bit_targets(tmp_path: Path) -> None:
    labels = np.array([[0, 255, 299, 65535]], np.uint16)
    target = read(save(tmp_path / "m.png", labels), MaskReader(300))
    assert target.dtype == np.uint16
    np.testing.assert_array_equal(target, labels)
    mapped = MaskReader(300, {7: None}).target(
        Mask(np.array([[7, 255]], np.uint8), "PNG", "L", ()), "here"
    )
    np.testing.assert_array_equal(mapped, [[65535, 255]])
