"""The recipe for one's own data chooses every number from the data and the machine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn.functional import cross_entropy

import atrous
from atrous.classes import ClassTable, pascal_palette
from atrous.cli.train import train as command
from atrous.data.loader import TrainingLoader
from atrous.data.scenes.scenery import SCENES
from atrous.engines import built_in
from atrous.errors import AtrousError
from atrous.training import finetune as recipe
from atrous.training.config import from_json
from atrous.training.finetune import finetune
from atrous.training.first_fit import fit_classifier
from atrous.training.inputs import augmentation, open_data
from atrous.training.setup import create_network
from tests.data import trees
from tests.networks import random_network


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small network that knows two of the classes."""
    torch.manual_seed(0)
    model = atrous.create_model("mobilenet_v2", num_classes=3, depth_multiplier=0.1)
    model.name_classes(ClassTable("start", ("name0", "Name 1", "tree"), pascal_palette(3)))
    path = tmp_path_factory.mktemp("start") / "model.safetensors"
    atrous.save(model, path)
    return str(path)


def test_the_default_start_is_the_built_in_model(
    tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(recipe, "load", lambda name: asked.append(name) or atrous.load(start))
    monkeypatch.setattr(recipe, "plan", _planned)
    trees.folders(tmp_path)
    config = finetune(tmp_path, steps=5)
    assert asked == [built_in.DEFAULT] == [config.weights]


def _planned(config: object, *, divide: bool) -> recipe.Plan:
    return recipe.Plan(config, (8, 2), 1, 1, 10, 2.0, 4.0)  # type: ignore[arg-type]


def test_numbers_follow_the_data(
    tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "plan", _planned)
    trees.folders(tmp_path, count=5)
    config = finetune(tmp_path, weights=start)
    assert config.network.depth_multiplier == 0.1  # the start's
    assert config.network.num_classes == 0
    assert (config.train_split, config.val_split) == ("train", "val")
    assert config.crop_size == (65, 97)  # pictures of 72x96
    assert config.batch_size == 5
    assert config.batch_norm == "frozen"
    assert config.head_multiplier == 5.0  # name2 is new
    assert config.steps == recipe.FEWEST_STEPS
    assert 3 <= config.steps / config.evaluate_every <= 10
    assert 0.9 <= config.average_decay < 1
    assert finetune(tmp_path, weights=start, epochs=20).steps == 20
    assert finetune(tmp_path, weights=start, names=("name1",)).head_multiplier == 5.0
    changed = finetune(tmp_path, weights=start, steps=3, crop_size=(33, 33), seed=4)
    assert (changed.steps, changed.crop_size, changed.seed) == (3, (33, 33), 4)


@pytest.mark.parametrize(("minutes", "batch"), [(3, 2), (30, 5)])
def test_a_time_limit_sets_steps_and_batch(
    tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch, minutes: int, batch: int
) -> None:
    monkeypatch.setattr(recipe, "plan", _planned)
    monkeypatch.setattr(recipe, "FEWEST_STEPS_IN_TIME", 100)
    trees.folders(tmp_path, count=4 if minutes == 3 else 5)
    config = finetune(tmp_path, weights=start, minutes=minutes)
    assert config.batch_size in (batch, 4)
    assert config.steps * 2.0 * config.batch_size / 8 < 60 * minutes


def test_a_data_set_without_val_split_gets_one_by_names(
    tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "plan", _planned)
    trees.folders(tmp_path)
    path = trees.write(tmp_path / "data.yaml", "train: images/train\nnames: [a, b, c]\n")
    config = finetune(path, weights=start)
    assert (config.train_split, config.val_split) == ("train", "fifth")


@pytest.mark.parametrize("lengths", [{"steps": 3, "epochs": 1}, {"minutes": 0}])
def test_one_length_is_needed(lengths: dict[str, float]) -> None:
    with pytest.raises(AtrousError):
        finetune("scenes", **lengths)  # type: ignore[arg-type]


def test_the_doctor_speaks_first(tmp_path: Path, start: str) -> None:
    trees.folders(tmp_path, num_classes=2)
    for path in (tmp_path / "masks").rglob("*.png"):
        trees.save(path, np.zeros((72, 96), np.uint8))
    with pytest.raises(AtrousError) as caught:
        finetune(tmp_path, weights=start)
    assert caught.value.code == "E-DATA-ONE-CLASS"


def test_data_and_out_are_all_it_needs(
    tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(built_in, "DEFAULT", start)
    trees.folders(tmp_path / "data")
    words = ["finetune", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(command, [*words, "--steps", "4"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "time " in result.output
    assert "best mean IoU" in result.output
    config = from_json((tmp_path / "run" / "config.json").read_text())
    assert (config.recipe, config.steps, config.weights) == ("finetune", 4, start)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "name0: copied from name0" in log
    assert "name1: copied from Name 1" in log
    assert atrous.load(tmp_path / "run").classes == ("name0", "name1", "name2")


def test_pixels_of_classes_the_data_lack_are_background(
    tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "plan", _planned)
    trees.folders(tmp_path)
    (tmp_path / "classes.txt").write_text("Background\nname0\nnew\n")
    config = finetune(tmp_path, weights=start)
    model = create_network(config, open_data(config)[0])
    assert model.classes == ("Background", "name0", "new")
    assert model.architecture.extra_rows == (0, 0)  # Name 1 and tree


def test_the_classifier_is_fitted_to_new_classes_before_training(
    tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "plan", _planned)
    trees.folders(tmp_path, count=2)
    config = finetune(tmp_path, weights=start, flip=0.0, photometric=0.0, scale_range=(1, 1))
    data = open_data(config)[0]
    (tmp_path / "classes.txt").write_text("name0\nname1\ntree\n")
    assert (finetune(tmp_path, weights=start).first_fit, config.first_fit) == (False, True)
    model = random_network(
        "mobilenet_v2", num_classes=3, depth_multiplier=0.1, decoder=False, extra_rows=(1,)
    )
    loader = TrainingLoader(data, augmentation(config), 2, 0)
    batch = next(loader.batches())

    def loss() -> float:
        with torch.no_grad():
            logits = model.eval()(batch.images)
            return cross_entropy(logits, batch.targets.long(), ignore_index=255).item()

    before, features = loss(), model.encoder.state_dict()
    fit_classifier(model, loader, "cpu")
    assert loss() < before - 0.01
    assert all(torch.equal(v, features[k]) for k, v in model.encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def _sets(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns the module that writes data sets in seven forms."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import labelled_sets

    return labelled_sets


def _run(data: Path, out: Path, *length: str) -> atrous.DeepLabV3Plus:
    words = ["finetune", "--data", str(data), "--out", str(out), *length]
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return atrous.load(out)


@pytest.mark.parametrize("kind", ["coco", "binary"])
def test_labels_of_tools_and_black_and_white_masks_train_as_they_are(
    tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(built_in, "DEFAULT", start)
    classes = ("background", *SCENES.classes[1:])
    pictures = atrous.data.scenes(1, 6, size=(65, 65))
    data = _sets(monkeypatch).write_set(kind, pictures, classes, tmp_path, objects=3)
    model = _run(data, tmp_path / "run", "--steps", "1")
    assert model.classes == (classes if kind == "coco" else ("background", "foreground"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labelme", "cvat", "coco", "yolo", "index", "colour", "binary"])
def test_three_minutes_on_sixty_pictures_give_a_usable_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The most common label of each place has .25 here (binary: .45), one label .04 (.33)."""
    sets, classes = _sets(monkeypatch), ("background", *SCENES.classes[1:])
    drawn = [atrous.data.scenes(seed, 60) for seed in (1, 2)]
    data = sets.write_set(kind, drawn[0], classes, tmp_path, objects=3)
    form = "binary" if kind == "binary" else "index"
    others = sets.write_set(form, drawn[1], classes, tmp_path / "others", objects=3)
    model = _run(data, tmp_path / "run", "--minutes", "3")
    scores = atrous.evaluate(model, atrous.data.open_dataset(others, "all"), trimap=None)
    assert scores.mean_iou > (0.6 if kind == "binary" else 0.45)


def test_it_needs_data() -> None:
    result = CliRunner().invoke(command, ["finetune", "--out", "x"])
    assert result.exit_code == 2
    assert "--data" in result.output
