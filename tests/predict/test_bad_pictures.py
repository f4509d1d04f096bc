"""One bad picture never ends a batch; a full disk ends it, with nothing half-written."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.cli import main
from atrous.errors import AtrousError, ExitCode
from atrous.images import decode
from atrous.predict.batch import Extras, segment_files
from atrous.predict.find import find_pictures
from atrous.predict.predictor import Predictor
from tests.fake_engine import BrightestChannel


def draw(path: Path, size=(9, 7)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)
    return path


def outcomes(folder: Path, out: Path, engine=None, **options):
    found = find_pictures([folder], out)
    return list(
        segment_files(Predictor(engine or BrightestChannel()), found.pictures, out, **options)
    )


class Fails(BrightestChannel):
    """Fails for pictures of one width, in one way."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def coarse_logits(self, image):
        if image.shape[1] == 5:
            raise self.error
        return super().coarse_logits(image)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "E-MEMORY"),
        (RuntimeError("the engine"), "E-BUG"),
        (KeyError("x"), "E-BUG"),
        (OSError(errno.EIO, "Input/output error"), "E-FILE-IO"),
        (AtrousError("E-OURS", "of ours"), "E-OURS"),
    ],
)
def test_whatever_happens_to_one_picture_the_others_are_done(error, code, tmp_path):
    for name, width in (("a", 9), ("b", 5), ("c", 9)):
        draw(tmp_path / f"in/{name}.png", (width, 7))
    found = outcomes(tmp_path / "in", tmp_path / "out", Fails(error))
    assert [o.error.code if o.error else None for o in found] == [None, code, None]
    assert not list((tmp_path / "out").glob("b.*"))


def test_a_file_that_may_not_be_read_is_said_to_be(tmp_path, monkeypatch):
    for name in "abc":
        draw(tmp_path / f"in/{name}.png")
    opened = Path.open

    def refusing(path, *arguments, **options):
        if path.name == "b.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)
    found = outcomes(tmp_path / "in", tmp_path / "out")
    assert [o.error.code if o.error else None for o in found] == [None, "E-FILE-IO", None]
    assert "Permission denied" in str(found[1].error)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("write", [1, 2, 3])
