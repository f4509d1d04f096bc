import io
import pickle
import tarfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from atrous.data.dataset import combined_digest, file_digest
from atrous.data.opening import open_dataset
from atrous.errors import AtrousError
from tests.data.trees import blocks, picture, save, write


def shard(path: Path, files: dict[str, bytes], **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = options.get("mode", "w")
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def sample(root: Path, seed: int) -> tuple[bytes, bytes, np.ndarray]:
    labels = blocks(3, seed)
    image = save(root / "tmp/a.jpg", picture(seed)).read_bytes()
    return image, save(root / "tmp/a.png", labels).read_bytes(), labels


def shards(root: Path) -> list[np.ndarray]:
    labels = []
    for number in range(2):
        files = {}
        for i in range(3):
            image, mask, label = sample(root, 3 * number + i)
            files |= {f"s{i}.jpg": image, f"s{i}.mask.png": mask, f"s{i}.json": b"{}"}
            labels.append(label)
        shard(root / "set" / f"val-{number:06d}.tar", files)
    write(root / "set/classes.txt", "a\nb\nc")
    return labels


def test_samples_are_those_of_the_shards_in_order(tmp_path: Path) -> None:
    labels = shards(tmp_path)
    dataset = open_dataset(tmp_path / "set")
    assert len(dataset) == 6
    assert dataset.names[3] == "val-000001.tar/s0.jpg"
    for index in (5, 0, 3):
        np.testing.assert_array_equal(dataset[index].target, labels[index])
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy[4].image, dataset[4].image)


@pytest.mark.parametrize("mask", ["s.png", "s.seg.png", "s.label.png", "s.target.tif"])
def test_mask_is_known_by_its_extension(tmp_path: Path, mask: str) -> None:
    image, _, labels = sample(tmp_path, 1)
    data = save(tmp_path / f"tmp/m{Path(mask).suffix}", labels).read_bytes()
    shard(tmp_path / "set/val/0.tar", {"dir/s.jpg": image, f"dir/{mask}": data})
    write(tmp_path / "set/classes.txt", "a\nb\nc")
    np.testing.assert_array_equal(open_dataset(tmp_path / "set")[0].target, labels)


def test_one_shard_is_opened_as_all_there_is(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "set/val-000000.tar").rename(tmp_path / "set/data.tar")
    assert len(open_dataset(tmp_path / "set/data.tar", "all")) == 3


def test_D12_sample_without_a_partner_is_named(tmp_path: Path) -> None:
    image, mask, _ = sample(tmp_path, 1)
    shard(tmp_path / "val.tar", {"a.jpg": image, "b.mask.png": mask, "c.jpg": image, "c.png": mask})
    write(tmp_path / "classes.txt", "a\nb\nc")
    with pytest.raises(AtrousError, match="E-DATA-PAIRS"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, allow_unlabelled=True)) == 1


def test_links_are_not_followed(tmp_path: Path) -> None:
    image, _, _ = sample(tmp_path, 1)
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        link = tarfile.TarInfo("a.mask.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
        info = tarfile.TarInfo("a.jpg")
        info.size = len(image)
        archive.addfile(info, io.BytesIO(image))
    write(tmp_path / "classes.txt", "a")
    with pytest.raises(AtrousError, match="E-DATA-PAIRS"):
        open_dataset(tmp_path)


def test_cut_and_compressed_shards_are_refused(tmp_path: Path) -> None:
    image, mask, _ = sample(tmp_path, 1)
    files = {"a.jpg": image, "a.png": mask}
    write(tmp_path / "classes.txt", "a\nb\nc")
    shard(tmp_path / "val.tar", files, mode="w:gz")
    with pytest.raises(AtrousError, match="E-DATA-SHARD"):
        open_dataset(tmp_path)
    data = shard(tmp_path / "val.tar", files).read_bytes()
    write(tmp_path / "val.tar", data[:700])
    with pytest.raises(AtrousError):
        open_dataset(tmp_path)[0]


def test_damaged_member_is_named_with_its_shard(tmp_path: Path) -> None:
    image, mask, _ = sample(tmp_path, 1)
    shard(tmp_path / "val.tar", {"a.jpg": image, "a.png": mask[:-20] + bytes(20)})
    write(tmp_path / "classes.txt", "a\nb\nc")
    with pytest.raises(AtrousError) as caught:
        open_dataset(tmp_path)[0]
    assert caught.value.where == f"{tmp_path / 'val.tar'}: a.png"


def test_D22_fingerprint_changes_with_a_shard(tmp_path: Path) -> None:
    shards(tmp_path)
    before = open_dataset(tmp_path / "set").fingerprint()
    assert open_dataset(tmp_path / "set").fingerprint() == before
    image, mask, _ = sample(tmp_path, 77)
    files = {f"s{i}.jpg": image for i in range(3)} | {f"s{i}.mask.png": mask for i in range(3)}
    shard(tmp_path / "set/val-000001.tar", files)
    assert open_dataset(tmp_path / "set").fingerprint() != before


def test_D22_fingerprint_is_that_of_runs_of_before(tmp_path: Path) -> None:
    """Such runs resume without a warning: a pair was a tuple of its own until shards had items."""
    Pair = namedtuple("Pair", ("name", "image", "mask"))
    shards(tmp_path)
    dataset = open_dataset(tmp_path / "set")
    parts = [b"a", b"b", b"c"]
    parts += [repr(Pair(i.key, i.image, i.annotation)).encode() for i in dataset.items]
    parts += [file_digest(tmp_path / f"set/val-00000{number}.tar") for number in range(2)]
    assert dataset.items[3].key == "val-000001/s0"
    assert dataset.fingerprint() == combined_digest(parts)


def test_shards_without_classes_are_refused(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "set/classes.txt").unlink()
    with pytest.raises(AtrousError, match="E-DATA-CLASSES"):
        open_dataset(tmp_path / "set")
