"""No output of another picture is ever replaced, and no output is ever an input."""

import hashlib
import io
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from PIL import Image

from atrous.errors import AtrousError
from atrous.predict.batch import Extras, segment_files
from atrous.predict.find import find_pictures
from atrous.predict.many import segment_many
from atrous.predict.predictor import Predictor
from atrous.predict.records import is_output
from tests.fake_engine import BrightestChannel


def draw(path: Path, color: object = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 7), color).save(path)
    return path


def predict(*paths: Path, out: Path, **options: object) -> list[str]:
    """Segments what the paths stand for; returns the stems of the output."""
    found = find_pictures(paths, out)
    predictor = Predictor(BrightestChannel())
    outcomes = list(segment_files(predictor, found.pictures, out, **options))
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    return [picture.stem for picture in found.pictures]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_named_file_gives_its_stem_and_a_folder_the_path_below_it(tmp_path):
    draw(tmp_path / "d/a/x.jpg")
    draw(tmp_path / "d/y.png")
    out = tmp_path / "out"
    assert predict(tmp_path / "d", out=out) == ["a/x", "y"]
    assert predict(tmp_path / "d/a", out=tmp_path / "o2") == ["x"]
    assert predict(tmp_path / "d/a/x.jpg", out=tmp_path / "o3") == ["x"]
    assert predict(tmp_path / "d", out=out) == ["a/x", "y"]  # whatever else is in the call
    assert (out / "a/x.labels.png").is_file()


@pytest.mark.parametrize(
    ("files", "stems"),
    [
        (["a/x.jpg", "b/x.jpg"], ["a/x", "b/x"]),
        (["y.jpg", "y.png", "y.jpg.tif"], ["y.jpg", "y.png", "y.jpg.tif"]),
        (["a/x.jpg", "a/x.png", "b/x.jpg", "b/z.jpg"], ["a/x.jpg", "a/x.png", "b/x", "z"]),
        (["x.jpg", "x.jpg"], ["x"]),
    ],
)
def test_equal_stems_of_one_call_keep_their_folders_then_their_suffixes(files, stems, tmp_path):
    for index, name in enumerate(files):
        draw(tmp_path / name, (index, 9, 9))
    assert predict(*(tmp_path / name for name in files), out=tmp_path / "out") == stems


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("named", ["folder", "file"])
def test_a_name_taken_by_another_picture_stops_the_call(named, overwrite, tmp_path):
    first, second = draw(tmp_path / "d/a/1.jpg"), draw(tmp_path / "d/b/1.jpg", "blue")
    other = draw(tmp_path / "d/b/0.jpg", "lime")
    out = tmp_path / "out"
    predict(first.parent if named == "folder" else first, out=out)
    before = contents(out)
    with pytest.raises(AtrousError) as caught:
        predict(*((other.parent,) if named == "folder" else (other, second)), out=out,
                overwrite=overwrite)  # fmt: skip
    assert caught.value.code == "E-OUT-TAKEN"
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)
    assert "--out" in caught.value.fix
    assert contents(out) == before  # it stopped before it started


def test_the_same_relative_name_from_another_folder_is_another_picture(tmp_path, monkeypatch):
    for place, color in (("a", "red"), ("b", "blue")):
        draw(tmp_path / place / "1.jpg", color)
    monkeypatch.chdir(tmp_path / "a")
    predict(Path("1.jpg"), out=tmp_path / "out")
    monkeypatch.chdir(tmp_path / "b")
    with pytest.raises(AtrousError) as caught:
        predict(Path("1.jpg"), out=tmp_path / "out")
    assert caught.value.code == "E-OUT-TAKEN"


def test_other_pictures_on_standard_input_are_other_pictures(tmp_path, monkeypatch):
    for color in ("red", "blue"):
        stream = io.BytesIO()
        Image.new("RGB", (9, 7), color).save(stream, "PNG")
        stdin = SimpleNamespace(buffer=io.BytesIO(stream.getvalue()))
        monkeypatch.setattr(sys, "stdin", stdin)
        if color == "red":
            predict(Path("-"), out=tmp_path / "out")
        else:
            with pytest.raises(AtrousError) as caught:
                predict(Path("-"), out=tmp_path / "out")
    assert caught.value.code == "E-OUT-TAKEN"


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_same_picture_is_done_again_when_it_changed(overwrite, tmp_path):
    path, out = draw(tmp_path / "1.png"), tmp_path / "out"
    predict(path, out=out)
    draw(path, "blue")
    predict(path, out=out, overwrite=overwrite)
    assert json.loads((out / "1.json").read_text())["areas"] == {"blue": 1.0}


