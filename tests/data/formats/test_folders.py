from pathlib import Path

import numpy as np
import pytest

from atrous.data.opening import open_dataset, recognise
from tests.data.trees import blocks, folders, picture, save, write

CLASSES = "sky\nsea\nsand\n"


def sample(root: Path, image: str, mask: str, seed: int = 0) -> np.ndarray:
    labels = blocks(3, seed)
    save(root / image, picture(seed))
    save(root / mask, labels)
    return labels


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/val/a.jpg", "masks/val/a.png"),
        ("img/validation/a.jpg", "labels/validation/a.png"),
        ("val/images/a.jpg", "val/masks/a.png"),
        ("valid/image/a.jpg", "valid/mask/a.tif"),
        ("val/a.jpg", "val_masks/a.png"),
        ("val/a.png", "valannot/a.png"),
        ("val/a.png", "val_labels/a_L.png"),
        ("val/a.jpg", "val/a_mask.png"),
        ("val/a.jpg", "val/a.png"),
        ("images/val/deep/er/a.jpg", "annotations/val/deep/er/a.png"),
        ("images/val/a.JPG", "masks/val/a.PNG"),
    ],
)
def test_layout_is_recognised(tmp_path: Path, image: str, mask: str) -> None:
    labels = sample(tmp_path, image, mask)
    write(tmp_path / "classes.txt", CLASSES)
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 1
    assert dataset.classes == ("sky", "sea", "sand")
    np.testing.assert_array_equal(dataset[0].target, labels)


@pytest.mark.parametrize(
    ("image", "mask"),
    [("images/{}.jpg", "masks/{}.png"), ("{}.jpg", "{}.png"), ("{}.png", "{}_mask.png")],
)
def test_without_splits_a_fifth_is_val_by_name(tmp_path: Path, image: str, mask: str) -> None:
    for seed in range(11):
        sample(tmp_path, image.format(f"p{seed}"), mask.format(f"p{seed}"), seed)
    write(tmp_path / "classes.txt", CLASSES)
    names = {split: set(open_dataset(tmp_path, split).names) for split in ("train", "val", "all")}
    assert len(names["val"]) == 3
    assert names["train"] | names["val"] == names["all"]
    assert names["all"] == {image.format(f"p{seed}") for seed in range(11)}
    assert not names["train"] & names["val"]
    again = set(open_dataset(tmp_path, "val").names)
    assert again == names["val"]


def test_classes_are_counted_where_no_file_names_them(tmp_path: Path) -> None:
    labels = sample(tmp_path, "images/val/a.jpg", "masks/val/a.png")
    sample(tmp_path, "images/train/b.jpg", "masks/train/b.png")
    wide = labels.copy()
    wide[0, 0], wide[0, 1] = 6, 255
    save(tmp_path / "masks/train/b.png", wide)
    assert open_dataset(tmp_path).classes == tuple(f"class_{k}" for k in range(7))


def test_text_labels_are_not_taken_for_masks(tmp_path: Path) -> None:
    folders(tmp_path)
    write(tmp_path / "labels/train/a.txt", "0 0.1 0.1 0.2 0.2 0.3 0.1")
    assert recognise(tmp_path).kind == "folders of pictures and masks"
    assert len(open_dataset(tmp_path, "train")) == 4
