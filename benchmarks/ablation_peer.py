"""Trains segmentation_models.pytorch's DeepLabV3Plus as a row of `ablations.py` is trained.

    python benchmarks/ablation_peer.py --seeds 0,1,2 --runs RUNS

The same pictures in the same order and variation, the same optimiser, schedule, batch norm momentum
and number of steps, and the backbone starts from the same weights as the row `short decoder`, its
1,280-channel layer included, which ours has not; the head is the peer's own with its own
initialisation. It is in channels_last memory, and calls nothing that is not its own. Writes
results/ablations/short-smp-SEED.json; a run takes some two minutes and starts anew if stopped.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import ablations
import numpy as np
import peer
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from measuring import machine
from numpy.typing import NDArray
from torch import Tensor, nn

import atrous
from atrous.data.dataset import Dataset
from atrous.data.loader import TrainingLoader
from atrous.encoder.backbone import Backbone
from atrous.training import random_state
from atrous.training.batch_norm import restore_folded, set_momentum
from atrous.training.config import TrainConfig
from atrous.training.inputs import augmentation
from atrous.training.optim import (
    Optimizer,
    learning_rate,
    parameter_groups,
    set_learning_rate,
)
from atrous.weights.tensorflow import tflite

BASE = "short"  # of `ablations.py`


class Peer(nn.Module):
    """smp's network, which here sees the values the start weights were trained with."""

    def __init__(self, config: TrainConfig, num_classes: int) -> None:
        super().__init__()
        self.network = smp.DeepLabV3Plus(
            "mobilenet_v2",
            encoder_weights=None,
            classes=num_classes,
            decoder_atrous_rates=config.network.atrous_rates,
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Maps uint8 (N, 3, H, W) to logits (N, K, H, W)."""
        return self.network((images.float() - 127) / 127.5)


class Engine:
    """The trained peer as the evaluator takes it: logits of every pixel."""

    output_stride = 16
    logits_stride = 1
    fingerprint = ""

    def __init__(self, model: Peer, data: Dataset) -> None:
        self.model = model.eval()
        self.classes, self.palette = data.classes, data.palette

    def coarse_logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps (H, W, 3) to logits (H, W, K)."""
        images = torch.from_numpy(image).permute(2, 0, 1)[None]
        return self.model(images)[0].permute(1, 2, 0).numpy()


@torch.no_grad()
def start(model: Peer, ours: Backbone, images: Tensor) -> None:
    """Gives the peer our backbone's weights, and statistics of batch norm from a batch.

    Layers pair up by their order. The peer's last layer comes from the start's file.
    """
    layers = {kind: _layers(ours, kind) for kind in (nn.Conv2d, nn.BatchNorm2d)}
    for kind, mine in layers.items():
        theirs = _layers(model.network.encoder, kind)
        assert len(theirs) == len(mine) + 1
        for module, source in zip(theirs, mine, strict=False):
            module.load_state_dict(source.state_dict())
            if kind is nn.BatchNorm2d:
                module.eps = source.eps
    graph = tflite.read(ablations.SHARED / "weights" / ablations.BASES[BASE].start)
    conv, norm, _ = model.network.encoder.features[18]
    weight = graph.variables["MobilenetV2/Conv_1/weights"].transpose(3, 2, 0, 1)
    conv.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
    norm.bias.copy_(torch.from_numpy(graph.variables["MobilenetV2/Conv_1/biases"]))
    norm.running_var.fill_(1 - norm.eps)  # the identity, as where it was folded
    restore_folded(model, [images])


def _layers(model: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)]


def train(seed: int, runs: Path) -> tuple[Engine, TrainConfig]:
    """Trains the peer; the loop is `atrous.training.loop.train`'s without what guards it."""
    config = replace(ablations.config_of(BASE, "decoder", seed), recipe="smp")
    data = ablations.data_of(BASE, seed)[0]
    ours = atrous.load(str(ablations.start_of(BASE, seed, len(data.classes), runs)))
    random_state.seed(seed)
    model = Peer(config, len(data.classes))
    random_state.seed(seed, 0)
    loader = TrainingLoader(
        data, augmentation(config), config.batch_size, seed, cache_bytes=200 << 20
    )
    start(model, ours.encoder.backbone, next(iter(loader.batches())).images)
    set_momentum(model, config.batch_norm_momentum or 0.1)
    groups = parameter_groups(
        model, weight_decay=config.weight_decay, bias_multiplier=config.bias_multiplier
    )
    optimizer = Optimizer(groups, kind=config.optimizer)
    model.train()
    for step, batch in zip(range(config.steps), loader.batches(), strict=False):
        rate = learning_rate(
            step, base_lr=config.base_lr, steps=config.steps, schedule=config.schedule
        )
        set_learning_rate(optimizer, rate)
        update(model, optimizer, batch.images, batch.targets)
    return Engine(model, data), config


def update(model: nn.Module, optimizer: Optimizer, images: Tensor, targets: Tensor) -> None:
    """Learns from one batch."""
    logits = model(images.to(memory_format=torch.channels_last))
    loss = F.cross_entropy(logits, targets.long(), ignore_index=255)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def measure(seed: int, runs: Path) -> None:
    """Trains and evaluates the peer, unless its result is there."""
    result = ablations.RESULTS / f"{BASE}-smp-{seed}.json"
    if result.exists():
        return
    engine, config = train(seed, runs)
    content = {
        "base": BASE,
        "row": "smp",
        "seed": seed,
        "changes": {"network": f"segmentation_models_pytorch {smp.__version__}"},
        "command": f"python benchmarks/ablation_peer.py --seeds {seed}",
        "commit": ablations.commit(),
        "steps": config.steps,
        "multiply_adds": peer.multiply_adds(
            engine.model, torch.zeros(1, 3, *config.crop_size, dtype=torch.uint8)
        ),
        "parameters": atrous.parameters(engine.model),
        "machine": machine("torch"),
    }
    ablations.write(result, {**content, **ablations.scores_of(engine, BASE, seed, {})[0]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--runs", type=Path, required=True)
    asked = parser.parse_args()
    for seed in map(int, asked.seeds.split(",")):
        measure(seed, asked.runs)


if __name__ == "__main__":
    main()
