"""atrous evaluate and atrous submit from the shell, and the report they write."""

import json
import re
import tarfile
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from atrous.classes import ADE20K, ADE20K_31, ADE20K_151, VOC
from atrous.cli import evaluate as cli_evaluate
from atrous.cli.evaluate import evaluate
from atrous.cli.submit import submit
from atrous.data.scenes import procedural
from atrous.errors import AtrousError
from atrous.evaluation.report import charts


class Painter:
    """An engine that reads the class from the red channel; `blind` misses one class."""

    classes, palette = VOC.classes, VOC.palette
    logits_stride = 1

    def __init__(self, blind=None):
        self.blind = blind
        self.fingerprint = f"{blind}" * 8

    def coarse_logits(self, image):
        red = image[..., :1].astype(np.float32) / 12
        logits = -np.abs(red - np.arange(len(self.classes), dtype=np.float32))
        if self.blind is not None:
            logits[..., self.blind] = -99
        return logits


class Few(Painter):
    """One that does not know all classes, and takes the others for the nearest it knows."""

    classes = ("background", "bird", "cow", "diningtable", "person")
    palette = VOC.palette[: len(classes)]
    fingerprint = "few"

    def __init__(self):
        self.known = [VOC.classes.index(name) for name in self.classes]

    def coarse_logits(self, image):
        return -np.abs(image[..., :1].astype(np.float32) / 12 - np.float32(self.known))


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    root = tmp_path_factory.mktemp("devkit") / "<b>VOC"
    rng = np.random.default_rng(0)
    names = [f"2008_00000{i}" for i in range(6)]
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for name in names:
        target = np.zeros((40, 60), np.uint8)
        for _ in range(3):
            y, x = rng.integers(0, 25), rng.integers(0, 40)
            target[y : y + 15, x : x + 20] = rng.choice([3, 8, 12])
        image = Image.fromarray(np.stack([target * 12] * 3, -1))
        image.save(root / "JPEGImages" / f"{name}.png")
        target[0] = 255
        mask = Image.fromarray(target, "P")
        mask.putpalette([c for color in VOC.palette for c in color])
        mask.save(root / "SegmentationClass" / f"{name}.png")
    for split in ("val", "train"):
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.write_text("".join(f"{name}\n" for name in names))
    return root


@pytest.fixture(autouse=True)
def engines(monkeypatch):
    """Two models by name, without weights."""
    models = {"good": Painter(), "blind": Painter(8), "few": Few()}
    monkeypatch.setattr("atrous.evaluation.networks.open_engine", models.__getitem__)


def run(command, *words):
    return CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)


def test_json_is_the_contract_and_nothing_else(devkit):
    result = run(evaluate, "good", "--data", devkit, "--json")
    scores = json.loads(result.stdout)
    assert {"mean_iou", "pixel_accuracy", "class_iou", "trimap", "protocol"} <= set(scores)
    assert scores["mean_iou"] == 1
    assert scores["class_iou"]["sofa"] is None
    assert scores["protocol"]["split"] == "val"
    assert scores["trimap"]["1"] == 1


def test_options_reach_the_protocol(devkit):
    result = run(
        evaluate, "good", "--data", devkit, "--json", "--scales", "0.5,1", "--flip", "--pad-to",
        "65x97", "--split", "train", "--classes", "bird, cat", "--trimap", "--window", "33",
    )  # fmt: skip
    protocol = json.loads(result.stdout)["protocol"]
    assert protocol["scales"] == [0.5, 1]
    assert protocol["flip"] is True
    assert protocol["pad_to"] == [65, 97]
    assert protocol["window"] == [33, 33]
    assert protocol["split"] == "train"
    assert protocol["mean_over"] == ["bird", "cat"]


def test_table_prints_the_absent_class_rule_and_the_protocol(devkit):
    output = run(evaluate, "blind", "--data", devkit).stdout
    assert re.search(r"cat\s+0\.00", output)
    assert "classes in neither are left out" in output
    assert "protocol: 6 pictures" in output
    assert "sofa" not in output


def test_comparison_gives_both_and_the_difference(devkit):
    scores = json.loads(
        run(evaluate, "good", "--compare", "blind", "--data", devkit, "--json").stdout
    )
    gap = scores["compared"]["mean_iou"] - scores["mean_iou"]
    assert scores["difference"]["mean_iou"] == pytest.approx(gap)
    assert scores["difference"]["high"] < 0


def test_report_is_one_file_that_loads_nothing(devkit, tmp_path):
    run(evaluate, "good", "--compare", "blind", "--data", devkit, "--report", tmp_path)
    page = (tmp_path / "report.html").read_text()
    sources = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            sources.extend(v for k, v in attributes if k in ("src", "href"))
            assert tag != "script"

    Reader().feed(page)
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    for words in (
        "Difference",
        "Sharpness",
        "Calibration",
        "Classes",
        "Best and worst",
        "Protocol",
    ):
        assert words in page
    assert "<b>VOC" not in page  # names are escaped
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert saved["difference"]["better"] == 0


