"""The recipe for your own data: every number is chosen from the data set and the machine."""

import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from atrous.architecture import Architecture
from atrous.classes import plain_name
from atrous.data.dataset import Dataset
from atrous.data.opening import recognise
from atrous.engines import built_in
from atrous.engines.machine import usable_processors
from atrous.engines.openvino import has_bf16_units
from atrous.errors import AtrousError
from atrous.loading import load
from atrous.training.config import TrainConfig
from atrous.training.distributed import chosen_device
from atrous.training.first_fit import PICTURES
from atrous.training.inputs import FIFTH, examine_data, open_data, with_channels
from atrous.training.planning import Plan, check_length, free_memory, plan, within

logger = logging.getLogger(__name__)

EPOCHS = 60  # of a small data set
FEWEST_STEPS, MOST_STEPS = 200, 4000  # if neither steps, epochs nor minutes are given
FEWEST_STEPS_IN_TIME = 60  # below, a time limit halves the batch
MINUTES = 30.0  # at most, on a CPU, if neither is given

_LOOKED_AT = 20  # pictures whose size and memory stand for all
_SMALL_BATCH = 12  # pictures at a time; batch norm of fewer is noise, so it stays frozen


def finetune(
    data: str | Path = "scenes",
    *,
    epochs: float | None = None,
    minutes: float | None = None,
    **changes: Any,
) -> TrainConfig:
    """Your own data, from the built-in model: classes, crop, batch and steps follow the data.

    atrous train finetune --data DATA --out RUN --minutes 10

    The network is the one of the start weights. Classes that the start knows by name keep their
    weights. Batch norm stays frozen where the batch is small, and a fifth of the pictures is held
    out to evaluate on if the data set has no validation split.

    Paper: not reported. Here: docs/train.md, "Your own data".

    Args:
        data: The data set: any folder or file that `atrous data check` accepts.
        epochs: Length of the run: how often it sees every picture.
        minutes: Length of the run in time, instead of `epochs` or `steps`.
        changes: Fields of `TrainConfig` or of the network that shall have other values.

    Raises:
        AtrousError: The data set is not recognised, or the doctor finds an error in it; more than
            one length; an unknown field or an impossible value.
    """
    return choose(data, epochs=epochs, minutes=minutes, **changes).config


def choose(
    data: str | Path,
    *,
    epochs: float | None = None,
    minutes: float | None = None,
    **changes: Any,
) -> Plan:
    """Returns the config of `finetune` with its memory and time; arguments as there."""
    started = time.monotonic()
    check_length(steps=changes.get("steps"), epochs=epochs, minutes=minutes)
    weights = changes.get("weights", built_in.DEFAULT)
    network, known = _start(weights)
    config = TrainConfig(
        recipe="finetune",
        data=str(data),
        weights=weights,
        dropped_to_background=True,
        network=network,
        optimizer="adamw",
        schedule="cosine",
        weight_decay=0.01,
        evaluate_every=1,
    ).changed(**{**_splits(data, changes), **changes})
    train_data, val_data = open_data(config)
    examine_data(config, train_data, val_data)
    config = with_channels(config, train_data)
    chosen = _from_data(config, train_data, known)
    config = config.changed(**{name: v for name, v in chosen.items() if name not in changes})
    if epochs is None and minutes is None and "steps" not in changes:
        steps = EPOCHS * len(train_data) / config.batch_size
        config = replace(config, steps=round(min(MOST_STEPS, max(FEWEST_STEPS, steps))))
    elif epochs is not None:
        config = replace(config, steps=max(1, round(epochs * len(train_data) / config.batch_size)))
    planned = plan(config, divide="accumulation" not in changes)
    if minutes is not None:  # some is spent: on doctor, plan, first fit, evaluation of the start
        looked_at = len(val_data) + config.first_fit * min(PICTURES, len(train_data))
        spent = time.monotonic() - started
        spent += planned.seconds_per_evaluation * looked_at / len(val_data)
        minutes -= min(spent / 60, minutes / 2)
    config = _scheduled(planned, minutes, changes)
    share = config.batch_size / planned.config.batch_size
    step = planned.seconds_per_step and planned.seconds_per_step * share
    return replace(planned, config=config, seconds_per_step=step)


def _start(weights: str | None) -> tuple[Architecture, set[str]]:
    """Returns the network of the start weights, and the names of its classes."""
    if weights is None or weights == "imagenet":
        return Architecture("mobilenet_v2", num_classes=0), set()
    model = load(weights)
    network = replace(model.architecture, num_classes=0, extra_rows=())
    return network, set(map(plain_name, model.classes))


