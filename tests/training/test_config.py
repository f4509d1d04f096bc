import contextlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.architecture import Architecture
from atrous.errors import AtrousError
from atrous.training.config import (
    TrainConfig,
    differences,
    from_json,
    parse_losses,
    to_json,
)
from atrous.training.recipes import RECIPES

OLD = Path(__file__).parents[1] / "assets" / "config_0.1.json"  # written by version 0.1
NAMES = [field.name for field in fields(TrainConfig)]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name: str) -> None:
    config = RECIPES[name]()
    assert from_json(to_json(config)) == config
    assert config.recipe == name


def test_there_are_at_most_45_settings_besides_the_networks() -> None:
    assert len(set(NAMES) - {"network"}) <= 45
    assert not set(NAMES) & {field.name for field in fields(Architecture)}  # spelled once


def test_an_unknown_key_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(AtrousError) as caught:
        from_json('{"base_rl": 1}')
    assert caught.value.code == "E-UNKNOWN-NAME"
    assert "base_lr" in caught.value.fix


IMPOSSIBLE: list[dict[str, object]] = [
    {"steps": 0},
    {"steps": "ten"},
    {"steps": 1.5},
    {"steps": True},
    {"crop_size": (513,)},
    {"crop_size": 513},
    {"crop_size": (0, 0)},
    {"crop_size": (-5, 5)},
    {"scale_range": (2.0, 0.5)},
    {"scale_range": (0.0, 1.0)},
    {"flip": 7},
    {"flip": -0.5},
    {"photometric": float("nan")},
    {"optimizer": "adma"},
    {"optimizer": ["sgd"]},
    {"batch_size": 10, "accumulation": 4},
    {"batch_size": -4},
    {"accumulation": 0},
    {"base_lr": 0.0},
    {"base_lr": float("inf")},
    {"decay_steps": 0},
    {"weight_decay": -1e-4},
    {"head_multiplier": 0},
    {"average_decay": 1.0},
    {"losses": 5},
    {"losses": "crossentropy"},
    {"losses": "x*dice"},
    {"losses": "-1*dice"},
    {"losses": "nan*dice"},
    {"class_weights": (0.0, 0.0)},
    {"class_weights": (1.0, -1.0)},
    {"class_balance": 2},
    {"batch_norm_momentum": 0},
    {"clip_norm": -1},
    {"evaluate_every": -1},
    {"save_every": 0},
    {"samples": -1},
    {"workers": -1},
    {"seed": -1},
    {"timeout": 0},
    {"names": ("cat", "cat")},
    {"names": ("",)},
    {"data": ""},
    {"weights": 3},
    {"network": "xception65"},
    {"backbone": 5},
    {"decoder": "no"},
    {"in_channels": 4},
]


@pytest.mark.parametrize("values", IMPOSSIBLE, ids=str)
def test_impossible_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(AtrousError):
        TrainConfig().changed(**values)


def test_every_field_has_an_impossible_value_of_the_wrong_kind() -> None:
    for name in NAMES:
        with pytest.raises(AtrousError):
            TrainConfig().changed(**{name: object()})


_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(10**400)
)


@given(st.sampled_from(NAMES), st.one_of(_scalars, st.tuples(_scalars, _scalars), st.just(())))
def test_any_value_of_any_field_is_taken_or_refused_in_our_words(name: str, value: object) -> None:
    """Never another exception; and a value that is taken survives the file."""
    with contextlib.suppress(AtrousError):
        config = replace(TrainConfig(), **{name: value})
        assert from_json(to_json(config)) == config


def test_options_of_the_network_change_like_all_others() -> None:
    config = RECIPES["voc_resnet101"]().changed(steps=5, output_stride=8, decoder=False)
    assert (config.steps, config.network.output_stride, config.network.decoder) == (5, 8, False)
    assert config.network.multi_grid == (1, 2, 4)  # the recipe's
    assert replace(config, steps=7).network == config.network


def test_a_config_of_version_0_1_is_read() -> None:
    config = from_json(OLD.read_text())
    assert config.recipe == "tiny"
    assert config.network == Architecture("mobilenet_v2", depth_multiplier=0.1)
    assert (config.steps, config.crop_size, config.average_decay) == (6, (32, 48), 0.9)
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize(
    ("old", "changes"),
    [
        ({"nesterov": True}, {"optimizer": "nesterov"}),
        ({"decoder_kernels": [3], "decoder_channels": 128}, {"refine": ((3, 128),)}),
        ({"keep": 5, "mining_steps": 3, "slow_start_lr": 1.0}, {}),
    ],
)
def test_options_of_version_0_1_have_their_meaning_here(
    old: dict[str, object], changes: dict[str, Any]
) -> None:
    assert from_json(json.dumps(old)) == TrainConfig().changed(**changes)


@pytest.mark.parametrize("old", ['{"top_k": 0.2}', '{"rotation": 5}', '{"slow_start_steps": 9}'])
def test_a_setting_that_no_longer_exists_is_named(old: str) -> None:
    with pytest.raises(AtrousError) as caught:
        from_json(old, where="run/config.json")
    assert caught.value.code == "E-CONFIG-OLD"
    assert old[2:7] in caught.value.what


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"network": 3}'])
def test_a_broken_file_is_one_clear_error(text: str) -> None:
    with pytest.raises(AtrousError) as caught:
        from_json(text, where="config.json")
    assert (caught.value.code, caught.value.where) == ("E-CONFIG", "config.json")


def test_losses_have_factors() -> None:
    assert parse_losses("cross_entropy, 0.5*dice") == {"cross_entropy": 1.0, "dice": 0.5}


def test_differences_name_old_and_new() -> None:
    new = TrainConfig().changed(seed=3, output_stride=8)
    assert differences(TrainConfig(), new) == {"seed": (0, 3), "output_stride": (16, 8)}