def test_report_of_models_with_different_classes_names_what_one_lacks(devkit, tmp_path):
    run(evaluate, "few", "--compare", "good", "--data", devkit, "--report", tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(r"few lacks .*cat", page)
    assert re.search(r"</i>\s+cat<td>n/a", page)  # a row for the class only the second has
    assert "points of mean IoU over the 5 classes that both average over" in page
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["difference"]["mean_over"] == list(Few.classes)
    assert 0 < scores["mean_iou"] < scores["compared"]["mean_iou"] == 1
    assert "cat" not in scores["class_iou"]


@pytest.mark.parametrize("table", [ADE20K, ADE20K_151, ADE20K_31], ids=lambda table: table.name)
def test_ade20k_is_read_in_the_convention_of_the_model(tmp_path, monkeypatch, table):
    values = (np.arange(40 * 60) % 151).reshape(40, 60).astype(np.uint8)
    root = tmp_path / "ADEChallengeData2016"
    for kind in ("images", "annotations"):
        (root / kind / "validation").mkdir(parents=True)
    Image.fromarray(values).convert("RGB").save(root / "images/validation/a.png")
    Image.fromarray(values).save(root / "annotations/validation/a.png")

    class Reader(Painter):
        classes, palette = table.classes, table.palette

        def coarse_logits(self, image):  # the raw value is in every channel
            first = 1 if len(table.classes) == 150 else 0
            classes = image[..., 0].astype(int) - first
            classes[classes >= len(table.classes)] = 0
            return np.eye(len(table.classes), dtype=np.float32)[classes]

    for module in ("atrous.evaluation.networks", "atrous.engines.open"):
        monkeypatch.setattr(f"{module}.open_engine", lambda name: Reader())
    scores = json.loads(run(evaluate, "any", "--data", tmp_path, "--json").stdout)
    assert scores["mean_iou"] == 1
    assert scores["protocol"]["labelled_pixels"] == (
        40 * 60 if table is ADE20K_31 else np.count_nonzero(values)
    )


def test_scenes_are_data_by_name(monkeypatch):
    class Sky(Painter):
        classes, palette = procedural.Scenes.classes, procedural.Scenes.palette

    monkeypatch.setattr("atrous.evaluation.networks.open_engine", lambda name: Sky())
    monkeypatch.setitem(procedural._SPLITS, "val", (2_000_000, 2))
    scores = json.loads(run(evaluate, "any", "--data", "scenes", "--json").stdout)
    assert scores["protocol"]["pictures"] == 2
    assert scores["protocol"]["trimap_pictures"] == {"void": 0, "borders": 2}


def test_worst_picture_of_a_missed_class_is_in_the_report(devkit, tmp_path):
    run(evaluate, "blind", "--data", devkit, "--report", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert re.search(r"IoU 0\.00 % &middot; JPEGImages/2008_00000", page)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--scales", "half", "no list of numbers"),
        ("--pad-to", "0", "neither SIDE nor HEIGHTxWIDTH"),
        ("--pad-to", "1x2x3", "neither SIDE nor HEIGHTxWIDTH"),
        ("--trimap", "voids", "'voids' is not one of"),
        ("--output-stride", "7", "'7' is not one of"),
    ],
)
def test_bad_option_is_explained(devkit, option, value, said):
    result = run(evaluate, "good", "--data", devkit, option, value)
    assert result.exit_code == 2
    assert said in result.output


def test_progress_goes_to_standard_error(devkit):
    result = run(evaluate, "good", "--data", devkit)
    assert "6 of 6 pictures" in result.stderr
    assert "6 of 6 pictures" not in result.stdout


def test_help_shows_examples_line_by_line():
    output = run(evaluate, "--help").stdout
    assert "\n    atrous evaluate model.onnx --data VOCdevkit/VOC2012\n" in output


def test_submission_holds_the_listed_pictures(devkit, tmp_path):
    (tmp_path / "list.txt").write_text("2008_000003\n2008_000001\n")
    result = run(
        submit, "good", devkit / "JPEGImages", "--to", "voc", "--out", tmp_path / "r.tar.gz",
        "--names", tmp_path / "list.txt", "--json",
    )  # fmt: skip
    assert json.loads(result.stdout)["pictures"] == 2
    with tarfile.open(tmp_path / "r.tar.gz") as archive:
        assert [name[-15:-4] for name in archive.getnames()] == ["2008_000003", "2008_000001"]


def test_listed_picture_that_is_missing_is_named(devkit, tmp_path):
    (tmp_path / "list.txt").write_text("2008_000003\nnowhere\n")
    with pytest.raises(AtrousError, match=r"nowhere.*E-FILE-MISSING"):
        run(
            submit, "good", devkit / "JPEGImages", "--to", "voc", "--out", tmp_path / "r.tar.gz",
            "--names", tmp_path / "list.txt",
        )  # fmt: skip


def test_nothing_to_draw_is_said():
    assert charts.lines({"a": {1: None}}, "x", "y") == "<p>Nothing to show.</p>"
    assert cli_evaluate._share(None) == "n/a"