def _splits(data: str | Path, changes: dict[str, Any]) -> dict[str, str]:
    """Returns the splits to train and to evaluate on."""
    if str(data) == "scenes" and not Path(data).exists():
        return {}
    names = recognise(data).splits
    train = next(
        (name for name in ("train", "trainaug", "all") if name in names), next(iter(names))
    )
    train = changes.get("train_split", train)
    return {"train_split": train, "val_split": "val" if "val" in names else FIFTH}


def _from_data(config: TrainConfig, data: Dataset, known: set[str]) -> dict[str, Any]:
    """Returns what the data set and the machine decide."""
    on_gpu = chosen_device(config.device).type == "cuda"
    sizes, memory = _sizes(data)
    batch = min(16 if on_gpu else 8, len(data))
    new = [name for name in data.classes if plain_name(name) not in known]
    frozen = batch < _SMALL_BATCH
    return {
        "batch_size": batch,
        "crop_size": _crop_size(sizes, 769 if on_gpu else 513),
        # Evaluation sees pictures at their own size, so training stays near it.
        "scale_range": (0.75, 1.5),
        "photometric": 0.3,
        # New rows of the classifier start from random weights and must learn faster than the
        # backbone. A network that knows all classes has less to learn than to forget.
        "base_lr": 0.0001,
        "head_multiplier": 5.0 if new else 1.0,
        "freeze_backbone": not new,
        "first_fit": bool(new and known),
        "batch_norm": "frozen" if frozen else "train",
        "batch_norm_momentum": None if frozen else 0.03,
        "cache_megabytes": int(min(memory, 0.1 * free_memory("cpu")) / 2**20),
        "precision": "bf16" if on_gpu or has_bf16_units() else "fp32",
        "workers": min(8, usable_processors()) if on_gpu else 0,
    }


def _sizes(data: Dataset) -> tuple[list[tuple[int, int]], int]:
    """Returns the sizes of some pictures, and the bytes of all of them, decoded."""
    looked_at = range(0, len(data), -(-len(data) // _LOOKED_AT))
    samples = [data[index] for index in looked_at]
    decoded = sum(sample.image.nbytes + sample.target.nbytes for sample in samples)
    sizes = [(sample.target.shape[0], sample.target.shape[1]) for sample in samples]
    return sizes, decoded * len(data) // len(samples)


def _crop_size(sizes: list[tuple[int, int]], largest: int) -> tuple[int, int]:
    """Returns a crop of 16k + 1 that holds most pictures whole, up to a side of `largest`.

    Image pooling sees whole pictures in evaluation, so it should in training.
    """
    height, width = (
        min(largest, max(65, 16 * round((float(np.quantile(side, 0.75)) - 1) / 16) + 1))
        for side in zip(*sizes, strict=True)
    )
    return height, width


def _scheduled(planned: Plan, minutes: float | None, changes: dict[str, Any]) -> TrainConfig:
    """Returns the config with its steps, evaluations and moving average."""
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    config = planned.config
    if minutes is not None:
        config = _within(planned, minutes, "batch_size" not in changes)
    elif alone and "steps" not in changes and planned.seconds_per_step is not None:
        spent = config.steps * planned.seconds_per_step
        if chosen_device(config.device).type == "cpu" and spent > 60 * MINUTES:
            config = _within(planned, MINUTES, "batch_size" not in changes)
    if "evaluate_every" not in changes and minutes is None:
        spent = config.steps * (planned.seconds_per_step or 1.0)
        most = 10 if not alone else 0.3 * spent / max(planned.seconds_per_evaluation, 1e-3)
        evaluations = int(min(10, max(1, most)))
        config = replace(config, evaluate_every=-(-config.steps // evaluations))
    if "average_decay" not in changes:
        # The average covers the last tenth of the run.
        config = replace(config, average_decay=round(max(0.0, 1 - 10 / config.steps), 4))
    return config


def _within(planned: Plan, minutes: float, smaller: bool) -> TrainConfig:
    """Returns a run that fits into a time, with smaller batches where there would be few steps."""
    while True:
        batch, seconds = planned.config.batch_size, planned.seconds_per_step
        try:
            config = within(planned, 60 * minutes)
            enough = config.steps >= FEWEST_STEPS_IN_TIME
        except AtrousError:
            enough = False
        if enough or not smaller or batch < 4 or batch % 2 or seconds is None:
            return within(planned, 60 * minutes)
        halved = replace(planned.config, batch_size=batch // 2, accumulation=1)
        planned = replace(planned, config=halved, seconds_per_step=seconds / 2)
