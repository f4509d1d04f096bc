from pathlib import Path

import numpy as np
import pytest

from atrous.classes import VOC
from atrous.data import FileDataset
from atrous.data.formats.voc import TRAINAUG, read_sbd, trainaug
from atrous.data.opening import open_dataset, recognise
from atrous.errors import AtrousError
from tests.data.trees import blocks, picture, save, voc, write

io = pytest.importorskip("scipy.io", reason="SciPy is not installed")


def save_sbd(path: Path, labels: np.ndarray) -> Path:
    """Writes labels as SBD does: the field Segmentation of a record GTcls."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"Boundaries": np.zeros((20, 1)), "Segmentation": labels, "CategoriesPresent": [1]}
    io.savemat(path, {"GTcls": record}, do_compression=True)
    return path


def test_devkit_is_read_and_void_ignored(tmp_path: Path) -> None:
    labels = voc(tmp_path / "VOC2012", {"train": 3, "val": 2})
    with_void = labels["val_001"].copy()
    with_void[:8] = 255
    save(tmp_path / "VOC2012/SegmentationClass/val_001.png", with_void, palette=VOC.palette)
    dataset = open_dataset(tmp_path)  # the folder above works, too
    assert tuple(dataset.names) == ("JPEGImages/val_000.jpg", "JPEGImages/val_001.jpg")
    assert dataset.classes == VOC.classes
    np.testing.assert_array_equal(dataset[0].target, labels["val_000"])
    np.testing.assert_array_equal(dataset[1].target, with_void)
    assert len(open_dataset(tmp_path / "VOC2012", "train")) == 3


def test_masks_exported_in_colour_are_read_by_voc_colours(tmp_path: Path) -> None:
    labels = voc(tmp_path, {"val": 1})["val_000"]
    pixels = np.asarray(VOC.palette, np.uint8)[labels]
    pixels[0] = (224, 224, 192)  # the devkit's colour of unlabelled pixels
    save(tmp_path / "SegmentationClass/val_000.png", pixels)
    target = open_dataset(tmp_path)[0].target
    assert (target[0] == 255).all()
    np.testing.assert_array_equal(target[1:], labels[1:])


def test_label_map_of_an_export_replaces_the_classes(tmp_path: Path) -> None:
    lines = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nfox:10,20,30::\n"
    write(tmp_path / "labelmap.txt", lines)
    write(tmp_path / "ImageSets/Segmentation/default.txt", "a\nb\nc\nd\ne\n")
    labels = blocks(2)
    for name in "abcde":
        save(tmp_path / "JPEGImages" / f"{name}.jpg", picture(ord(name)))
        colors = np.array([(0, 0, 0), (10, 20, 30)], np.uint8)
        save(tmp_path / "SegmentationClass" / f"{name}.png", colors[labels])
    dataset = open_dataset(tmp_path)  # one list only: a fifth is val
    assert dataset.classes == ("background", "fox")
    assert dataset.palette == ((0, 0, 0), (10, 20, 30))
    np.testing.assert_array_equal(dataset[0].target, labels)
    assert (len(dataset), len(open_dataset(tmp_path, "train"))) == (1, 4)


def test_train_aug_list_is_used_with_its_own_masks_first(tmp_path: Path) -> None:
    voc(tmp_path, {"train": 1, "val": 1})
    write(tmp_path / "ImageSets/Segmentation/train_aug.txt", "train_000\nval_000\n")
    better = blocks(21, 99)
    save(tmp_path / "SegmentationClassAug/train_000.png", better)
    dataset = open_dataset(tmp_path, "trainaug")
    np.testing.assert_array_equal(dataset[0].target, better)
    assert len(dataset) == 2
    assert len(open_dataset(tmp_path, "train_aug")) == 2


def test_sbd_alone_is_read(tmp_path: Path) -> None:
    labels = {name: blocks(21, ord(name)) for name in "ab"}
    write(tmp_path / "train.txt", "a\n")
    write(tmp_path / "val.txt", "b\n")
    for name in "ab":
        save(tmp_path / "img" / f"{name}.jpg", picture(ord(name)))
        save_sbd(tmp_path / "cls" / f"{name}.mat", labels[name])
    assert recognise(tmp_path).kind == "SBD"
    for split, name in (("train", "a"), ("val", "b")):
        np.testing.assert_array_equal(open_dataset(tmp_path, split)[0].target, labels[name])


def small_trainaug(root: Path) -> dict[str, np.ndarray]:
    """Makes a devkit with SBD beside it, which overlap as the real ones do."""
    labels = voc(root / "VOC2012", {"train": 2, "val": 2})
    sbd = root / "SBD"
    write(sbd / "train.txt", "train_000\nmore_0\nval_001\n")
    write(sbd / "val.txt", "more_1\nval_000\n")
    for name in ("train_000", "val_000", "val_001", "more_0", "more_1"):
        theirs = blocks(21, len(name) + ord(name[-1]))
        save_sbd(sbd / "cls" / f"{name}.mat", theirs)
        if name.startswith("more"):
            labels[name] = theirs
    save(root / "VOC2012/JPEGImages/more_0.jpg", picture(70))
    save(sbd / "img/more_1.jpg", picture(71))
    return labels


def test_trainaug_is_train_and_sbd_without_val(tmp_path: Path) -> None:
    labels = small_trainaug(tmp_path)
    listing = trainaug(tmp_path / "VOC2012", tmp_path / "SBD", expected=4)
    assert [item.name for item in listing.items] == ["more_0", "more_1", "train_000", "train_001"]
    assert not listing.problems
    layout = recognise(tmp_path / "VOC2012")
    dataset = FileDataset(listing.items, layout.read_target, VOC.classes, VOC.palette)
    for index, name in enumerate(dataset.names):  # VOC's own mask where there are both
        np.testing.assert_array_equal(dataset[index].target, labels[name])


def test_trainaug_of_another_count_is_refused(tmp_path: Path) -> None:
    small_trainaug(tmp_path)
    with pytest.raises(AtrousError, match=r"4 .*10582.*E-DATA-TRAINAUG") as caught:
        open_dataset(tmp_path / "VOC2012", "trainaug")
    assert caught.value.code == "E-DATA-TRAINAUG"


def test_trainaug_has_10582_pictures_with_lists_of_the_published_sizes(tmp_path: Path) -> None:
    # VOC train 1464, val 1449; SBD train 8498, val 2857. That 2237 of SBD are VOC train's and val's
    # follows from the published total, and is laid out here.
    voc_train = [f"t{i}" for i in range(1464)]
    voc_val = [f"v{i}" for i in range(1449)]
    overlap = 8498 + 2857 - (TRAINAUG - 1464)
    shared = [*voc_train[: overlap - 1200], *voc_val[:1200]]
    sbd = [*shared, *(f"s{i}" for i in range(8498 + 2857 - overlap))]
    root, other = tmp_path / "VOC2012", tmp_path / "SBD"
    write(root / "ImageSets/Segmentation/train.txt", "\n".join(voc_train))
    write(root / "ImageSets/Segmentation/val.txt", "\n".join(voc_val))
    write(other / "train.txt", "\n".join(sbd[:8498]))
    write(other / "val.txt", "\n".join(sbd[8498:]))
    for folder in (root / "JPEGImages", root / "SegmentationClass", other / "cls", other / "img"):
        folder.mkdir(parents=True)
    listing = trainaug(root, other)
    names = {problem.what.removeprefix("no picture ") for problem in listing.problems}
    assert len(names) == len(listing.problems) == TRAINAUG == 10_582
    assert not names & set(voc_val)
    assert names >= set(voc_train)


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file", b"\x89PNG", bytes(4096)])
def test_damaged_sbd_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(AtrousError, match="E-DATA-SBD") as caught:
        read_sbd(write(tmp_path / "a.mat", content))
    assert caught.value.where.endswith("a.mat")


def test_other_matlab_file_is_refused(tmp_path: Path) -> None:
    io.savemat(tmp_path / "a.mat", {"GTcls": {"Segmentation": np.zeros((2, 2))}})
    with pytest.raises(AtrousError, match="E-DATA-SBD"):
        read_sbd(tmp_path / "a.mat")


def test_shared_voc_opens_with_its_published_counts(shared: Path) -> None:
    root = shared / "data" / "voc2012"
    counts = {split: len(open_dataset(root, split)) for split in ("train", "trainaug", "val")}
    assert counts == {"train": 437, "trainaug": 3131, "val": 223}