def test_a_full_disk_ends_the_batch_with_nothing_half_written(number, write, tmp_path, monkeypatch):
    for name in "abc":
        draw(tmp_path / f"in/{name}.png")
    written, count = Path.write_bytes, [0]

    def full(path, data):
        if ".tmp-" in path.name:
            count[0] += 1
            if count[0] >= 3 + write:
                written(path, data[: len(data) // 2])
                raise OSError(number, os.strerror(number), str(path))
        return written(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(AtrousError) as caught:
        outcomes(tmp_path / "in", tmp_path / "out")
    assert (caught.value.code, caught.value.exit_code) == ("E-DISK-FULL", ExitCode.RESOURCES)
    for path in (tmp_path / "out").iterdir():
        assert not path.name.startswith(".tmp-")
        json.loads(path.read_text()) if path.suffix == ".json" else Image.open(path).load()
    assert (tmp_path / "out/a.json").is_file()
    monkeypatch.undo()
    assert [o.error for o in outcomes(tmp_path / "in", tmp_path / "out")] == [None] * 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full_has_a_number_in_its_error():
    with pytest.raises(OSError, match="No space") as caught:
        Path("/dev/full").write_bytes(b"x" * 100_000)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below"])
def test_output_that_cannot_be_a_folder_is_refused_before_the_first_picture(place, tmp_path):
    draw(tmp_path / "in/a.png")
    (tmp_path / "file").write_text("mine")
    engine = BrightestChannel()
    with pytest.raises(AtrousError) as caught:
        outcomes(tmp_path / "in", tmp_path / place, engine)
    assert caught.value.code == "E-OUT"
    assert engine.calls == 0


@pytest.mark.parametrize("size", [(70_000, 3), (3, 70_000)])
@pytest.mark.parametrize("legend", [False, True])
def test_a_picture_too_long_for_jpeg_gets_a_reduced_overlay(size, legend, tmp_path):
    draw(tmp_path / "in/a.png", size)
    (outcome,) = outcomes(tmp_path / "in", tmp_path / "out", extras=Extras(legend=legend))
    assert outcome.error is None
    with Image.open(tmp_path / "out/a.labels.png") as labels:
        assert labels.size == size
    with Image.open(tmp_path / "out/a.overlay.jpg") as overlay:
        assert max(overlay.size) <= 65_535


def test_exif_of_a_tiff_of_any_size_is_kept_without_what_describes_its_pixels(tmp_path):
    image = Image.new("1", (10_001, 10_001))
    tags = {270: "a place", 274: 6, 278: 1000}
    image.save(tmp_path / "a.tif", compression="tiff_adobe_deflate", tiffinfo=tags)
    exif = Image.Exif()
    exif.load(decode.exif_of(tmp_path / "a.tif"))
    assert dict(exif) == {270: "a place"}


def test_one_pass_through_the_tiles_writes_every_class(tmp_path, monkeypatch):
    class Tiled(BrightestChannel):
        reach, bytes_per_pixel = 32, 2000

    pixels = np.random.default_rng(0).integers(0, 256, (512, 640, 3), np.uint8)
    engine = Tiled()
    result = Predictor(engine, memory=500_000_000)(pixels)
    whole = Predictor(BrightestChannel())(pixels)
    monkeypatch.setattr("atrous.predict.tiles._BYTES_AT_MOST", 10**9)
    result = Predictor(engine, memory=600_000_000)(pixels)
    assert type(result).__name__ == "TiledSegmentation"
    engine.calls = 0
    result.save(tmp_path, "none", overlay=False)
    calls, engine.calls = engine.calls, 0
    record = result.save(tmp_path, "all", probabilities=whole.classes, cutouts=("red", "blue"))
    assert engine.calls == calls
    for name in whole.classes:
        with Image.open(record["probabilities"][name]) as image:
            found = np.asarray(image) / 255
        assert np.abs(found - whole.probability(name)).max() < 0.01
    with Image.open(record["cutouts"]["red"]) as image:
        alpha = np.asarray(image)[..., 3].astype(int)
    assert np.abs(alpha - np.asarray(whole.cutout("red"))[..., 3]).max() <= 4
    assert record["confidence"] == pytest.approx(whole.confidence, abs=1e-3)


def test_P01_json_has_a_line_for_every_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "atrous.predict.predictor.open_engine", lambda _model, **_: BrightestChannel()
    )
    draw(tmp_path / "in/a.png")
    for name, data in (("b.png", b"no"), ("c.jpg", b"\xff\xd8\xff cut"), ("d.png", b"")):
        (tmp_path / "in" / name).write_bytes(data)
    with pytest.raises(SystemExit) as caught:
        main(["predict", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--json"])
    assert caught.value.code == ExitCode.SOME_FAILED
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["input"]).name for line in lines] == ["a.png", "b.png", "c.jpg", "d.png"]
    assert ["error" in line for line in lines] == [False, True, True, True]
    assert all(line["code"].startswith("E-") for line in lines[1:])


def test_regions_name_pictures_of_equal_names_apart_and_shards_write_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "atrous.predict.predictor.open_engine", lambda _model, **_: BrightestChannel()
    )
    for name in ("a/1.png", "b/1.png", "c/1.png"):
        draw(tmp_path / "in" / name)
    arguments = ["predict", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    main([*arguments, "--coco", str(tmp_path / "all.json")])
    images = json.loads((tmp_path / "all.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["a/1.png", "b/1.png", "c/1.png"]
    shards = []
    for share in (1, 2):
        main([*arguments, "--coco", str(tmp_path / "some.json"), "--shard", f"{share}/2"])
        path = tmp_path / f"some.{share}-of-2.json"
        shards += json.loads(path.read_text())["images"]
    assert sorted(shards, key=lambda image: image["id"]) == images
    assert not (tmp_path / "some.json").exists()


def test_errors_in_the_block_of_open_image_are_not_the_pictures(tmp_path):
    draw(tmp_path / "a.png")
    for error in (KeyError("mine"), ValueError("mine"), OSError("mine")):
        with pytest.raises(type(error), match="mine"), decode.open_image(tmp_path / "a.png"):
            raise error