def test_moved_pictures_and_output_are_still_finished(tmp_path):
    draw(tmp_path / "before/in/1.png")
    predict(tmp_path / "before/in", out=tmp_path / "before/out")
    (tmp_path / "before").rename(tmp_path / "after")
    engine, out = BrightestChannel(), tmp_path / "after/out"
    found = find_pictures([tmp_path / "after/in"], out)
    (outcome,) = segment_files(Predictor(engine), found.pictures, out)
    assert engine.calls == 0
    assert outcome.record is not None
    assert Path(outcome.record["labels"]).is_file()


@pytest.mark.parametrize("name", ["1.json", "1.labels.png", "1.overlay.jpg", "1.cat.png"])
def test_files_that_are_no_output_are_never_replaced(name, tmp_path):
    path = draw(tmp_path / "1.png")
    mine = tmp_path / name  # a LabelMe annotation, a mask drawn by hand
    if mine.suffix == ".json":
        mine.write_text('{"shapes": [], "imagePath": "1.png"}')
    else:
        draw(mine, "yellow")
    before = mine.read_bytes()

    class Cats(BrightestChannel):
        classes = ("cat", "dog", "cow")

    found = find_pictures([path], tmp_path)
    with pytest.raises(AtrousError) as caught:
        list(segment_files(Predictor(Cats()), found.pictures, tmp_path, extras=Extras(("cat",))))
    assert caught.value.code == "E-OUT-TAKEN"
    assert mine.read_bytes() == before


def test_predicting_a_folder_twice_does_not_segment_its_own_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw(Path("a.jpg"))
    draw(Path("b/c.png"), "blue")
    for out in (Path("masks"), Path("masks"), Path(), Path()):
        found = find_pictures([Path()], out)
        assert sorted(found.paths) == [Path("a.jpg"), Path("b/c.png")]
        predict(Path(), out=out)
    assert "earlier output of atrous predict" in found.left_out
    assert "in the output folder masks" in find_pictures([Path()], Path("masks")).left_out


def test_output_of_a_run_that_was_killed_is_no_picture_either(tmp_path):
    draw(tmp_path / "a.png")
    predict(tmp_path, out=tmp_path)
    (tmp_path / "a.json").unlink()
    assert find_pictures([tmp_path], tmp_path).paths == [tmp_path / "a.png"]
    predict(tmp_path, out=tmp_path)
    with pytest.raises(AtrousError) as caught:
        find_pictures([tmp_path / "a.labels.png", tmp_path / "a.overlay.jpg"])
    assert caught.value.code == "E-NO-PICTURES"


def test_masks_of_other_tools_are_pictures(tmp_path):
    for name in ("a.labels.png", "a.overlay.jpg", "a.b.c.png"):
        draw(tmp_path / name)
        assert not is_output(tmp_path / name)
    assert len(find_pictures([tmp_path]).pictures) == 3


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".jpeg", ".mpo"])
def test_jpegs_are_found_whatever_their_suffix(suffix, tmp_path):
    Image.new("RGB", (9, 7)).save(tmp_path / f"a{suffix}", "JPEG")
    assert predict(tmp_path, out=tmp_path / "out") == ["a"]


@pytest.mark.parametrize("name", ["b.j2k", "b.jp2", "b.mp4", "b.JP2", "b.svg", "b.txt"])
def test_what_is_left_out_of_a_folder_is_named(name, tmp_path):
    draw(tmp_path / "a.jpg")
    (tmp_path / name).write_bytes(b"something")
    found = find_pictures([tmp_path])
    assert found.paths == [tmp_path / "a.jpg"]
    (reason,) = found.left_out
    assert Path(name).suffix.lower() in reason
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(AtrousError) as caught:
        find_pictures([tmp_path])
    assert Path(name).suffix.lower() in caught.value.what


def test_segment_many_does_what_the_command_does(tmp_path):
    draw(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"no picture")
    predictor = Predictor(BrightestChannel())
    whole, broken = segment_many([tmp_path / "in"], predictor, tmp_path / "out")
    assert whole["areas"] == {"red": 1.0}
    assert broken["code"] == "E-IMAGE-FORMAT"
    assert broken["input"] == str(tmp_path / "in/b.png")


FOLDERS = ("", "a", "b", "a/b", "masks")
NAMES = ("1.jpg", "1.png", "1.jpg.png", "1.labels.png", "x.png")
places = st.tuples(st.sampled_from(FOLDERS), st.sampled_from(NAMES))


