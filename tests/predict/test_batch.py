import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from atrous.errors import AtrousError
from atrous.predict.batch import Extras, segment_files
from atrous.predict.coco import write_coco
from atrous.predict.find import Picture, find_pictures
from atrous.predict.many import streams_for
from atrous.predict.predictor import Predictor
from tests.fake_engine import BrightestChannel


@pytest.fixture
def pictures(tmp_path):
    """Three pictures, two of the same name, and one that is none."""
    folder = tmp_path / "in"
    for name, color in (("a/x.png", "red"), ("b/x.png", "blue"), ("b/y.png", "lime")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), color).save(folder / name)
    (folder / "b" / "broken.jpg").write_bytes(b"no picture")
    (folder / "b" / "notes.txt").write_text("not looked at")
    return folder


def segmented(engine, paths, out, **options):
    """Segments what the paths stand for; returns the outcomes."""
    options.setdefault("extras", Extras())
    unknown_below = options.pop("unknown_below", 0)
    predictor = Predictor(engine, unknown_below=unknown_below)
    return list(segment_files(predictor, find_pictures(paths, out).pictures, out, **options))


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_folders_are_searched_and_files_taken_once(pictures):
    found = find_pictures([pictures / "b" / "y.png", pictures])
    assert [p.name for p in found.paths] == ["y.png", "x.png", "broken.jpg", "x.png"]


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(AtrousError, match="E-NO-PICTURES"):
        find_pictures([tmp_path])


def test_D20_odd_names_work(tmp_path):
    odd = [
        "with space.png",
        "ümläut.png",
        "emoji \U0001f600.png",
        "new\nline.png",
        "x" * 240 + ".png",
    ]
    for name in odd:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    outcomes = segmented(BrightestChannel(), [tmp_path], tmp_path / "out")
    assert [o.error for o in outcomes] == [None] * len(odd)
    assert len(names(tmp_path / "out")) == 3 * len(odd)


def test_P01_a_bad_picture_does_not_stop_the_others(pictures, tmp_path):
    outcomes = segmented(BrightestChannel(), [pictures], tmp_path / "out")
    assert [o.path.name for o in outcomes if o.error] == ["broken.jpg"]
    assert [o.path.name for o in outcomes if o.record] == ["x.png", "x.png", "y.png"]
    assert names(tmp_path / "out")[:3] == ["a/x.json", "a/x.labels.png", "a/x.overlay.jpg"]


