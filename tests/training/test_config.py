import pytest

from atrous.errors import AtrousError
from atrous.training.config import (
    TrainConfig,
    differences,
    from_json,
    parse_losses,
    to_json,
    with_changes,
)
from atrous.training.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name: str) -> None:
    config = RECIPES[name]()
    assert from_json(to_json(config)) == config
    assert config.recipe == name


def test_an_unknown_key_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(AtrousError, match="unknown option 'base_rl'") as caught:
        from_json('{"base_rl": 1}')
    assert "base_lr" in caught.value.fix


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0},
        {"steps": "ten"},
        {"steps": 1.5},
        {"steps": True},
        {"crop_size": (513,)},
        {"crop_size": 513},
        {"optimizer": "adma"},
        {"batch_size": 10, "accumulation": 4},
        {"base_lr": 0.0},
        {"top_k": 0.0},
        {"top_k": 0.2, "losses": "dice"},
        {"average_decay": 1.0},
        {"losses": "crossentropy"},
        {"losses": "x*dice"},
        {"slow_start_steps": 30_000},
        {"batch_norm": "frozen", "recalibration": 5},
    ],
)
def test_impossible_values_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(AtrousError):
        with_changes(TrainConfig(), values)


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_broken_file_is_one_clear_error(text: str) -> None:
    with pytest.raises(AtrousError, match="not a readable config"):
        from_json(text, where="config.json")


def test_losses_have_factors() -> None:
    assert parse_losses("cross_entropy, 0.5*dice") == {"cross_entropy": 1.0, "dice": 0.5}


def test_differences_name_old_and_new() -> None:
    assert differences(TrainConfig(), TrainConfig(seed=3)) == {"seed": (0, 3)}
