from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from atrous.cli.train import _chosen, _field_texts, train
from atrous.errors import AtrousError
from atrous.training.config import TrainConfig, to_json


def _run(*words: str) -> Result:
    return CliRunner().invoke(train, list(words))


def test_every_field_is_an_option_with_a_text() -> None:
    assert set(_field_texts()) >= {field.name for field in fields(TrainConfig)}
    options = {name for option in train.params for name in option.opts}
    names = {f"--{f.name.replace('_', '-')}" for f in fields(TrainConfig)} - {"--recipe"}
    assert names <= options


def test_help_shows_examples() -> None:
    assert "\n    atrous train scenes --out runs/scenes\n" in _run("--help").output


def test_an_unknown_option_is_refused_with_the_nearest() -> None:
    result = _run("scenes", "--crop-sze", "3")
    assert result.exit_code == 2
    assert "--crop-size" in result.output


@pytest.mark.parametrize("value", ["513", "a,b", "1,2,3"])
def test_a_value_of_the_wrong_kind_is_refused(value: str) -> None:
    result = _run("scenes", "--crop-size", value)
    assert result.exit_code == 2
    assert "is not INT,INT" in result.output


def test_an_unknown_recipe_is_refused_with_the_nearest() -> None:
    with pytest.raises(AtrousError, match="unknown recipe 'scene'") as caught:
        _chosen("scene", None, {})
    assert "'scenes'" in caught.value.fix


def test_a_recipe_and_a_folder_are_needed() -> None:
    assert "name a recipe" in _run("--out", "x").output
    assert "name a folder" in _run("scenes").output
    assert "neither a number nor auto" in _run("scenes", "--batch", "many").output


def test_data_that_is_not_there_is_one_clear_error() -> None:
    with pytest.raises(AtrousError, match="no such data"):
        _chosen("camvid", None, {"data": "/nowhere"})


def test_resume_takes_the_config_of_the_run_with_changes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(to_json(TrainConfig(steps=7, seed=3)))
    config = _chosen(None, tmp_path, {"workers": 2})
    assert (config.steps, config.seed, config.workers) == (7, 3, 2)


def test_none_takes_a_value_away() -> None:
    weights = next(option for option in train.params if option.name == "weights")
    assert weights.type.convert("none", None, None) is not None  # None would mean "not given"
