"""A backbone trained to classify pictures, and a network for segmentation that starts from it."""

import csv
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import atrous
from atrous.cli.train import train as command
from atrous.errors import AtrousError
from atrous.training import loop as training
from atrous.training.checkpoint import load_newest
from atrous.training.config import TrainConfig
from atrous.training.inputs import open_data
from atrous.training.loop import train
from atrous.training.progress import Progress
from atrous.training.setup import create_network
from atrous.weights import store
from tests.pictures import CLASSES, image_folder
from tests.tiny import tiny, tiny_data

SMALL = ("--backbone", "mobilenet_v2", "--depth-multiplier", "0.25", "--crop-size", "48,48")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("images"))


def _config(images: Path, **changes: Any) -> TrainConfig:
    return tiny(
        task="classification", data=str(images), crop_size=(48, 48), output_stride=32, **changes
    )


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe at the size of a test, from the command line."""
    out = tmp_path_factory.mktemp("runs") / "classified"
    words = [
        "imagenet_xception65", "--data", str(images), "--out", str(out), *SMALL, "--steps", "60",
        "--batch-size", "12", "--decay-steps", "20", "--base-lr", "0.02", "--evaluate-every", "30",
        "--batch-norm-momentum", "0.1",
    ]  # fmt: skip
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "best top-1 accuracy" in result.output
    return out


def test_the_loss_falls_and_pictures_are_told_apart(finished: Path) -> None:
    with (finished / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "epoch", "loss", "top1", "top5"]
    assert [row["step"] for row in rows] == ["30", "60"]
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"]) < 0.7 * math.log(3)
    assert float(rows[-1]["top1"]) >= 0.75  # by chance 0.33
    assert {row["top5"] for row in rows} == {"1.0"}  # of three classes


def test_the_run_folder_tells_the_story(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {"curves.png", "confusion.png", "best.safetensors", "config.json", "log.txt"}
    card = (finished / "model_card.md").read_text()
    assert "top-1 accuracy on val: " in card
    assert "| stripes | " in card
    assert "IoU" not in card
    description, tensors = store.read(finished / "best.safetensors")
    assert description.classes == CLASSES
    assert description.architecture.head == "global_pooling"
    assert tensors["classifier.weight"].shape[0] == 3
    kept = description.provenance.training
    assert kept is not None
    assert kept.recipe == "imagenet_xception65"
    assert kept.mean_iou is None
    assert "top-1 accuracy" in kept.evaluated_on


def test_dry_run_says_what_it_would_take(images: Path) -> None:
    words = ["imagenet_xception65", "--data", str(images), *SMALL, "--dry-run"]
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    assert "24 training, 12 validation pictures" in result.output
    assert "4003600 of 32 crops of 48x48" in result.output
    assert "s a step" in result.output


def _fingerprint(out: Path) -> dict[str, Any]:
    snapshot = load_newest(out / "checkpoints")
    assert snapshot is not None
    return {
        **{
            f"{file}/{name}": value.numpy().tobytes()
            for file, values in snapshot.tensors.items()
            for name, value in values.items()
        },
        "state": snapshot.state,
        "metrics": (out / "metrics.csv").read_bytes(),
        "best": (out / "best.safetensors").read_bytes(),
    }


class KilledError(Exception):
    """Ends a run as a kill would."""


def _stop_at_five(progress: Progress) -> None:
    if progress.step == 5:
        raise KilledError


def test_a_killed_run_goes_on_bit_for_bit(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("draw_curves", "draw_confusion"):
        monkeypatch.setattr(training, name, lambda *_: None)
    config = _config(
        images, optimizer="nesterov", schedule="staircase", decay_steps=2, average_decay=0.9,
        cache_megabytes=1,
    )  # fmt: skip
    train(config, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(config, tmp_path / "killed", on_progress=_stop_at_five)
    torch.manual_seed(99)
    train(config, tmp_path / "killed", resume=True)
    assert _fingerprint(tmp_path / "killed") == _fingerprint(tmp_path / "whole")


@pytest.mark.parametrize("graft", [False, True])
def test_segmentation_starts_from_the_backbone_and_says_so(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, graft: bool
) -> None:
    config = tiny(weights=str(finished), depth_multiplier=0.25, graft=graft, steps=1)
    data = tiny_data()
    network = create_network(config, data[0])
    _, trained = store.read(finished / "best.safetensors")
    backbone = network.encoder.backbone.state_dict()
    copied = {n: t for n, t in trained.items() if n.startswith("encoder.backbone.")}
    assert len(copied) == len(backbone) > 200
    for name, tensor in backbone.items():
        assert torch.equal(tensor, copied[f"encoder.backbone.{name}"]), name
    caplog.set_level(logging.INFO, "atrous")
    result = train(config, tmp_path / "run", data=data)
    assert result.step == 1
    for text in (caplog.text, (tmp_path / "run" / "log.txt").read_text()):
        assert f"{len(backbone)} tensors of the backbone copied" in text
        assert "left out: classifier.bias, classifier.weight" in text
    origin = atrous.load(tmp_path / "run").provenance
    assert "backbone only" in origin.notes[0]
    assert origin.training is not None
    assert str(finished) in origin.training.initial_weights


def test_another_backbone_is_refused(finished: Path) -> None:
    data, _ = tiny_data()
    with pytest.raises(AtrousError) as caught:
        create_network(tiny(weights=str(finished)), data)
    assert caught.value.code == "E-WEIGHTS-BACKBONE"
    assert "depth_multiplier" in caught.value.what


def test_a_classifier_starts_from_the_backbone_of_any_model(
    finished: Path, images: Path, tmp_path: Path
) -> None:
    data, _ = open_data(_config(images))
    changes = {"weights": str(finished), "depth_multiplier": 0.25}
    first = create_network(_config(images, **changes), data)
    segments = atrous.create_model(
        "mobilenet_v2", num_classes=2, depth_multiplier=0.25, pretrained=finished
    )
    atrous.save(segments, tmp_path / "model.safetensors")
    changes["weights"] = str(tmp_path / "model.safetensors")
    second = create_network(_config(images, **changes), data)
    theirs = second.encoder.backbone.state_dict()
    assert all(torch.equal(t, theirs[n]) for n, t in first.encoder.backbone.state_dict().items())


def test_what_needs_pixels_refuses_a_classifier(finished: Path, images: Path) -> None:
    from atrous.cli import atrous as commands

    with pytest.raises(AtrousError) as caught:
        atrous.load(finished)
    assert caught.value.code == "E-MODEL-CLASSIFIER"
    assert "--weights" in caught.value.fix
    picture = str(next((images / "val" / "disc").iterdir()))
    for words in (
        ["predict", picture, "--model", str(finished)],
        ["evaluate", str(finished), "--data", "scenes"],
        ["export", str(finished), "--out", str(finished / "x.onnx")],
        ["bench", str(finished)],
        ["convert", str(finished / "best.safetensors"), "--out", str(finished / "x.safetensors")],
    ):
        result = CliRunner().invoke(commands, words)
        assert isinstance(result.exception, AtrousError), words
        assert result.exception.code == "E-MODEL-CLASSIFIER", words


def test_an_unreadable_picture_stops_the_run_with_its_name(images: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(images, tmp_path / "images"))
    broken = data / "train" / "frame" / "frame_3.JPEG"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(AtrousError) as caught:
        train(_config(data), tmp_path / "run")
    assert caught.value.code == "E-IMAGE-BROKEN"
    assert caught.value.where == str(broken)


def test_splits_of_other_classes_are_refused(images: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(images, tmp_path / "images"))
    (data / "val" / "disc").rename(data / "val" / "circle")
    with pytest.raises(AtrousError) as caught:
        open_data(_config(data))
    assert caught.value.code == "E-DATA-CLASSES"
    assert "circle, disc" in caught.value.what


def test_options_without_effect_are_refused(images: Path) -> None:
    segmentation: list[dict[str, object]] = [
        {"class_balance": 0.5},
        {"decoder": False},
        {"graft": True},
        {"image_pooling": False},
        {"decoder_strides": (8, 4)},
        {"refine": ((3, 256),)},
        {"reduced_channels": 32},
        {"relu_after_depthwise": True},
    ]
    for changes in segmentation:
        with pytest.raises(AtrousError) as caught:
            _config(images, **changes)
        assert caught.value.code == "E-CONFIG"
