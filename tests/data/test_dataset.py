import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.classes import numbered, unlabelled
from atrous.data import Dataset, FileDataset, Item
from atrous.data.dataset import Target, target_dtype
from atrous.errors import AtrousError, ExitCode


def read_png(item: Item, size: tuple[int, int]) -> Target:
    assert item.annotation is not None
    return np.asarray(Image.open(item.annotation))


def dataset_of(folder: Path, names: tuple[str, ...], *, num_classes: int = 3) -> FileDataset:
    rng = np.random.default_rng(len(names))
    items = []
    for index, name in enumerate(names):
        size = (10 + index, 12)
        image, mask = folder / f"{name}.image.png", folder / f"{name}.mask.png"
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(image)
        labels = rng.integers(0, num_classes, size).astype(target_dtype(num_classes))
        Image.fromarray(labels).save(mask)
        items.append(Item(name, image, mask))
    table = numbered(num_classes)
    return FileDataset(tuple(items), read_png, table.classes, table.palette)


def test_samples_are_the_files_contents(tmp_path: Path) -> None:
    dataset: Dataset = dataset_of(tmp_path, ("a", "b"))
    image, target = dataset[1]
    np.testing.assert_array_equal(image, np.asarray(Image.open(tmp_path / "b.image.png")))
    np.testing.assert_array_equal(target, np.asarray(Image.open(tmp_path / "b.mask.png")))
    assert (len(dataset), tuple(dataset.names)) == (2, ("a", "b"))


def test_unlabelled_picture_is_ignored_everywhere(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ("a",))
    unlabelled = FileDataset(
        (dataset.items[0]._replace(annotation=None),), read_png, dataset.classes, dataset.palette
    )
    image, target = unlabelled[0]
    assert target.shape == image.shape[:2]
    assert (target == 255).all()


def test_D10_label_that_is_no_class_names_file_and_value(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ("a",))
    mask = np.zeros((10, 12), np.uint8)
    mask[0, :5] = 200
    mask[1] = 255
    Image.fromarray(mask).save(tmp_path / "a.mask.png")
    with pytest.raises(AtrousError, match=r"a\.mask\.png.*200 \(5 px\).*E-DATA-LABEL") as caught:
        dataset[0]
    assert caught.value.exit_code == ExitCode.DATA


def test_D13_differing_sizes_name_both_files_and_sizes(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ("a",))
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(tmp_path / "a.mask.png")
    facts = r"a\.image\.png.*a\.mask\.png.*10x12.*12x10.*E-DATA-SIZE"
    with pytest.raises(AtrousError, match=facts):
        dataset[0]


def test_D22_fingerprint_follows_every_file(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ("a", "b"))
    before = dataset.fingerprint()
    assert before == dataset.fingerprint()
    mask = np.array(Image.open(tmp_path / "b.mask.png"))
    mask[0, 0] ^= 1
    Image.fromarray(mask).save(tmp_path / "b.mask.png")
    assert dataset.fingerprint() != before


def test_fingerprint_follows_order_and_classes(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ("a", "b"))
    turned = FileDataset(dataset.items[::-1], read_png, dataset.classes, dataset.palette)
    renamed = FileDataset(dataset.items, read_png, ("x", "y", "z"), dataset.palette)
    assert len({d.fingerprint() for d in (dataset, turned, renamed)}) == 3


def test_dataset_survives_pickling(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ("a",))
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy[0].image, dataset[0].image)


@pytest.mark.parametrize(("num_classes", "ignored"), [(2, 255), (255, 255), (256, 65535)])
def test_ignore_index_is_never_a_class(num_classes: int, ignored: int) -> None:
    assert unlabelled(num_classes) == ignored
    assert np.iinfo(target_dtype(num_classes)).max == ignored >= num_classes
