"""Pictures and output in an S3 store: moto's server on loopback, with faults in front of it."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous import cli
from atrous.errors import AtrousError
from atrous.images.stores import place
from atrous.predict.find import find_pictures
from atrous.predict.many import segment_many
from atrous.predict.predictor import Predictor
from tests.engines.test_openvino import tiny
from tests.fake_engine import BrightestChannel
from tests.s3_server import s3_server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with (
        pytest.MonkeyPatch.context() as environment,
        s3_server(environment, tmp_path_factory.mktemp("s3")) as faults,
    ):
        yield faults


@pytest.fixture
def faults(server):
    server.clear()
    return server


@pytest.fixture
def store(faults):
    """The store with three pictures, one of them bad, and a text."""
    import s3fs

    store = s3fs.S3FileSystem(use_listings_cache=False)
    for name, color in (("a/x.png", "red"), ("b/x.png", "blue")):
        store.pipe_file(f"box/in/{name}", png(color))
    store.pipe_file("box/in/bad.png", b"no picture")
    store.pipe_file("box/in/notes.txt", b"not looked at")
    faults.seen.clear()
    return store


def png(color: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (9, 7), color).save(stream, "PNG")
    return stream.getvalue()


def segment(paths=("s3://box/in",), out="s3://box/out", **options):
    """Returns the lines of a call, and the outcomes."""
    outcomes = []
    predictor = Predictor(options.pop("engine", None) or BrightestChannel())
    lines = segment_many(paths, predictor, out, on_outcome=outcomes.append, **options)
    return lines, outcomes


def names(store, folder="box/out") -> list[str]:
    return sorted(name.removeprefix(f"{folder}/") for name in store.find(folder))


def requests(faults, start: str) -> list[str]:
    return sorted(request for request in faults.seen if request.startswith(start))


def test_a_bucket_gives_what_a_folder_gives(store, tmp_path):
    store.get("box/in", str(tmp_path / "in"), recursive=True)
    local, _ = segment([tmp_path / "in"], tmp_path / "out")
    remote, _ = segment()
    for mine, theirs in zip(local, remote, strict=True):
        assert theirs.pop("input") == mine.pop("input").replace(f"{tmp_path}", "s3://box")
        for key in ("labels", "overlay"):
            file, there = mine.pop(key, None), theirs.pop(key, None)
            if file is not None:
                assert there == file.replace(f"{tmp_path}", "s3://box")
                assert np.array_equal(
                    Image.open(file), Image.open(io.BytesIO(store.cat_file(there)))
                )
        assert mine == theirs
    assert names(store) == sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")
    )


def test_patterns_and_single_objects_are_found(store):
    assert [line["input"] for line in segment(["s3://box/in/*/x.png"])[0]] == [
        "s3://box/in/a/x.png",
        "s3://box/in/b/x.png",
    ]
    lines, _ = segment(["s3://box/in/b/x.png", "s3://box/in/none.png"], "s3://box/two")
    assert [line.get("code") for line in lines] == [None, "E-FILE-MISSING"]
    assert names(store, "box/two") == ["x.json", "x.labels.png", "x.overlay.jpg"]


def test_output_in_the_folder_of_the_pictures_is_not_segmented(store):
    segment(out="s3://box/in/masks")
    assert len(segment(out="s3://box/in/masks")[0]) == 3
    segment(out="s3://box/in")
    assert len(segment(out="s3://box/in")[0]) == 3


def test_a_rerun_reads_records_only_and_does_what_changed(store, faults):
    segment()
    faults.seen.clear()
    _, outcomes = segment()
    assert [outcome.seconds == 0 for outcome in outcomes] == [True, True, False]
    assert not requests(faults, "PUT")
    assert [name for name in requests(faults, "GET") if "/in/" in name] == ["GET /box/in/bad.png"]
    store.pipe_file("box/in/a/x.png", png("lime"))  # another picture of the same name
    store.rm_file("box/out/b/x.labels.png")
    lines, outcomes = segment()
    assert [outcome.seconds == 0 for outcome in outcomes] == [False] * 3
    assert lines[0]["areas"] == {"green": 1.0}
    segment(overwrite=True)
    assert len(names(store)) == 6


class Interrupted(BrightestChannel):
    """Somebody else writes while this engine looks."""

    def __init__(self, store, key: str) -> None:
        super().__init__()
        self.store, self.key = store, key

    def coarse_logits(self, image):
        self.store.pipe_file(self.key, b"theirs")
        return super().coarse_logits(image)


@pytest.mark.parametrize("name", ["x.labels.png", "x.overlay.jpg", "x.json"])
def test_the_second_writer_is_refused(store, name):
    engine = Interrupted(store, f"box/out/{name}")
    lines, _ = segment(["s3://box/in/a/x.png"], engine=engine)
    assert [line["code"] for line in lines] == ["E-OUT-TAKEN"]
    assert store.cat_file(f"box/out/{name}") == b"theirs"
    lines, _ = segment(["s3://box/in/a/x.png"], overwrite=True)  # it is still not ours
    assert [line["code"] for line in lines] == ["E-OUT-TAKEN"]
    assert store.cat_file(f"box/out/{name}") == b"theirs"


def test_a_busy_store_is_asked_again(store, faults):
    faults.busy = 1
    lines, _ = segment(["s3://box/in/a/x.png"])
    assert lines[0]["areas"] == {"red": 1.0}
    assert names(store) == ["x.json", "x.labels.png", "x.overlay.jpg"]
    assert faults.seen["PUT /box/out/x.json"] > 1


@pytest.mark.parametrize("key", ["wrong", None])
def test_wrong_or_no_credentials_end_the_call_with_a_code(key, store, faults, monkeypatch, capsys):
    faults.post("reset-auth", b"0")  # moto checks from now on
    monkeypatch.setenv("HOME", "/nowhere")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, key) if key else monkeypatch.delenv(name)
    type(store).clear_instance_cache()
    monkeypatch.setattr(
        "atrous.predict.predictor.open_engine", lambda _model, **_: BrightestChannel()
    )
    with pytest.raises(SystemExit) as caught:
        cli.main(["predict", "s3://box/in", "--out", "s3://box/out"])
    type(store).clear_instance_cache()
    assert caught.value.code == 2
    assert "E-STORE-ACCESS" in capsys.readouterr().err


def test_a_store_that_refuses_output_ends_the_call(store, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Access Denied")

    monkeypatch.setattr(store, "pipe_file", refuse)  # fsspec keeps one object for equal options
    with pytest.raises(AtrousError) as caught:
        segment()
    assert caught.value.code == "E-STORE-ACCESS"


def test_a_missing_bucket_is_said(faults):
    for paths, out in ((["s3://none/in"], "s3://box/out"), ([__file__], "s3://none/out")):
        with pytest.raises(AtrousError) as caught:
            segment(paths, out)
        assert caught.value.code == "E-FILE-MISSING"


@pytest.mark.parametrize("name", ["x.labels.png", "x.json"])
def test_P02_a_kill_while_writing_leaves_whole_objects(name, store, faults, tmp_path):
    model = tiny(tmp_path / "tiny.onnx")
    faults.hang = name
    words = [sys.executable, "-m", "atrous.cli", "predict", "s3://box/in/a", "--model", str(model)]
    with subprocess.Popen([*words, "--out", "s3://box/out"]) as process:
        assert faults.hung.wait(100)
        process.kill()
    assert names(store) == ["x.labels.png", "x.overlay.jpg"][: 2 if name == "x.json" else 0]
    faults.hang = "\0"
    line = segment_many(["s3://box/in/a"], str(model), "s3://box/out")[0]
    Image.open(io.BytesIO(store.cat_file(line["labels"]))).load()
    assert json.loads(store.cat_file("box/out/x.json"))["size"] == [7, 9]


def test_a_large_tiff_is_read_by_ranges(store, faults, tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.tif", tiffinfo={278: 8})  # strips of 8 rows
    store.put_file(str(tmp_path / "x.tif"), "box/in/x.tif")
    monkeypatch.setattr(Predictor, "fits", lambda *_: False)
    monkeypatch.setattr("atrous.images.stores.fetch", None)  # never whole
    lines, _ = segment(["s3://box/in/x.tif"])
    local, _ = segment([tmp_path / "x.tif"], tmp_path / "out")
    assert lines[0]["areas"] == local[0]["areas"]
    remote = Image.open(io.BytesIO(store.cat_file(lines[0]["labels"])))
    assert np.array_equal(remote, Image.open(local[0]["labels"]))


def test_W01_output_of_odd_keys_stays_in_the_folder(store):
    store.pipe_file("box/odd/../up.png", png("red"))
    store.pipe_file("box/odd/good.png", png("red"))
    found = find_pictures(["s3://box/odd"])
    assert [picture.stem for picture in found.pictures] == ["good"]


def test_a_tar_in_a_bucket_is_read_by_ranges(store, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a/x.png", "b/x.png"):
            store.get_file(f"box/in/{name}", str(tmp_path / "x.png"))
            archive.add(tmp_path / "x.png", name)
    store.put_file(str(tmp_path / "a.tar"), "box/tars/a.tar")
    lines, _ = segment(["s3://box/tars/*.tar"])
    assert [line["areas"] for line in lines] == [{"red": 1.0}, {"blue": 1.0}]
    assert names(store)[:2] == ["a/a/x.json", "a/a/x.labels.png"]


def test_an_address_is_no_name_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place("s3") == Path("s3")
    assert place("nothing://x") == Path("nothing:/x")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    pytest.importorskip("upath", reason="needs the extra cloud")
    with pytest.raises(AtrousError) as caught:
        place("gs://box/x.png")
    assert (caught.value.code, "gcsfs" in str(caught.value)) == ("E-MISSING-EXTRA", True)


def test_nothing_of_stores_is_imported_without_an_address(tmp_path):
    Image.new("RGB", (9, 7)).save(tmp_path / "x.png")
    code = (
        "import sys; from atrous import cli; from atrous.predict.predictor import Predictor\n"
        "from atrous.predict.many import segment_many\n"
        "from tests.fake_engine import BrightestChannel\n"
        f"segment_many([{str(tmp_path)!r}], Predictor(BrightestChannel()), {str(tmp_path)!r})\n"
        "print({'fsspec', 'upath', 's3fs', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == "set()\n", done.stderr
