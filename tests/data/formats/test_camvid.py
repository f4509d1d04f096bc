import json
from pathlib import Path

import numpy as np
from PIL import Image

from atrous.classes import CAMVID
from atrous.data.opening import open_dataset
from tests.data.trees import blocks, picture, save, write


def camvid(root: Path) -> dict[str, np.ndarray]:
    labels = {}
    for seed, split in enumerate(("train", "val")):
        labels[split] = blocks(12, seed)
        save(root / split / f"0001TP_{seed}.png", picture(seed))
        save(root / f"{split}annot" / f"0001TP_{seed}.png", labels[split])
    return labels


def test_void_eleven_is_unlabelled(tmp_path: Path) -> None:
    labels = camvid(tmp_path)
    for split, label in labels.items():
        dataset = open_dataset(tmp_path, split)
        np.testing.assert_array_equal(dataset[0].target, np.where(label == 11, 255, label))
        assert dataset.classes == CAMVID.classes


def test_list_of_the_tutorial_is_understood(tmp_path: Path) -> None:
    camvid(tmp_path)
    save(tmp_path / "val/unlisted.png", picture(9))
    save(tmp_path / "valannot/unlisted.png", blocks(12, 9))
    line = "/SegNet/CamVid/val/0001TP_1.png /SegNet/CamVid/valannot/0001TP_1.png\n"
    write(tmp_path / "val.txt", line)
    assert tuple(open_dataset(tmp_path).names) == ("val/0001TP_1.png",)


def test_class_file_replaces_the_classes(tmp_path: Path) -> None:
    labels = camvid(tmp_path)
    classes = [f"c{i}" for i in range(10)]
    write(tmp_path / "classes.json", json.dumps({"classes": classes, "void": [10, 11]}))
    dataset = open_dataset(tmp_path)
    assert dataset.classes == tuple(classes)
    expected = np.where(labels["val"] >= 10, 255, labels["val"])
    np.testing.assert_array_equal(dataset[0].target, expected)


def test_shared_camvid_equals_its_masks_with_void_ignored(shared: Path) -> None:
    root = shared / "data" / "camvid"
    dataset = open_dataset(root)
    assert (len(dataset), len(open_dataset(root, "train"))) == (101, 367)
    for index in (0, 50, 100):
        mask = np.asarray(Image.open(root / "valannot" / f"{Path(dataset.names[index]).stem}.png"))
        np.testing.assert_array_equal(dataset[index].target, np.where(mask == 11, 255, mask))
