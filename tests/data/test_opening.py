import os
import stat
from pathlib import Path

import numpy as np
import pytest

from atrous.data import FileDataset
from atrous.data.opening import open_dataset, recognise
from atrous.errors import AtrousError, ExitCode
from tests.data.trees import blocks, folders, picture, save, voc, write


def test_unrecognised_folder_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    write(tmp_path / "notes.md")
    with pytest.raises(AtrousError) as caught:
        open_dataset(tmp_path)
    message = str(caught.value)
    assert "it holds notes.md" in message
    for name in ("VOC", "Cityscapes", "ADE20K", "COCO", "CamVid", "LabelMe", "CVAT", "WebDataset"):
        assert name in message
    assert caught.value.exit_code == ExitCode.DATA


def test_missing_path_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="E-FILE-MISSING"):
        open_dataset(tmp_path / "nowhere")


def test_unknown_split_suggests_the_nearest(tmp_path: Path) -> None:
    voc(tmp_path, {"train": 1, "val": 1})
    with pytest.raises(AtrousError, match=r"'vall'.*E-UNKNOWN-NAME") as caught:
        open_dataset(tmp_path, "vall")
    assert "'val'" in caught.value.fix
    assert len(open_dataset(tmp_path, "validation")) == 1


def test_D12_files_without_a_partner_are_counted_and_named(tmp_path: Path) -> None:
    folders(tmp_path)
    for i in range(12):
        save(tmp_path / "images/val" / f"extra{i:02d}.jpg", picture(i))
    save(tmp_path / "masks/val/lonely.png", blocks(3))
    with pytest.raises(AtrousError) as caught:
        open_dataset(tmp_path)
    message = str(caught.value)
    assert "pictures without annotation: 12, annotations without picture: 1" in message
    assert "extra09.jpg" in message
    assert "extra10.jpg" not in message
    assert "and 3 more" in message
    assert caught.value.exit_code == ExitCode.DATA
    assert len(open_dataset(tmp_path, allow_unlabelled=True)) == 4


def test_D12_two_pictures_of_one_stem_are_refused(tmp_path: Path) -> None:
    folders(tmp_path)
    save(tmp_path / "images/val/picture1.png", picture())
    with pytest.raises(AtrousError, match="E-DATA-TWICE"):
        open_dataset(tmp_path, allow_unlabelled=True)


def test_D12_names_that_differ_in_case_are_hinted_at(tmp_path: Path) -> None:
    folders(tmp_path)
    (tmp_path / "masks/val/picture1.png").rename(tmp_path / "masks/val/Picture1.png")
    with pytest.raises(AtrousError, match=r"(?s)Picture1\.png.*E-DATA-PAIRS"):
        open_dataset(tmp_path)


def test_D18_empty_split_is_an_error(tmp_path: Path) -> None:
    voc(tmp_path, {"train": 1, "val": 0})
    with pytest.raises(AtrousError, match=r"'val'.*E-DATA-EMPTY") as caught:
        open_dataset(tmp_path)
    assert caught.value.exit_code == ExitCode.DATA


def test_D13_sizes_that_differ_name_both_files(tmp_path: Path) -> None:
    folders(tmp_path)
    save(tmp_path / "masks/val/picture1.png", blocks(3, size=(10, 20)))
    with pytest.raises(AtrousError, match=r"72x96.*10x20.*E-DATA-SIZE") as caught:
        open_dataset(tmp_path)[0]
    assert "picture1.jpg" in caught.value.where
    assert "picture1.png" in caught.value.where


