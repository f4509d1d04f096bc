import os
import shutil
import stat
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atrous.data.dataset import Dataset, FileDataset, Item, Sample
from atrous.data.loader import Batch, TrainingLoader, evaluation_samples
from atrous.data.order import START, Position
from atrous.data.scenes.procedural import Scenes, scenes
from atrous.data.transforms import Augmentation
from atrous.errors import AtrousError, ExitCode
from tests.data.test_dataset import dataset_of, read_png

# Two workers are right for what is tested, on one processor too.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

# Everything random switched on: what workers could draw by themselves.
AUGMENTATION = Augmentation(crop_size=(33, 40), photometric=0.5)
SCENES = scenes(0, 11, size=(32, 40))


def loader_of(dataset: Dataset, **options: object) -> TrainingLoader:
    settings: dict[str, object] = {"augmentation": AUGMENTATION, "batch_size": 4, "seed": 7}
    return TrainingLoader(dataset, **(settings | options))  # type: ignore[arg-type]


def batches(
    dataset: Dataset, number: int, start: Position = START, **options: object
) -> list[Batch]:
    return list(islice(loader_of(dataset, **options).batches(start), number))


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)
        assert (one.names, one.position) == (other.names, other.position)


def test_batches_are_uint8_channels_last() -> None:
    (batch,) = batches(SCENES, 1)
    assert (batch.images.shape, batch.images.dtype) == ((4, 3, 33, 40), torch.uint8)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert (batch.targets.shape, batch.targets.dtype) == ((4, 33, 40), torch.uint8)


@pytest.mark.parametrize("options", [
    {"workers": 1}, {"workers": 2}, {"cache_bytes": 10**6}, {"workers": 2, "cache_bytes": 20_000},
])  # fmt: skip
def test_workers_and_cache_change_nothing(options: dict[str, object]) -> None:
    assert_equal(batches(SCENES, 7, **options), batches(SCENES, 7))


def test_resume_in_mid_epoch_equals_uninterrupted() -> None:
    whole = batches(SCENES, 7)
    for done in (1, 3, 5):  # of 11 samples: the third batch crosses into the second epoch
        rest = batches(SCENES, 7 - done, whole[done - 1].position, workers=done % 2)
        assert_equal(rest, whole[done:])


def test_T07_ranks_together_make_the_same_batches() -> None:
    whole = batches(SCENES, 5)
    parts = [batches(SCENES, 5, rank=rank, world_size=2) for rank in range(2)]
    for batch, one, other in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([one.images, other.images]), batch.images)
        assert one.names + other.names == batch.names
        assert one.position == other.position == batch.position


def test_seeds_differ() -> None:
    (one,), (other,) = batches(SCENES, 1, seed=1), batches(SCENES, 1, seed=2)
    assert not torch.equal(one.images, other.images)


@pytest.mark.parametrize("workers", [0, 1])
def test_global_randomness_is_left_alone(workers: int) -> None:
    before = torch.get_rng_state()
    batches(SCENES, 2, workers=workers)
    assert torch.equal(torch.get_rng_state(), before)


def test_targets_above_255_classes_keep_their_values(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, ("a", "b"), num_classes=300)
    (batch,) = batches(dataset, 1, augmentation=Augmentation(crop_size=(24, 24)))
    assert batch.targets.dtype == torch.int32
    assert {65535} < set(batch.targets.unique().tolist()) <= {*range(300), 65535}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 3])
def test_T16_evaluation_yields_every_sample_once(workers: int, world_size: int) -> None:
    seen = {}
    for rank in range(world_size):
        for index, sample in evaluation_samples(
            SCENES, workers=workers, rank=rank, world_size=world_size
        ):
            assert index not in seen
            seen[index] = sample
    for index, (image, target) in enumerate(SCENES):
        np.testing.assert_array_equal(seen[index].image, image)
        np.testing.assert_array_equal(seen[index].target, target)


def damaged(dataset: FileDataset, indices: range) -> FileDataset:
    for index in indices:
        path = dataset.items[index].image
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return dataset


def many_files(folder: Path, number: int) -> FileDataset:
    few = dataset_of(folder, ("a", "b", "c"))
    items = []
    for index in range(number):
        source = few.items[index % 3]
        image = folder / f"{index}.png"
        shutil.copy(source.image, image)
        items.append(Item(str(index), image, source.annotation))
    return FileDataset(tuple(items), read_png, few.classes, few.palette)


SMALL = Augmentation(crop_size=(16, 16))


@pytest.mark.parametrize("workers", [0, 2])
def test_D01_truncated_picture_stops_training_and_is_named(tmp_path: Path, workers: int) -> None:
    dataset = damaged(many_files(tmp_path, 9), range(4, 5))
    with pytest.raises(AtrousError, match=r"4\.png.*E-IMAGE-BROKEN") as caught:
        batches(dataset, 3, augmentation=SMALL, workers=workers)
    assert caught.value.code == "E-IMAGE-BROKEN"


