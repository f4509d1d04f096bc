"""A training run small enough for tests."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from atrous.architecture import Architecture
from atrous.data import scenes
from atrous.data.dataset import Dataset
from atrous.training.config import TrainConfig

SIZE = (32, 48)

CONFIG = TrainConfig(
    recipe="tiny",
    network=Architecture("mobilenet_v2", depth_multiplier=0.1),
    steps=6,
    batch_size=4,
    crop_size=SIZE,
    base_lr=0.05,
    batch_norm_momentum=0.1,
    evaluate_every=3,
    save_every=2,
    samples=1,
)


def tiny(**changes: Any) -> TrainConfig:
    """Returns a run of six updates with other values, those of its network among them."""
    return CONFIG.changed(**changes)


def tiny_data(pictures: int = 10) -> tuple[Dataset, Dataset]:
    """Returns scenes to train and to evaluate on; batches of four wrap around ten pictures."""
    return scenes(1, pictures, size=SIZE), scenes(2, 3, size=SIZE)


SCRIPT = """
import sys, torch, json
torch.set_num_threads(1)
from atrous.training.config import from_json
from atrous.training.loop import train
from tests.tiny import tiny_data
train(from_json(sys.argv[1]), sys.argv[2], data=tiny_data(), **json.loads(sys.argv[3]))
"""


def start(
    config_json: str, out: Path, options: str = "{}", *, script: str = SCRIPT, **environment: str
) -> subprocess.Popen[str]:
    """Starts a run in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", script, config_json, str(out), options],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
