"""Pictures in a tar file are segmented without unpacking it."""

import tarfile
from pathlib import Path

import pytest

from atrous.errors import AtrousError
from atrous.predict.find import find_pictures
from atrous.predict.many import segment_many
from atrous.predict.predictor import Predictor
from tests.fake_engine import BrightestChannel
from tests.predict.test_jobs import draw


def packed(tmp_path: Path, name: str = "a.tar") -> Path:
    """Packs three pictures, a bad one, a mask of the first, and a text."""
    pictures = draw(tmp_path / "in", 3)
    (pictures / "bad.png").write_bytes(b"no picture")
    with tarfile.open(tmp_path / name, "w") as archive:
        for path in sorted(pictures.iterdir()):
            archive.add(path, f"day/{path.name}")
        archive.add(pictures / "001.png", "day/000.mask.png")
        archive.add(Path(__file__), "day/notes.txt")
    return tmp_path / name


def segment(paths, out):
    outcomes = []
    predictor = Predictor(BrightestChannel())
    return segment_many(paths, predictor, out, on_outcome=outcomes.append), outcomes


def test_a_tar_gives_what_its_pictures_give(tmp_path):
    shard = packed(tmp_path)
    found, _ = segment([shard], tmp_path / "out")
    plain, _ = segment([tmp_path / "in"], tmp_path / "plain")
    assert [line["input"] for line in found] == [
        f"{shard}/day/{name}.png" for name in ("000", "001", "002", "bad")
    ]
    for key in ("areas", "confidence", "size", "code"):
        assert [line.get(key) for line in found] == [line.get(key) for line in plain]
    assert (tmp_path / "out" / "a" / "day" / "000.labels.png").is_file()


def test_a_rerun_keeps_what_is_finished(tmp_path):
    shard = packed(tmp_path)
    segment([shard], tmp_path / "out")
    _, outcomes = segment([shard], tmp_path / "out")
    assert [o.seconds == 0 for o in outcomes] == [True, True, True, False]


def test_a_pattern_finds_tars_and_a_folder_leaves_them_out(tmp_path):
    packed(tmp_path)
    assert len(find_pictures([str(tmp_path / "*.tar")]).pictures) == 4
    assert list(find_pictures([tmp_path]).left_out) == [".tar (an archive: name it itself)"]


def test_a_broken_tar_is_refused(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(AtrousError) as caught:
        find_pictures([tmp_path / "x.tar"])
    assert caught.value.code == "E-DATA-SHARD"


def test_W01_output_of_a_tar_stays_in_the_folder(tmp_path):
    picture = draw(tmp_path / "in", 1) / "000.png"
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("../../up.png", "/top.png", "a/../../b.png", "good.png"):
            info = archive.gettarinfo(picture)
            info.name = name
            with picture.open("rb") as file:
                archive.addfile(info, file)
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(picture)
        archive.addfile(link)
    found = find_pictures([tmp_path / "x.tar"])
    assert [picture.stem for picture in found.pictures] == ["x/good"]
    assert sum(found.left_out.values()) == 3