def test_several_at_a_time_give_the_same_files_in_the_same_order(pictures, tmp_path):
    engine = BrightestChannel()
    one = segmented(engine, [pictures], tmp_path / "one")
    engine.streams = 2
    several = segmented(engine, [pictures], tmp_path / "several")
    assert [o.place for o in several] == [o.place for o in one]
    assert [o.error and o.error.code for o in several] == [o.error and o.error.code for o in one]
    assert names(tmp_path / "several") == names(tmp_path / "one")
    for name in (name for name in names(tmp_path / "one") if not name.endswith(".json")):
        assert (tmp_path / "several" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_stopped_batch_begins_no_more_pictures(tmp_path):
    for index in range(20):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{index}.png")
    engine = BrightestChannel()
    engine.streams = 2
    found = find_pictures([tmp_path], tmp_path / "out").pictures
    outcomes = segment_files(Predictor(engine), found, tmp_path / "out")
    next(outcomes)
    outcomes.close()
    begun = engine.calls
    assert begun <= 7
    assert len(list((tmp_path / "out").glob("*.json"))) == begun


@pytest.mark.parametrize(
    ("names", "options", "streams"),
    [
        (["a.jpg"] * 8, (2, None, None), 2),
        (["a.jpg"] * 7, (2, None, None), 1),  # too few to repay a second model
        (["a.jpg"] * 8, (1, None, None), 1),
        (["a.jpg"] * 8 + ["b.mp4"], (2, None, None), 1),
        (["a.jpg"] * 8, (2, 2, None), 1),  # processes, each with its share of the threads
        (["a.jpg"] * 8, (2, None, "ray"), 1),
        (["a.jpg"] * 999, (64, None, None), 8),
    ],
)
def test_how_many_pictures_are_seen_at_a_time(names, options, streams):
    pictures = [Picture(Path(name), Path(name).stem) for name in names]
    assert streams_for(pictures, *options) == streams


def test_P02_a_rerun_does_only_the_rest(pictures, tmp_path):
    engine, out = BrightestChannel(), tmp_path / "out"
    (pictures / "b" / "broken.jpg").unlink()
    segmented(engine, [pictures], out)
    (out / "b" / "y.json").unlink()  # as if killed before the last file
    (out / "a" / "x.labels.png").unlink()
    assert engine.calls == 3
    segmented(engine, [pictures], out)
    assert engine.calls == 5


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from atrous.predict.batch import segment_files
from atrous.predict.find import Picture, find_pictures
from atrous.predict.many import streams_for
from atrous.predict.predictor import Predictor
from tests.fake_engine import BrightestChannel
write, written = Path.write_bytes, []
def half(path, data):
    written.append(path)
    if len(written) == int(sys.argv[3]):
        write(path, data[:20])
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, data)
Path.write_bytes = half
out = Path(sys.argv[2])
found = find_pictures([Path(sys.argv[1])], out)
list(segment_files(Predictor(BrightestChannel()), found.pictures, out))
"""


@pytest.mark.parametrize("save", [4, 5, 6])  # of the second picture: labels, overlay, JSON
def test_P02_a_kill_leaves_no_part_of_a_file_and_a_rerun_does_the_rest(pictures, tmp_path, save):
    (pictures / "b" / "broken.jpg").unlink()
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(pictures), str(out), str(save)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], timeout=60)
    assert done.returncode == -signal.SIGKILL
    for path in out.rglob("*"):
        if path.suffix in (".png", ".jpg") and not path.name.startswith(".tmp-"):
            Image.open(path).load()  # whole
    assert (out / "a" / "x.json").is_file()
    engine = BrightestChannel()
    outcomes = segmented(engine, [pictures], out)
    assert engine.calls == 2
    assert not any(outcome.error for outcome in outcomes)


def test_P08_other_pictures_models_or_overwrite_redo_finished_output(pictures, tmp_path):
    engine, out = BrightestChannel(), tmp_path / "out"
    found = [pictures / "b" / "y.png"]
    segmented(engine, found, out)
    segmented(engine, found, out, overwrite=True)
    assert engine.calls == 2
    other = BrightestChannel()
    other.fingerprint = "another"
    segmented(other, found, out)
    assert other.calls == 1
    Image.new("RGB", (9, 7), "red").save(found[0])
    segmented(other, found, out)
    assert other.calls == 2


def test_P08_an_output_folder_that_is_a_file_is_refused(pictures, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(AtrousError, match="E-OUT"):
        segmented(BrightestChannel(), [pictures / "b/y.png"], tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_patterns_are_filled_in(pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    assert find_pictures([Path("b/*.png")]).paths == [Path("b/x.png"), Path("b/y.png")]
    assert find_pictures([pictures / "**" / "x.png"]).paths == [
        pictures / "a" / "x.png",
        pictures / "b" / "x.png",
    ]


def test_P08_a_pattern_without_matches_and_names_of_nothing_are_refused(tmp_path):
    with pytest.raises(AtrousError, match="E-NO-PICTURES"):
        find_pictures([tmp_path / "*.jpg"])
    with pytest.raises(AtrousError, match="E-FILE-MISSING"):
        find_pictures([tmp_path / "a.jpg", tmp_path / "b.jpg"])


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "[1].png")
    assert find_pictures([tmp_path / "[1].png"]).paths == [tmp_path / "[1].png"]


def test_a_picture_comes_from_standard_input(tmp_path, monkeypatch):
    content = io.BytesIO()
    Image.new("RGB", (9, 7), "blue").save(content, "PNG")
    engine = BrightestChannel()
    for _ in range(2):  # the second finds its output finished
        stream = SimpleNamespace(buffer=io.BytesIO(content.getvalue()))
        monkeypatch.setattr(sys, "stdin", stream)
        (outcome,) = segmented(engine, [Path("-")], tmp_path / "out")
        assert outcome.record is not None
        assert outcome.record["areas"] == {"blue": 1.0}
    assert names(tmp_path / "out") == ["stdin.json", "stdin.labels.png", "stdin.overlay.jpg"]
    assert engine.calls == 1


def test_shards_together_do_every_picture_once_under_the_same_names(pictures, tmp_path):
    (pictures / "b" / "broken.jpg").unlink()
    engine = BrightestChannel()
    segmented(engine, [pictures], tmp_path / "whole")
    engine.calls = 0
    for share in (1, 2):
        segmented(engine, [pictures], tmp_path / "shares", shard=(share, 2))
    assert engine.calls == 3
    assert names(tmp_path / "shares") == names(tmp_path / "whole")


def test_P08_other_options_redo_finished_output(pictures, tmp_path):
    engine, found = BrightestChannel(), [pictures / "b" / "y.png"]
    for extras in (Extras(), Extras(("red",)), Extras(("red",)), Extras(("red", "blue"))):
        segmented(engine, found, tmp_path / "out", extras=extras)
    assert engine.calls == 3
    segmented(engine, found, tmp_path / "out", unknown_below=0.4)
    assert engine.calls == 4
    assert {"y.red.png", "y.blue.png"} <= set(names(tmp_path / "out"))


def test_P12_no_metadata_leaves_unless_asked_for(tmp_path):
    exif = Image.Exif()
    exif[270], exif[274] = "a private place", 6  # ImageDescription, turned by a quarter
    Image.new("RGB", (9, 7)).save(tmp_path / "p.jpg", exif=exif)
    for keep in (False, True):
        out = tmp_path / str(keep)
        extras = Extras(keep_exif=keep)
        segmented(BrightestChannel(), [tmp_path / "p.jpg"], out, extras=extras)
        for name in ("p.labels.png", "p.overlay.jpg"):
            with Image.open(out / name) as image:
                assert image.size == (7, 9)
                kept = dict(image.getexif())
            expected = {270: "a private place"} if keep and name.endswith("jpg") else {}
            assert kept == expected


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'
def test_all_regions_go_into_one_coco_file(tmp_path):
    pixels = np.zeros((12, 16, 3), np.uint8)
    pixels[..., 0] = 200
    pixels[4:8, 4:12] = (0, 0, 250)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    counts = []
    for _ in range(2):  # the second call keeps what the first one made
        outcomes = segmented(BrightestChannel(), [tmp_path / "p.png"], tmp_path / "out")
        counts.append(write_coco(tmp_path / "regions.json", outcomes, BrightestChannel.classes))
    (count, again), (outcome,) = counts, outcomes
    assert count == again
    assert outcome.record is not None
    content = json.loads((tmp_path / "regions.json").read_text())
    assert count == len(content["annotations"]) == 2
    assert content["images"] == [{"id": 1, "file_name": "p.png", "height": 12, "width": 16}]
    names_of = {entry["id"]: entry["name"] for entry in content["categories"]}
    with Image.open(outcome.record["labels"]) as image:
        labels = np.asarray(image)
    for entry in content["annotations"]:
        runs = coco_mask.frPyObjects(entry["segmentation"], 12, 16)
        label = BrightestChannel.classes.index(names_of[entry["category_id"]])
        assert np.array_equal(coco_mask.decode(runs)[..., 0], labels == label)
