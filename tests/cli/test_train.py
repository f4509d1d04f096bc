import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from atrous.architecture import Architecture
from atrous.cli.train import _GROUPS, _HINT_OF, _HINTS, _chosen, train
from atrous.errors import AtrousError
from atrous.training.config import TrainConfig, to_json


def _run(*words: str) -> Result:
    return CliRunner().invoke(train, list(words))


# Fields of the network that only imported weights set, or that the data decide.
_OF_WEIGHTS = {
    "num_classes", "in_channels", "mean", "std", "one_sided_padding", "epsilon", "rates_at_16",
    "pooling_stride", "extra_rows", "channels", "bands", "dtype", "preview",
}  # fmt: skip


def test_every_field_is_an_option_with_a_text_in_one_group() -> None:
    names = {field.name for record in (TrainConfig, Architecture) for field in fields(record)}
    names -= {"recipe", "network"} | _OF_WEIGHTS
    grouped = [name for group in _GROUPS.values() for name in group]
    assert len(grouped) == len(set(grouped))
    options = {option.name: option for option in train.params}
    assert names <= set(grouped) == set(options) - {"recipe"}
    assert all(options[name].help for name in names)


def test_the_contracts_spellings_are_there() -> None:
    spelled = {name for option in train.params for name in (*option.opts, *option.secondary_opts)}
    assert spelled >= {
        "--data", "--out", "--resume", "--override", "--extend", "--dry-run", "--batch",
        "--batch-size", "--steps", "--crop-size", "--weights", "--backbone", "--output-stride",
        "--decoder", "--no-decoder", "--image-pooling", "--no-image-pooling", "--evaluate-every",
        "--workers", "--samples", "--precision", "--device", "--seed", "--train-split",
        "--val-split", "--epochs", "--minutes",
    }  # fmt: skip


def test_help_fits_110_lines_in_groups() -> None:
    lines = _run("--help").output.splitlines()
    assert len(lines) <= 110
    assert {f"{title}:" for title in _GROUPS} <= set(lines)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("--imgsz", "--crop-size"),
        ("--lr", "--base-lr"),
        ("--bs", "--batch-size"),
        ("--num-workers", "--workers"),
        ("--model", "--weights"),
        ("--encoder-name", "--backbone"),
        ("--max-iters", "--steps"),
        ("--work-dir", "--out"),
        ("--amp", "--precision"),
        ("--ema", "--average-decay"),
        ("--num-classes", "data check"),
        ("--momentum", "0.9"),
        ("--decoder-kernels", "--refine"),
        ("--crop-sze", "--crop-size"),
        ("--base-rl", "--base-lr"),
    ],
)
def test_spellings_of_other_tools_get_the_right_hint(theirs: str, ours: str) -> None:
    result = _run("scenes", theirs, "3")
    assert result.exit_code == 2
    assert ours in result.output


def test_hints_name_options_that_exist() -> None:
    options = {name for option in train.params for name in option.opts}
    assert {hint.split()[0] for hint in _HINTS} <= options
    assert not set(_HINT_OF) & options


@pytest.mark.parametrize(
    "lengths", [("--steps", "3", "--epochs", "2"), ("--epochs", "2", "--minutes", "1")]
)
def test_one_length_at_a_time(lengths: tuple[str, ...]) -> None:
    result = _run("scenes", "--out", "x", *lengths)
    assert result.exit_code == 2
    assert "one of --steps, --epochs and --minutes" in result.output


@pytest.mark.parametrize(
    ("text", "value"),
    [("3x256,3x128", ((3, 256), (3, 128))), ("1x64", ((1, 64),))],
)
def test_pairs_are_written_with_an_x(text: str, value: object) -> None:
    refine = next(option for option in train.params if option.name == "refine")
    assert refine.type.convert(text, None, None) == value


def test_it_runs_without_docstrings() -> None:
    """python -OO removes them, and with them the texts of the options."""
    command = [sys.executable, "-OO", "-m", "atrous.cli", "train", "scenes", "--crop-sze", "3"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "--crop-size" in result.stderr


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
    with pytest.raises(AtrousError) as caught:
        _chosen("scene", {})
    assert caught.value.code == "E-UNKNOWN-NAME"
    assert "'scenes'" in caught.value.fix


def test_a_recipe_and_a_folder_are_needed() -> None:
    assert "name a recipe" in _run("--out", "x").output
    assert "name a folder" in _run("scenes").output
    assert "neither a number nor auto" in _run("scenes", "--batch", "many").output


def test_data_that_is_not_there_is_one_clear_error() -> None:
    with pytest.raises(AtrousError) as caught:
        _chosen("camvid", {"data": "/nowhere"})
    assert caught.value.code == "E-DATA-MISSING"


def test_resume_takes_the_config_of_the_run_with_changes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(to_json(TrainConfig(steps=7, seed=3)))
    config = _chosen(None, {"workers": 2}, resume=tmp_path)
    assert (config.steps, config.seed, config.workers) == (7, 3, 2)


def test_none_takes_a_value_away() -> None:
    weights = next(option for option in train.params if option.name == "weights")
    assert weights.type.convert("none", None, None) is not None  # None would mean "not given"
