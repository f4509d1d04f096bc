"""The numbers of recipes against the fact sheet of the paper and of the authors' code."""

import inspect
from pathlib import Path

import pytest

from atrous.training.recipes import RECIPES

PAPERS = {  # steps, base_lr, batch, crop, output stride, weight decay, batch norm
    "voc_resnet101": (30_000, 0.007, 16, 513, 16, 1e-4, "sync"),
    "voc_xception65": (30_000, 0.007, 16, 513, 16, 4e-5, "sync"),
    "voc_xception65_trainval": (30_000, 0.001, 16, 513, 8, 4e-5, "frozen"),
    "coco_xception65": (500_000, 0.007, 16, 513, 16, 4e-5, "sync"),
    "cityscapes_xception65": (90_000, 0.01, 16, 769, 16, 4e-5, "sync"),
    "cityscapes_xception71": (90_000, 0.01, 16, 769, 16, 4e-5, "sync"),
    "ade20k_xception65": (150_000, 0.007, 16, 513, 16, 4e-5, "sync"),
}


@pytest.mark.parametrize("name", PAPERS)
def test_numbers_are_the_papers(name: str) -> None:
    c = RECIPES[name]()
    numbers = (c.steps, c.base_lr, c.batch_size, c.crop_size[0], c.output_stride, c.weight_decay)
    assert (*numbers, c.batch_norm) == PAPERS[name]
    assert c.crop_size[0] == c.crop_size[1]
    assert (c.schedule, c.power, c.momentum, c.optimizer) == ("poly", 0.9, 0.9, "sgd")
    assert (c.scale_range, c.scale_step, c.flip) == ((0.5, 2.0), 0.25, 0.5)
    assert (c.bias_multiplier, c.head_multiplier) == (2.0, 1.0)
    assert c.batch_norm_momentum is None
    assert (c.photometric, c.rotation) == (0, 0)


def test_numbers_of_imagenet_are_the_papers() -> None:
    """Fact sheet, 3.1 and the classification head of 1.1."""
    c = RECIPES["imagenet_xception65"]()
    assert (c.task, c.backbone, c.output_stride) == ("classification", "xception65", 32)
    assert (c.optimizer, c.momentum, c.nesterov) == ("sgd", 0.9, True)
    assert (c.base_lr, c.weight_decay, c.batch_size) == (0.05, 4e-5, 32)
    assert c.crop_size == (299, 299)
    assert (c.schedule, c.decay_rate) == ("staircase", 0.94)
    assert c.decay_steps == int(2 * 1_281_167 / c.batch_size)  # slim's rule for two epochs
    assert c.steps == 50 * c.decay_steps
    assert (c.slow_start_steps, c.batch_norm, c.batch_norm_momentum) == (0, "train", None)
    assert (c.bias_multiplier, c.head_multiplier, c.losses) == (1.0, 1.0, "cross_entropy")


@pytest.mark.parametrize("name", RECIPES)
def test_docstring_gives_command_and_scores(name: str) -> None:
    text = inspect.getdoc(RECIPES[name]) or ""
    assert f"atrous train {name} " in text
    assert "Paper:" in text
    assert "ere: " in text  # Here: what was measured, or "not run"


@pytest.mark.slow
def test_scenes_reach_90_on_other_seeds(tmp_path: Path) -> None:
    """`benchmarks/scenes.py` also measures the time."""
    import atrous

    atrous.train(RECIPES["scenes"](), tmp_path / "run")
    scores = atrous.evaluate(atrous.load(tmp_path / "run"), atrous.data.scenes(20261125, 100))
    assert scores.mean_iou is not None
    assert scores.mean_iou >= 0.90
