import shutil
from pathlib import Path

import numpy as np
import pytest

from atrous.data.dataset import target_dtype
from atrous.data.formats.image_folder import open_image_folder
from atrous.data.opening import recognise
from atrous.errors import AtrousError
from tests.pictures import CLASSES, SIDE, image_folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("images"), train=2, val=1)


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


def test_the_class_of_a_picture_is_its_folder(root: Path) -> None:
    data = open_image_folder(root, "train")
    assert data.classes == CLASSES
    assert data.names[:3] == ("disc/disc_0.JPEG", "disc/disc_1.JPEG", "frame/frame_0.JPEG")
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    image, target = data[3]
    assert image.shape == (SIDE, SIDE, 3)
    assert target.shape == (SIDE, SIDE)
    assert target.dtype == np.uint8
    assert (target == 1).all()


def test_a_thousand_classes_fit_into_the_target(tmp_path: Path, root: Path) -> None:
    picture = root / "val" / "disc" / "disc_0.JPEG"
    for index in range(300):
        folder = tmp_path / "val" / f"n{index:04}"
        folder.mkdir(parents=True)
        (folder / "x.JPEG").symlink_to(picture)
    data = open_image_folder(tmp_path)
    assert data[299].target.dtype == target_dtype(300) == np.uint16
    assert data[299].target[0, 0] == 299
    assert len(data.palette) == 300


def test_folders_within_a_class_and_other_spellings_of_a_split(copy: Path) -> None:
    (copy / "train" / "disc" / "more").mkdir()
    shutil.move(copy / "train" / "disc" / "disc_1.JPEG", copy / "train" / "disc" / "more")
    assert open_image_folder(copy, "train").names[1] == "disc/more/disc_1.JPEG"
    (copy / "val").rename(copy / "validation")
    assert len(open_image_folder(copy, "val")) == len(open_image_folder(copy, "valid")) == 3


def test_files_that_are_no_pictures_are_left_out_aloud(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copy / "val" / "disc" / "notes.txt").write_text("x")
    (copy / "val" / "disc" / "._disc_0.JPEG").write_text("x")
    assert len(open_image_folder(copy)) == 3
    assert "disc/notes.txt" in caplog.text
    assert "._disc" not in caplog.text


def test_an_unreadable_picture_is_an_error_with_its_name(copy: Path) -> None:
    path = copy / "val" / "frame" / "frame_0.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(AtrousError, match="E-IMAGE-BROKEN") as caught:
        open_image_folder(copy)[1]
    assert caught.value.where == str(path)


def test_the_fingerprint_changes_with_names_and_sizes(copy: Path) -> None:
    before = open_image_folder(copy).fingerprint()
    assert open_image_folder(copy).fingerprint() == before
    path = copy / "val" / "disc" / "disc_0.JPEG"
    path.write_bytes(path.read_bytes() + b"x")
    longer = open_image_folder(copy).fingerprint()
    path.rename(path.with_name("other.JPEG"))
    assert len({before, longer, open_image_folder(copy).fingerprint()}) == 3


def test_what_is_no_such_folder_is_said(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="E-FILE-MISSING"):
        open_image_folder(tmp_path / "nowhere")
    with pytest.raises(AtrousError, match="E-DATA-LAYOUT"):
        open_image_folder(copy, "test")
    (copy / "val" / "empty").mkdir()
    with pytest.raises(AtrousError, match=r"empty.*E-DATA-LAYOUT"):
        open_image_folder(copy)
    shutil.move(copy / "train" / "disc" / "disc_0.JPEG", copy / "train")
    with pytest.raises(AtrousError, match=r"disc_0\.JPEG.*E-DATA-LAYOUT"):
        open_image_folder(copy, "train")
    (tmp_path / "bare" / "val").mkdir(parents=True)
    with pytest.raises(AtrousError, match="E-DATA-LAYOUT"):
        open_image_folder(tmp_path / "bare")


def test_as_data_for_segmentation_it_is_refused_with_what_it_is(root: Path) -> None:
    with pytest.raises(AtrousError, match="E-DATA-LAYOUT"):
        recognise(root)
