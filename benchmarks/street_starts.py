#!/usr/bin/env python3
r"""Three starts of the recipe `street` at equal processor time: which backbone is worth a long run?

python scripts/street_data.py --cityscapes CITYSCAPES --camvid CAMVID --copies 5 --out street_data5
python scripts/street_data.py --cityscapes CITYSCAPES --camvid CAMVID --out street_data
atrous convert efficientnet-lite0-57934424.pth --backbone timm/efficientnet_lite0 \
    --out lite0.safetensors
python benchmarks/street_starts.py START --weights FILE --train street_data5 --data street_data \
    --out runs/START
python benchmarks/street_starts.py table

START is one of `STARTS`. The processor time of an update is measured before (the mean of eight
after two), and the run has as many steps as fit into --seconds. The learning rate falls to zero in
a straight line, so that each run ends at its best. Each update counts alike on a machine with other
work, because processor time is counted and not time by the clock; one thread is used.
Scored on the split `test` of `scripts/street_scores.py`, on which nothing is chosen.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from measuring import RESULTS, machine

from atrous.cost import parameters
from atrous.data.loader import TrainingLoader
from atrous.evaluation.networks import open_network
from atrous.training import random_state
from atrous.training.config import TrainConfig, read_config
from atrous.training.distributed import Processes
from atrous.training.inputs import augmentation, open_data
from atrous.training.loop import train
from atrous.training.recipes import street
from atrous.training.setup import create_network
from atrous.training.update import Learner

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import street_scores

STARTS: dict[str, dict[str, Any]] = {
    "ADE20K, MobileNetV2": {"graft": True},
    "ImageNet, MobileNetV2": {"graft": False},
    "ImageNet, EfficientNet-lite0": {"graft": False, "backbone": "timm/efficientnet_lite0"},
}
RESULT = RESULTS / "street_starts.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("start", choices=(*STARTS, "table"))
    parser.add_argument("--weights", help="what the run starts from")
    parser.add_argument("--train", type=Path, help="streets to train on")
    parser.add_argument("--data", type=Path, help="streets to score on")
    parser.add_argument("--out", type=Path, help="the run folder")
    parser.add_argument("--seconds", type=float, default=900.0, help="of one processor")
    asked = parser.parse_args()
    if asked.start == "table":
        print("\n".join(table(json.loads(RESULT.read_text()))))
        return
    torch.set_num_threads(1)
    config = street().changed(
        **STARTS[asked.start], weights=asked.weights, data=str(asked.train), schedule="linear",
        average_decay=0.98, evaluate_every=0, samples=0,
    )  # fmt: skip
    update, size = cost(config)
    config = config.changed(steps=int(asked.seconds / update))
    begun = (asked.out / "config.json").exists()
    if begun:
        config = read_config(asked.out / "config.json")
    train(config, asked.out, resume=begun)
    network, facts = open_network(str(asked.out))
    scores, _ = street_scores.measure(network, facts["classes"], asked.data, "test")
    for what, each in scores.items():
        street_scores.show(what, each)
    kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    kept[asked.start] = {
        "weights": Path(asked.weights).name,
        "steps": config.steps,
        "seconds_an_update": round(asked.seconds / config.steps, 3),
        "parameters": size,
        "scores": scores,
        "machine": machine("torch"),
    }
    RESULT.write_text(json.dumps(kept, indent=1) + "\n")


def cost(config: TrainConfig) -> tuple[float, int]:
    """Returns the processor seconds of an update, and the parameters of the network."""
    data, _ = open_data(config)
    random_state.seed(config.seed)
    network = create_network(config, data)
    learner = Learner(network, config, Processes(0, 1, torch.device("cpu")))
    loader = TrainingLoader(data, augmentation(config), config.batch_size, config.seed)
    batches = loader.batches()
    for step in range(10):
        if step == 2:
            start = time.process_time()
        batch = next(batches)
        learner.update(batch.images, batch.targets, step)
    return (time.process_time() - start) / 8, parameters(network)


def table(found: dict[str, Any]) -> list[str]:
    """Returns the table of docs/results.md: mean IoU with its interval."""
    sets = list(next(iter(found.values()))["scores"])
    heads = "".join(f" {name} |" for name in sets)
    lines = [
        f"| start | steps | s an update | parameters |{heads}",
        f"|---|---|---|---|{'---|' * len(sets)}",
    ]
    for name, each in found.items():
        cells = [
            f"{score['mean_iou']:.4f} ({score['interval'][0]:.3f} to {score['interval'][1]:.3f})"
            for score in each["scores"].values()
        ]
        cost = [f"{each['seconds_an_update']:.2f}", f"{each['parameters']:,}"]
        lines.append(f"| {' | '.join([name, str(each['steps']), *cost, *cells])} |")
    return lines


if __name__ == "__main__":
    main()
