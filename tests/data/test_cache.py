import multiprocessing
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from atrous.data.cache import CachedDataset
from atrous.data.dataset import FileDataset
from atrous.errors import AtrousError, ExitCode
from tests.bands import Fields
from tests.data.test_dataset import dataset_of


def emptied(dataset: FileDataset) -> None:
    for item in dataset.items:
        item.image.unlink()


def assert_same(cached: CachedDataset, plain: FileDataset) -> None:
    for index in range(len(plain)):
        np.testing.assert_array_equal(cached[index].image, plain[index].image)
        np.testing.assert_array_equal(cached[index].target, plain[index].target)


@pytest.mark.parametrize("num_classes", [3, 300])
def test_cached_samples_equal_the_decoded_ones(tmp_path: Path, num_classes: int) -> None:
    plain = dataset_of(tmp_path, ("a", "b", "c"), num_classes=num_classes)
    cached = CachedDataset(plain, 10**6)
    assert_same(cached, plain)  # decoded
    assert_same(cached, plain)  # kept
    assert (cached.names, cached.classes) == (plain.names, plain.classes)
    assert cached.fingerprint() == plain.fingerprint()


def test_kept_samples_are_not_decoded_again(tmp_path: Path) -> None:
    plain = dataset_of(tmp_path, ("a", "b"))
    cached = CachedDataset(plain, 10**6)
    before = cached[0].image.copy()
    emptied(plain)
    np.testing.assert_array_equal(cached[0].image, before)
    with pytest.raises(AtrousError, match="E-FILE-MISSING"):
        cached[1]


def test_budget_is_never_exceeded(tmp_path: Path) -> None:
    plain = dataset_of(tmp_path, ("a", "b", "c"))
    first, second = (sum(array.nbytes for array in plain[index]) for index in (0, 1))
    cached = CachedDataset(plain, first + second - 1)
    assert_same(cached, plain)
    emptied(plain)
    assert cached[0].image.shape == (10, 12, 3)
    with pytest.raises(AtrousError):
        cached[1]  # did not fit


@pytest.mark.skipif(sys.platform != "linux", reason="shared with forked processes only")
def test_what_one_process_decodes_all_have(tmp_path: Path) -> None:
    plain = dataset_of(tmp_path, ("a", "b"))
    cached = CachedDataset(plain, 10**6)
    worker = multiprocessing.get_context("fork").Process(target=cached.__getitem__, args=(1,))
    worker.start()
    worker.join()
    expected = plain[1].image
    emptied(plain)
    np.testing.assert_array_equal(cached[1].image, expected)


def test_copy_in_another_process_decodes_for_itself(tmp_path: Path) -> None:
    plain = dataset_of(tmp_path, ("a", "b"))
    copy = pickle.loads(pickle.dumps(CachedDataset(plain, 10**6)))
    assert_same(copy, plain)


def test_impossible_budget_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="E-CACHE-MEMORY") as caught:
        CachedDataset(dataset_of(tmp_path, ("a",)), 1 << 62)
    assert caught.value.exit_code == ExitCode.RESOURCES


def test_samples_of_other_channels_are_kept_too() -> None:
    plain = Fields(3, 1)
    cached = CachedDataset(plain, 10**6)
    for index in (0, 1, 2, 0, 1, 2):
        image, target = cached[index]
        assert image.dtype == np.uint16
        np.testing.assert_array_equal(image, plain[index].image)
        np.testing.assert_array_equal(target, plain[index].target)
