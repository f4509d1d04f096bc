"""Training with a user's own augmentation, loss, callback and loop."""

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from atrous.data.dataset import Sample
from atrous.errors import AtrousError
from atrous.training.inputs import augmentation
from atrous.training.loop import train
from atrous.training.recipes import RECIPES
from tests.tiny import SIZE, tiny, tiny_data

ROOT = Path(__file__).parents[2]


def noise(image: Any, target: Any) -> tuple[Any, Any]:
    """Draws from the three global generators that libraries of augmentations use."""
    value = random.random() + np.random.rand() + torch.rand(()).item()  # noqa: NPY002
    return np.full_like(image, int(80 * value)), target


def _vary(augment: Any, seed: int = 0) -> Sample:
    data, _ = tiny_data(2)
    return augmentation(tiny(), augment)(data, 0, np.random.default_rng(seed))


def test_an_own_augmentation_draws_what_seed_and_sample_decide() -> None:
    before = (random.getstate(), torch.get_rng_state())
    first, again, other = _vary(noise, 3), _vary(noise, 3), _vary(noise, 4)
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_the_recipes_crop_follows_an_own_augmentation() -> None:
    sample = _vary(lambda image, target: (np.repeat(image, 3, 0), np.repeat(target, 3, 0)))
    assert sample.image.shape == (*SIZE, 3)
    assert sample.target.shape == SIZE


@pytest.mark.parametrize(
    "result",
    [
        None,
        3,
        np.zeros((4, 4, 3), np.uint8),
        (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4), np.uint8)),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32)),
        (np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 7, np.uint8)),
        (np.zeros((4, 4, 3), np.uint8), np.full((4, 4), -1)),
    ],
    ids=range(9),
)
def test_a_result_that_is_no_sample_is_refused(result: object) -> None:
    with pytest.raises(AtrousError) as caught:
        _vary(lambda *_: result)
    assert caught.value.code == "E-AUGMENT"


@pytest.mark.parametrize("library", ["albumentations", "torchvision"])
def test_libraries_of_augmentations_fit(library: str) -> None:
    if library == "albumentations":
        albumentations = pytest.importorskip("albumentations", reason="not installed")
        flip = albumentations.VerticalFlip(p=1.0)

        def augment(image: Any, target: Any) -> tuple[Any, Any]:
            varied = flip(image=image, mask=target)
            return varied["image"], varied["mask"]
    else:
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        turn = v2.RandomVerticalFlip(p=1.0)

        def augment(image: Any, target: Any) -> tuple[Any, Any]:
            picture = tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1))
            picture, mask = turn(picture, tv_tensors.Mask(torch.from_numpy(target)))
            return picture.permute(1, 2, 0).numpy(), mask.numpy()

    data, _ = tiny_data(2)
    config = tiny(scale_range=(1.0, 1.0), flip=0.0)
    sample = augmentation(config, augment)(data, 0, np.random.default_rng(0))
    assert np.array_equal(sample.image, data[0].image[::-1])
    assert np.array_equal(sample.target, data[0].target[::-1])


def test_an_own_loss_replaces_the_configs_and_a_callback_gets_the_scores(tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []
    scores: list[dict[str, Any]] = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        seen.append((logits.shape, logits.dtype, targets.shape, targets.dtype))
        return 3 * F.cross_entropy(logits, targets, ignore_index=255)

    config = tiny(steps=4, evaluate_every=2, precision="bf16")
    train(config, tmp_path / "own", data=tiny_data(), loss=loss, on_evaluation=scores.append)
    assert set(seen) == {((4, 7, *SIZE), torch.float32, (4, *SIZE), torch.int64)}
    assert [row["step"] for row in scores] == [2, 4]
    assert scores[0].keys() >= {"epoch", "loss", "mean_iou", "pixel_accuracy", "class_iou"}
    plain: list[dict[str, Any]] = []
    config = tiny(steps=4, evaluate_every=2, precision="bf16", base_lr=1e-12)
    for own in (None, loss):
        train(
            config, tmp_path / f"{own}", data=tiny_data(), loss=own, on_evaluation=plain.append
        )  # fmt: skip
    assert plain[2]["loss"] == pytest.approx(3 * plain[0]["loss"], rel=0.05)


@pytest.mark.parametrize("name", ["plain_loop"])
def test_examples_run(name: str, tmp_path: Path) -> None:
    path = ROOT / "examples" / f"{name}.py"
    assert len(path.read_text().splitlines()) <= 40
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ATROUS_STEPS": "2"}
    command = [sys.executable, str(path)]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "mean IoU" in result.stdout


def test_training_imports_without_what_windows_lacks() -> None:
    """Neither fcntl nor resource nor SIGUSR1 nor /proc exists there."""
    script = (
        "import sys, signal; sys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "del signal.SIGUSR1\n"
        "import atrous, atrous.cli.train; atrous.train; atrous.recipes\n"
        "from atrous.training.signals import SIGNALS, peak_memory\n"
        "import pathlib; pathlib.Path.read_text = lambda path: ''\n"
        "print(len(SIGNALS), peak_memory())"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout == "2 0\n", result.stderr


@pytest.mark.parametrize("name", RECIPES)
def test_fields_of_a_recipe_are_replaced_as_of_any_dataclass(name: str) -> None:
    assert replace(RECIPES[name](), steps=5).steps == 5
