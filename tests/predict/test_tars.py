"""Pictures in a tar file are segmented without unpacking it, and output goes into one."""

import errno
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from atrous import cli
from atrous.errors import AtrousError
from atrous.images.lock import locked
from atrous.predict import tar_out
from atrous.predict.batch import Extras
from atrous.predict.find import Picture, find_pictures
from atrous.predict.many import segment_many
from atrous.predict.predictor import Predictor
from tests.engines.test_openvino import tiny
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


def keyed(shard: Path) -> dict[str, list[str]]:
    """Returns the kinds of files of each key, as WebDataset groups them."""
    samples: dict[str, list[str]] = {}
    with tarfile.open(shard) as archive:
        for info in archive:
            assert len(archive.extractfile(info).read()) == info.size
            folder, _, name = info.name.rpartition("/")
            key, _, kind = name.partition(".")
            samples.setdefault(f"{folder}/{key}".lstrip("/"), []).append(kind)
    return samples


ALL = ["labels.png", "overlay.jpg", "json"]


def test_output_in_a_tar_is_what_a_folder_holds(tmp_path):
    pictures = draw(tmp_path / "in", 3)
    (pictures / "bad.png").write_bytes(b"no picture")
    (pictures / "a.b%").mkdir()
    (pictures / "000.png").rename(pictures / "a.b%" / "x.y%2.png")
    shard = tmp_path / "new" / "out.tar"
    lines, _ = segment([pictures], shard)
    plain, _ = segment([pictures], tmp_path / "plain")
    assert keyed(shard) == {"001": ALL, "002": ALL, "a.b%/x%2Ey%252": ALL}
    with tarfile.open(shard) as archive:
        for name in ("001.labels.png", "002.overlay.jpg"):
            assert archive.extractfile(name).read() == (tmp_path / "plain" / name).read_bytes()
        record = json.load(archive.extractfile("002.json"))
    assert record["labels"] == f"{shard}/002.labels.png"
    assert [line.get("areas") for line in lines] == [line.get("areas") for line in plain]
    assert [line.get("code") for line in lines] == [line.get("code") for line in plain]
    assert [path.name for path in shard.parent.iterdir()] == ["out.tar"]
    found = find_pictures([shard]).pictures  # the overlays; label maps are masks
    assert [picture.path.name for picture in found if "2E" not in picture.stem] == [
        "001.overlay.jpg",
        "002.overlay.jpg",
    ]


