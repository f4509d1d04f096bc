"""`atrous predict --annotate`: what it writes comes back through the project's readers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import atrous
from atrous.cli import main
from atrous.cli import predict as command
from atrous.errors import AtrousError
from atrous.evaluation.boundary import contours, squared_distance
from atrous.predict.find import Picture
from atrous.predict.pre_annotations import IMPORT, PreAnnotations
from tests.fake_engine import BrightestChannel


class Blobs(BrightestChannel):
    classes = ("background", "green", "blue")


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    monkeypatch.setattr("atrous.predict.predictor.open_engine", lambda _model, **_: Blobs())


@pytest.fixture
def photos(tmp_path):
    """Two pictures of one name in two folders, of several sizes."""
    for number, name in enumerate(("a/x.png", "b/x.png", "b/y.png")):
        rows, columns = np.mgrid[: 48 + 8 * number, :64]
        pixels = np.zeros((*rows.shape, 3), np.uint8)
        pixels[..., 0] = 200
        for channel, (y, x), radius in ((1, (20, 20), 15), (2, (30, 44), 12), (1, (30, 44), 5)):
            inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
            pixels[inside] = 0
            pixels[inside, channel] = 255
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def predicted(photos, out):
    """Returns the labels that `atrous predict` wrote, by name."""
    return {
        path.relative_to(out).as_posix().removesuffix(".labels.png"): np.asarray(Image.open(path))
        for path in out.rglob("*.labels.png")
    }


def read_back(target, photos, kind):
    """Returns the labels of every picture by its name, read as a data set."""
    if kind == "labelme":
        folder = target
    else:
        folder = target.parent
        shutil.copytree(photos, folder / "images")
    found = {}
    for split in ("train", "val"):
        try:
            data = atrous.data.open_dataset(target if kind == "yolo" else folder, split)
        except AtrousError:  # all pictures are in the other split
            continue
        order = np.array([Blobs.classes.index(name) for name in data.classes])
        for index, name in enumerate(data.names):
            stem = "/".join(Path(name).with_suffix("").parts[-2:])
            found[stem] = order[data[index][1]]
    return found


@pytest.mark.parametrize("tolerance", [0, None])
@pytest.mark.parametrize("kind", ["labelme", "cvat", "coco", "yolo"])
def test_annotations_of_a_call_read_back_give_its_labels(kind, tolerance, photos, tmp_path, capsys):
    out = tmp_path / "out"
    more = [] if tolerance is None else ["--tolerance", str(tolerance)]
    main_in_process(["predict", photos, "--out", out, "--annotate", kind, *more])
    printed = capsys.readouterr().out
    target = next(line for line in printed.splitlines() if "annotations of 3" in line)
    found = read_back(Path(target.split(" in ")[1]), photos, kind)
    true = predicted(photos, out)
    assert sorted(found) == sorted(true) == ["a/x", "b/x", "b/y"]
    for name, labels in true.items():
        distance = np.sqrt(squared_distance(contours(labels), 10))
        wrong = distance[found[name] != labels]
        assert not len(wrong) if tolerance == 0 else wrong.max(initial=0) <= 1.5


def main_in_process(words):
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.mark.parametrize("kind", sorted(IMPORT))
def test_kept_pictures_are_annotated_too_and_json_stays_alone(kind, photos, tmp_path, capsys):
    call = ["predict", photos, "--out", tmp_path / "out", "--json"]
    main_in_process(call)
    first = capsys.readouterr().out
    assert main_in_process([*call, "--annotate", kind]) == 0
    second = capsys.readouterr()
    assert second.out == first
    assert "annotations of 3 pictures in " in second.err
    assert "to import them: " in second.err
    content = [path for path in (tmp_path / "out" / kind).rglob("*") if path.is_file()]
    if kind in ("labelme", "yolo"):  # a file for each picture, and for YOLO the names of classes
        assert len(content) == 3 + (kind == "yolo")
    else:
        text = content[0].read_text()
        assert all(text.count(name) == 1 for name in ("a/x.png", "b/x.png", "b/y.png"))


@pytest.mark.parametrize(("kind", "file"), [("labelme", "b/x.json"), ("yolo", "labels/b/x.txt")])
def test_corrected_files_are_kept_and_said(kind, file, photos, tmp_path, capsys):
    call = ["predict", photos, "--out", tmp_path / "out", "--annotate", kind]
    main_in_process(call)
    corrected = tmp_path / "out" / kind / file
    before = corrected.read_text()
    corrected.write_text("corrected by hand")
    (tmp_path / "out" / kind / file.replace("b/x", "b/y")).unlink()
    capsys.readouterr()
    main_in_process(call)
    printed = capsys.readouterr().out
    assert "annotations of 1 pictures in " in printed
    assert "annotations of 2 pictures were there and are kept" in printed
    assert corrected.read_text() == "corrected by hand"
    main_in_process([*call, "--overwrite"])
    assert corrected.read_text() == before


def test_shards_write_apart_and_together_have_every_picture(photos, tmp_path):
    out = tmp_path / "out"
    names = []
    for share in ("1/2", "2/2"):
        main_in_process(["predict", photos, "--out", out, "--annotate", "coco", "--shard", share])
        file = out / f"{share[0]}-of-2" / "coco" / "instances.json"
        names += [image["file_name"] for image in json.loads(file.read_text())["images"]]
    assert sorted(names) == ["a/x.png", "b/x.png", "b/y.png"]


def test_a_record_never_lies_among_annotations(photos, tmp_path, capsys):
    (photos / "a").rename(photos / "labelme")
    out = tmp_path / "out"
    assert main_in_process(["predict", photos, "--out", out, "--annotate", "labelme"]) == 2
    assert "its record would lie among the annotations" in capsys.readouterr().err
    assert not out.exists()
    assert main_in_process(["predict", photos, "--out", out, "--annotate", "cvat"]) == 0


def test_annotations_need_a_file_to_name_and_a_folder_to_lie_in(tmp_path):
    stdin = [Picture(Path("-"), "stdin", b"content")]
    with pytest.raises(AtrousError, match="E-ANNOTATE"):
        PreAnnotations("cvat", stdin, tmp_path)
    (tmp_path / "cvat").write_text("a file")
    with pytest.raises(AtrousError, match="E-OUT-TAKEN"):
        PreAnnotations("cvat", [], tmp_path)


def test_tolerance_without_annotate_is_refused(photos, tmp_path, capsys):
    assert main_in_process(["predict", photos, "--tolerance", 2]) == 2
    assert "--tolerance is of --annotate" in capsys.readouterr().err


def test_the_command_offers_every_kind():
    assert sorted(command._TOOLS) == sorted(IMPORT)