@pytest.mark.parametrize("workers", [0, 2])
def test_D01_skip_substitutes_counts_and_lists(tmp_path: Path, workers: int) -> None:
    dataset = damaged(many_files(tmp_path, 120), range(4, 5))
    loader = loader_of(
        dataset, augmentation=SMALL, workers=workers, on_bad_sample="skip", batch_size=8
    )
    read = list(islice(loader.batches(), 30))  # two epochs
    names = [name for batch in read for name in batch.names]
    assert len(names) == 240
    assert "4" not in names
    assert list(loader.bad_samples) == [str(dataset.items[4].image)]
    assert "E-IMAGE-BROKEN" in loader.bad_samples[str(dataset.items[4].image)]
    again = batches(
        dataset, 30, augmentation=SMALL, workers=2 - workers, on_bad_sample="skip", batch_size=8
    )
    assert_equal(again, read)  # what stands in is decided by the seed too


def test_D01_skip_stops_above_one_in_a_hundred(tmp_path: Path) -> None:
    dataset = damaged(many_files(tmp_path, 120), range(2))
    with pytest.raises(AtrousError, match=r"2 of 120.*E-DATA-BAD") as caught:
        batches(dataset, 15, augmentation=SMALL, on_bad_sample="skip", batch_size=8)
    assert caught.value.exit_code == ExitCode.DATA


@pytest.mark.parametrize("workers", [0, 1])
def test_D01_evaluation_never_leaves_a_sample_out(tmp_path: Path, workers: int) -> None:
    dataset = damaged(many_files(tmp_path, 5), range(3, 4))
    with pytest.raises(AtrousError, match=r"3\.png.*E-IMAGE-BROKEN"):
        list(evaluation_samples(dataset, workers=workers))


def test_D02_missing_empty_and_folder_are_told_apart(tmp_path: Path) -> None:
    dataset = many_files(tmp_path, 4)
    for item in dataset.items[1:]:
        item.image.unlink()
    dataset.items[1].image.touch()
    dataset.items[2].image.mkdir()
    dataset.items[3].image.symlink_to(tmp_path / "nowhere.png")
    codes = []
    for index in (1, 2, 3):
        with pytest.raises(AtrousError) as caught:
            dataset[index]
        codes.append(caught.value.code)
    assert codes == ["E-FILE-EMPTY", "E-FILE-KIND", "E-FILE-MISSING"]


@pytest.mark.parametrize("name", [
    "with space", "Umlaut \u00e4\u00df", "\U0001f5fb", "x" * 240, "new\nline",
    os.fsdecode(b"\xff\xfe"),
])  # fmt: skip
def test_D20_any_file_name_loads(tmp_path: Path, name: str) -> None:
    source = dataset_of(tmp_path, ("a",))
    image = tmp_path / f"{name}.png"
    shutil.copy(source.items[0].image, image)
    item = Item(name, image, source.items[0].annotation)
    dataset = FileDataset((item,), read_png, source.classes, source.palette)
    (batch,) = batches(dataset, 1, augmentation=SMALL, workers=1)
    assert batch.names == [name] * 4
    assert len(dataset.fingerprint()) == 64
    image.unlink()
    with pytest.raises(AtrousError) as caught:
        dataset[0]
    assert "\n  fix" not in str(caught.value).split("[")[0]
    assert str(caught.value).encode()  # can be printed anywhere


def test_D21_reading_writes_nothing_anywhere_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "home"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(elsewhere))
    data = tmp_path / "data"
    data.mkdir()
    dataset = dataset_of(data, ("a", "b", "c"))
    for path in [*data.iterdir(), data]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))

    def state() -> list[tuple[str, int, int]]:
        paths = sorted([tmp_path, *tmp_path.rglob("*")])
        return [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in paths]

    before = state()
    batches(dataset, 4, augmentation=SMALL, workers=2, cache_bytes=10**6)
    dataset.fingerprint()
    assert state() == before
    data.chmod(0o755)


class Deadly(Scenes):
    """Kills whoever reads its third sample."""

    def __getitem__(self, index: int) -> Sample:
        if index == 2:
            os.kill(os.getpid(), 9)
        return super().__getitem__(index)


def test_T13_killed_worker_is_one_clear_error() -> None:
    with pytest.raises(AtrousError, match="E-DATA-WORKER") as caught:
        batches(Deadly(0, 5, (32, 32)), 3, workers=1)
    assert "pid" in caught.value.what
    assert caught.value.exit_code == ExitCode.RESOURCES


def test_real_pictures_load(shared: Path) -> None:
    root = shared / "data/voc2012"
    names = (root / "ImageSets/Segmentation/val.txt").read_text().split()[:4]
    items = tuple(
        Item(n, root / f"JPEGImages/{n}.jpg", root / f"SegmentationClass/{n}.png") for n in names
    )
    classes = tuple(map(str, range(21)))
    dataset = FileDataset(items, read_png, classes, ((0, 0, 0),) * 21)
    (batch,) = batches(dataset, 1, augmentation=Augmentation(), workers=2)
    assert batch.images.shape == (4, 3, 513, 513)
    for index, sample in evaluation_samples(dataset):
        with Image.open(items[index].image) as image:
            assert image.size[::-1] == sample.target.shape
