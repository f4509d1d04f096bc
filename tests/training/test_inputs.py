"""The pictures of a run: what the doctor refuses, training refuses; parts and names."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atrous.data.dataset import Dataset, FileDataset
from atrous.data.doctor.diagnosis import examine
from atrous.data.doctor.survey import survey
from atrous.data.opening import recognise
from atrous.data.splitting import split_off
from atrous.errors import AtrousError, ExitCode
from atrous.training.config import TrainConfig
from atrous.training.inputs import examine_data, open_data
from atrous.training.loop import train
from atrous.training.renamed import with_names
from tests.data import trees
from tests.data.formats.test_shards import shard
from tests.tiny import tiny, tiny_data


def _one_class(root: Path) -> None:
    trees.folders(root, num_classes=2)
    for path in (root / "masks").rglob("*.png"):
        trees.save(path, np.zeros((72, 96), np.uint8))


def _no_class(root: Path) -> None:
    trees.folders(root)
    for path in (root / "masks" / "train").rglob("*.png"):
        trees.save(path, np.full((72, 96), 9, np.uint8))


def _blended(root: Path) -> None:
    trees.folders(root, num_classes=40)
    for path in (root / "masks").rglob("*.png"):
        ramp = np.minimum(np.arange(96) % 16, 8).astype(np.uint8) * 4
        trees.save(path, np.broadcast_to(ramp, (72, 96)).copy())


def _damaged(root: Path) -> None:
    trees.folders(root)
    picture = next((root / "images" / "train").iterdir())
    picture.write_bytes(picture.read_bytes()[:300])


def _one_class_in_shards(root: Path) -> None:
    _one_class(root)
    for split in ("train", "val"):
        files = {}
        for path in sorted((root / "images" / split).iterdir()):
            mask = root / "masks" / split / f"{path.stem}.png"
            files |= {path.name: path.read_bytes(), f"{path.stem}.mask.png": mask.read_bytes()}
        shard(root / f"{split}-0.tar", files)
    for folder in ("images", "masks"):
        shutil.rmtree(root / folder)
    trees.write(root / "classes.txt", "a\nb")


@pytest.mark.parametrize("spoil", [_one_class, _no_class, _blended, _damaged, _one_class_in_shards])
def test_training_refuses_what_the_doctor_refuses_in_its_words(tmp_path: Path, spoil: Any) -> None:
    spoil(tmp_path / "data")
    layout = recognise(tmp_path / "data")
    errors = [f for f in examine(survey(layout)).findings if f.level == "error"]
    assert errors
    updates: list[object] = []
    config = tiny(data=str(tmp_path / "data"), crop_size=(33, 33))
    with pytest.raises(AtrousError) as caught:
        train(config, tmp_path / "run", on_progress=updates.append)
    assert caught.value.exit_code == ExitCode.DATA
    assert caught.value.code in {finding.code for finding in errors}
    assert updates == []


def test_what_the_doctor_passes_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.folders(tmp_path)
    config = tiny(data=str(tmp_path))
    train_data, val_data = open_data(config)
    examine_data(config, train_data, val_data)
    monkeypatch.setattr("atrous.training.inputs.survey", None)
    examine_data(config, train_data, val_data)


def test_a_fifth_is_chosen_by_the_names_and_never_trained_on(tmp_path: Path) -> None:
    trees.folders(tmp_path, count=10)
    config = TrainConfig(data=str(tmp_path), val_split="fifth")
    train_data, val_data = open_data(config)
    assert (len(train_data), len(val_data)) == (8, 2)
    assert not set(train_data.names) & set(val_data.names)
    assert isinstance(train_data.dataset, FileDataset)  # type: ignore[attr-defined]
    again = open_data(config)
    assert [part.names for part in again] == [train_data.names, val_data.names]
    assert train_data.fingerprint() != val_data.fingerprint()
    examine_data(config, train_data, val_data)


def test_one_picture_cannot_be_split() -> None:
    data, _ = tiny_data(1)
    with pytest.raises(AtrousError) as caught:
        split_off(data)
    assert caught.value.code == "E-DATA-SPLIT"


def _classes(data: Dataset) -> dict[str, int]:
    counts = np.bincount(data[0].target.ravel(), minlength=len(data.classes))
    return dict(zip(data.classes, counts.tolist(), strict=False))


def test_chosen_classes_are_kept_and_all_others_are_background(tmp_path: Path) -> None:
    trees.folders(tmp_path)
    data, _ = open_data(TrainConfig(data=str(tmp_path)))
    before = _classes(data)
    after = _classes(with_names(data, ["car=name1"]))
    assert after == {"background": before["name0"] + before["name2"], "car": before["name1"]}


@pytest.mark.parametrize("names", [["sky", "land", "sea"], ["land", "sea"]])
def test_other_names_replace_those_of_the_data(tmp_path: Path, names: list[str]) -> None:
    trees.folders(tmp_path)
    data, _ = open_data(TrainConfig(data=str(tmp_path)))
    renamed = with_names(data, names)
    assert len(renamed.classes) == 3
    assert renamed.classes[-2:] == ("land", "sea")
    assert np.array_equal(renamed[0].target, data[0].target)
    assert renamed.fingerprint() != data.fingerprint()


@pytest.mark.parametrize("names", [["name1", "tree"], ["a", "b", "c", "d"], ["a"]])
def test_names_that_do_not_fit_are_refused(tmp_path: Path, names: list[str]) -> None:
    trees.folders(tmp_path)
    data, _ = open_data(TrainConfig(data=str(tmp_path)))
    with pytest.raises(AtrousError) as caught:
        with_names(data, names)
    assert caught.value.code == "E-UNKNOWN-NAME"