def test_P02_a_tar_cut_anywhere_is_completed_without_duplicates(tmp_path):
    pictures, shard = draw(tmp_path / "in", 3), tmp_path / "out.tar"
    segment([pictures], shard)
    whole = shard.read_bytes()
    with tarfile.open(shard) as archive:
        members = archive.getmembers()
    ends = [m.offset_data + -(-m.size // 512) * 512 for m in members]
    records = [m.offset_data + m.size for m in members if m.name.endswith(".json")]
    cuts = {512, *ends, *(m.offset_data for m in members[1:])}
    cuts |= {cut + step for cut in ends[:-1] for step in (-512, 100, 600)} | {len(whole) - 700}
    for cut in sorted(cuts):
        shard.write_bytes(whole[:cut])
        scratch = tmp_path / ".out.tar.x.tmp"
        scratch.mkdir()
        (scratch / "000.json").write_text("left by a killed call")
        _, outcomes = segment([pictures], shard)
        assert shard.read_bytes() == whole, cut
        assert sum(o.seconds == 0 for o in outcomes) == sum(end <= cut for end in records), cut
        assert not scratch.exists()


def test_several_processes_fill_one_tar(tmp_path, monkeypatch):
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    model, pictures = tiny(tmp_path / "tiny.onnx"), draw(tmp_path / "in", 5)
    one, two = tmp_path / "one.tar", tmp_path / "two.tar"
    segment_many([pictures], model, one)
    segment_many([pictures], model, two, jobs=2)
    assert {key: keyed(two)[key] for key in sorted(keyed(two))} == keyed(one)
    assert list(keyed(one).items()) == [(f"{i:03}", ALL) for i in range(5)]
    outcomes = []
    segment_many([pictures], model, two, on_outcome=outcomes.append)
    assert [o.seconds for o in outcomes] == [0] * 5


def test_other_models_and_changed_pictures_are_refused(tmp_path):
    pictures, shard = draw(tmp_path / "in", 2), tmp_path / "out.tar"
    segment([pictures], shard)
    before = shard.read_bytes()
    other = BrightestChannel()
    other.fingerprint = "other"
    for model, options in (
        (Predictor(other), {}),
        (Predictor(BrightestChannel()), {"extras": Extras(overlay=False)}),
        (Predictor(BrightestChannel()), {"overwrite": True}),
    ):
        lines = segment_many([pictures], model, shard, **options)
        assert [line["code"] for line in lines] == ["E-OUT-TAKEN"] * 2
    (pictures / "000.png").write_bytes((pictures / "001.png").read_bytes())
    lines, _ = segment([pictures], shard)
    assert [line.get("code") for line in lines] == ["E-OUT-TAKEN", None]
    assert shard.read_bytes() == before


@pytest.mark.parametrize("content", [b"no tar", b"no tar" * 2000, "a tar of others", "added to"])
def test_a_file_of_others_stays(content, tmp_path):
    pictures, out = draw(tmp_path / "in", 1), tmp_path / "out.tar"
    if isinstance(content, bytes):
        out.write_bytes(content)
    else:
        if content == "added to":
            segment([pictures], out)
        with tarfile.open(out, "a") as archive:
            archive.add(__file__, "mine.txt")
    before = out.read_bytes()
    with pytest.raises(AtrousError) as caught:
        segment([pictures], out)
    assert caught.value.code == "E-OUT-TAKEN"
    assert out.read_bytes() == before


def test_a_tar_is_written_by_one_call_at_a_time(tmp_path):
    pictures, out = draw(tmp_path / "in", 1), tmp_path / "out.tar"
    with out.open("w") as file:
        assert locked(file)
        with pytest.raises(AtrousError) as caught:
            segment([pictures], out)
    assert caught.value.code == "E-OUT-TAKEN"


def test_a_full_disk_leaves_whole_pictures(tmp_path, monkeypatch):
    pictures, out = draw(tmp_path / "in", 3), tmp_path / "out.tar"
    segment([pictures], out)
    whole = out.read_bytes()
    out.write_bytes(b"")
    room = len(whole) // 2

    class Small(io.FileIO):
        def write(self, data):
            left = room - self.tell()
            if left <= 0:
                raise OSError(errno.ENOSPC, "no space left")
            return super().write(data[:left])

    monkeypatch.setattr(tar_out, "_opened", lambda path: Small(path, "r+"))
    with pytest.raises(AtrousError) as caught:
        segment([pictures], out)
    assert caught.value.code == "E-DISK-FULL"
    monkeypatch.undo()
    assert whole.startswith(out.read_bytes()[:-1024])  # no part of the second picture
    assert keyed(out) == {"000": ALL}
    segment([pictures], out)
    assert out.read_bytes() == whole


def test_what_a_tar_cannot_hold_is_refused(tmp_path):
    pictures = draw(tmp_path / "in", 1)
    for out, options, code in (
        (tmp_path / "a.tar", {"engine": "ray"}, "E-JOBS"),
        (pictures / "000.png" / "a.tar", {}, "E-OUT"),
    ):
        with pytest.raises(AtrousError) as caught:
            segment_many([pictures], Predictor(BrightestChannel()), out, **options)
        assert caught.value.code == code
    video = Picture(Path("a.mp4"), "a")
    with pytest.raises(AtrousError) as caught:
        list(tar_out.segment_into_tar(lambda *_: iter(()), [video], tmp_path / "a.tar"))
    assert caught.value.code == "E-VIDEO-OPTION"
    assert not (tmp_path / "a.tar").exists()


def test_the_output_is_no_input_and_a_folder_of_that_name_stays_one(tmp_path):
    shard = packed(tmp_path)
    (tmp_path / "out.tar").write_bytes(b"")
    found = find_pictures([str(tmp_path / "*.tar")], tmp_path / "out.tar")
    assert {picture.stem.partition("/")[0] for picture in found.pictures} == {"a"}
    (tmp_path / "folder.tar").mkdir()
    segment([shard], tmp_path / "folder.tar")
    assert (tmp_path / "folder.tar" / "a" / "day" / "000.json").is_file()


def test_the_command_writes_a_tar_for_each_share(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    model, pictures = tiny(tmp_path / "tiny.onnx"), draw(tmp_path / "in", 3)
    out = tmp_path / "out.tar"
    command = ["predict", str(pictures), "--model", str(model), "--out", str(out)]
    for share in ("1/2", "2/2"):
        cli.main([*command, "--shard", share])
    assert list(keyed(tmp_path / "out.1-of-2.tar")) == ["000", "002"]
    assert list(keyed(tmp_path / "out.2-of-2.tar")) == ["001"]
    for option in (["--coco", "a.json"], ["--annotate", "coco"], ["--polygons", "a.geojson"]):
        with pytest.raises(SystemExit) as ended:
            cli.main([*command, *option])
        assert ended.value.code == 2
        assert "E-OUT" in capsys.readouterr().err


@pytest.mark.slow
def test_P02_a_killed_call_goes_on_in_its_tar(tmp_path, monkeypatch):
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    model, pictures = tiny(tmp_path / "tiny.onnx"), draw(tmp_path / "in", 300)
    out = tmp_path / "out.tar"
    command = [sys.executable, "-m", "atrous.cli", "predict", str(pictures), "--jobs", "2"]
    command += ["--model", str(model), "--out", str(out), "--json"]
    for kill in (1, 2, 3):
        with subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            for count, _ in enumerate(process.stdout or ()):
                if count == 60 * kill:
                    process.kill()
                    break
    assert out.stat().st_size > 0
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True)
    assert ended.returncode == 0
    assert sorted(keyed(out).items()) == [(f"{i:03}", ALL) for i in range(300)]
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["out.tar"]