class Calls(RuleBasedStateMachine):
    """Pictures come and change, and `atrous predict` is called in any way."""

    @initialize()
    def start(self) -> None:
        self.root = Path(os.environ["CALLS"]) / hashlib.sha256(os.urandom(8)).hexdigest()[:12]
        self.root.mkdir()
        self.pictures: dict[Path, bytes] = {}
        self.colors = 0
        self.owners: dict[Path, Path] = {}  # JSON -> the picture it was of

    @rule(place=places)
    def draw(self, place: tuple[str, str]) -> None:
        path = self.root / place[0] / place[1]
        if path.exists() and path not in self.pictures:
            return  # nobody draws over an output
        self.colors += 1
        draw(path, (self.colors % 256, self.colors // 256, 9))
        self.pictures[path] = path.read_bytes()

    @rule(
        names=st.lists(st.one_of(places, st.sampled_from(FOLDERS)), min_size=1, max_size=3),
        out=st.sampled_from((*FOLDERS, "out")),
        overwrite=st.booleans(),
        extras=st.sampled_from([Extras(), Extras(("red",)), Extras(overlay=False, legend=False)]),
    )
    def predict(self, names, out, overwrite, extras) -> None:
        paths = [self.root / (n if isinstance(n, str) else "/".join(n)) for n in names]
        try:
            found = find_pictures(paths, self.root / out)
        except AtrousError:
            return
        existing = [path for path in found.paths if path.exists()]
        assert set(existing) <= set(self.pictures), "an output became an input"
        before = {path: path.read_bytes() for path in self.owners if path.exists()}
        predictor = Predictor(BrightestChannel())
        try:
            outcomes = list(
                segment_files(
                    predictor, found.pictures, self.root / out, overwrite=overwrite, extras=extras
                )
            )
        except AtrousError as error:
            assert error.code == "E-OUT-TAKEN"  # noqa: PT017
            assert all(path.read_bytes() == data for path, data in before.items())
            return
        for picture, outcome in zip(found.pictures, outcomes, strict=True):
            if outcome.record is not None:
                summary = self.root / out / f"{picture.stem}.json"
                owner = self.owners.setdefault(summary, picture.path)
                assert owner == picture.path, "the output of another picture was replaced"

    @rule(place=st.sampled_from((*FOLDERS, "out")))
    def lose_a_record(self, place: str) -> None:
        for path in list(self.owners):
            if path.parent == self.root / place:
                path.unlink(missing_ok=True)  # as if killed before the last file

    @invariant()
    def pictures_are_as_they_were_drawn(self) -> None:
        for path, data in getattr(self, "pictures", {}).items():
            assert path.read_bytes() == data, "an output replaced a picture"

    @invariant()
    def records_are_of_their_owner(self) -> None:
        for path, owner in getattr(self, "owners", {}).items():
            if path.exists():
                assert json.loads(path.read_text())["input"] == str(owner)

    def teardown(self) -> None:
        shutil.rmtree(getattr(self, "root", "none"), ignore_errors=True)


@pytest.fixture(autouse=True)
def _calls(tmp_path, monkeypatch):
    monkeypatch.setenv("CALLS", str(tmp_path))


TestCalls = Calls.TestCase
TestCalls.settings = settings(
    max_examples=40,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_a_folder_says_of_everything_it_leaves_out_why(tmp_path):
    folder = tmp_path / "in"
    draw(folder / "a.png")
    for name in (
        *(".b.png", "c.txt", "d.pdf", "e.zip", "f.mp4", "g.json", "h.dng", "i.nii", "README"),
        *("deep/j.xmp", ".cache/k.png"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"content")
    (folder / "link").symlink_to(tmp_path)
    (folder / "gone.png").symlink_to(tmp_path / "gone")
    found = find_pictures([folder])
    assert [path.name for path in found.paths] == ["a.png"]
    assert found.left_out == {
        "hidden files": 1,
        "hidden folders": 1,
        "links to folders": 1,
        "broken links and devices": 1,
        ".txt (no picture)": 1,
        "README (no picture)": 1,
        ".xmp (no picture)": 1,
        ".pdf (a document)": 1,
        ".zip (an archive: unpack it first)": 1,
        ".mp4 (a video)": 1,
        ".json (a record or annotations)": 1,
        ".dng (a camera's raw)": 1,
        ".nii (not read: save it as TIFF)": 1,
    }


def test_a_folder_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    draw(tmp_path / "a.png")
    draw(tmp_path / "locked" / "b.png")
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "locked":
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert find_pictures([tmp_path]).left_out == {"folders that cannot be read": 1}