def test_D05_raw_mask_of_a_turned_picture_is_refused_with_a_hint(tmp_path: Path) -> None:
    from PIL import Image

    folders(tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    save(tmp_path / "images/val/picture1.jpg", picture(), exif=exif)
    with pytest.raises(AtrousError, match=r"96x72.*72x96.*E-DATA-SIZE") as caught:
        open_dataset(tmp_path)[0]
    assert "EXIF" in caught.value.fix
    save(tmp_path / "masks/val/picture1.png", blocks(3, size=(96, 72)))
    sample = open_dataset(tmp_path)[0]
    assert sample.target.shape == sample.image.shape[:2] == (96, 72)


def test_D07_jpeg_masks_are_refused_unless_forced(tmp_path: Path) -> None:
    folders(tmp_path)
    (tmp_path / "masks/val/picture1.png").unlink()
    save(tmp_path / "masks/val/picture1.jpg", np.zeros((72, 96), np.uint8))
    with pytest.raises(AtrousError, match="E-MASK-LOSSY"):
        open_dataset(tmp_path)[0]
    assert not open_dataset(tmp_path, allow_lossy=True)[0].target.any()


ODD_NAMES = (
    "with space", "ümlaut", "emoji 🦊", "new\nline", "quote\"'", "comma,semi;", "<b>&amp;", "-rf",
    "x" * 120 + "é" * 65, "tab\there", "日本語", "%s %d {0}",
)  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_D20_odd_names_work(tmp_path: Path, name: str) -> None:
    folders(tmp_path, count=1)
    labels = blocks(3, 7)
    save(tmp_path / "images/val" / f"{name}.jpg", picture(7))
    save(tmp_path / "masks/val" / f"{name}.png", labels)
    dataset = open_dataset(tmp_path)
    np.testing.assert_array_equal(
        dataset[dataset.names.index(f"images/val/{name}.jpg")].target, labels
    )
    assert len(dataset.fingerprint()) == 64


def test_D20_names_that_are_not_utf8_work(tmp_path: Path) -> None:
    voc(tmp_path, {"val": 1})
    name = os.fsdecode(b"caf\xe9")
    try:
        save(tmp_path / "JPEGImages" / f"{name}.jpg", picture(7))
    except OSError:
        pytest.skip("this file system has no such names")
    labels = blocks(21, 7)
    save(tmp_path / "SegmentationClass" / f"{name}.png", labels)
    write(tmp_path / "ImageSets/Segmentation/val.txt", b"caf\xe9\n")
    dataset = open_dataset(tmp_path)
    np.testing.assert_array_equal(dataset[0].target, labels)
    assert len(dataset.fingerprint()) == 64


def test_D21_nothing_is_written_beside_the_data(tmp_path: Path) -> None:
    folders(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for path in (tmp_path, *tmp_path.rglob("*")):
        if path.is_dir():
            path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        dataset = open_dataset(tmp_path)
        assert dataset[0].image.shape == (72, 96, 3)
        dataset.fingerprint()
    finally:
        for path in (tmp_path, *before):
            if path.is_dir():
                path.chmod(stat.S_IRWXU)
    assert sorted(tmp_path.rglob("*")) == before


def test_D22_fingerprint_changes_with_a_mask(tmp_path: Path) -> None:
    folders(tmp_path)
    before = open_dataset(tmp_path).fingerprint()
    assert open_dataset(tmp_path).fingerprint() == before
    save(tmp_path / "masks/val/picture1.png", blocks(3, 99))
    assert open_dataset(tmp_path).fingerprint() != before


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    folders(tmp_path)
    for name in ("._picture1.jpg", ".hidden.jpg", "Thumbs.db"):
        write(tmp_path / "images/val" / name, "x")
    assert len(open_dataset(tmp_path)) == 4


def test_folder_that_links_to_itself_is_walked_once(tmp_path: Path) -> None:
    folders(tmp_path)
    (tmp_path / "images/val/loop").symlink_to(tmp_path / "images/val")
    assert len(open_dataset(tmp_path)) == 4


def test_datasets_are_file_datasets_of_the_layout(tmp_path: Path) -> None:
    voc(tmp_path, {"train": 1, "val": 2})
    dataset = open_dataset(tmp_path)
    assert isinstance(dataset, FileDataset)
    assert set(recognise(tmp_path).splits) == {"train", "val"}


@pytest.mark.parametrize(
    ("module", "name", "text"),
    [
        ("yaml", "data.yaml", "val: images\nnames: [a]\n"),
        ("defusedxml", "annotations.xml", "<annotations/>"),
    ],
)
def test_missing_package_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, text: str
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(AtrousError, match=rf"{module}.*E-MISSING-EXTRA") as caught:
        open_dataset(write(tmp_path / name, text))
    assert "pip install 'atrous[data]'" in caught.value.fix
