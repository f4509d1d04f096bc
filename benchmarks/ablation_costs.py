"""What the rows of `ablations.py` cost in milliseconds, on an idle machine.

    python benchmarks/ablation_costs.py      # some two minutes on two cores

Networks have MobileNetV2 and random weights, and run in torch, in float32 and channels_last memory;
contenders take turns. A forward pass is of one picture of 513 x 513 with 21 classes and the paper's
atrous rates. Views are of one scene of 128 x 160, averaging and labels included, as the evaluator
sees it; their time is of the processor, with one thread. An update is of a batch as `ablations.py`
trains on, and in the peer's case as in `ablation_peer.py`. Writes
results/ablation_costs.PROCESSOR.json.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ablations
import measuring
import torch
from ablation_peer import Peer, update

from atrous.build import build
from atrous.data.scenes.procedural import scenes
from atrous.evaluation.networks import TorchNetwork
from atrous.evaluation.views import Views, segment
from atrous.model import DeepLabV3Plus
from atrous.training.distributed import Processes
from atrous.training.optim import Optimizer, parameter_groups, set_learning_rate
from atrous.training.setup import create_network
from atrous.training.update import Learner

CONFIG = ablations.BASES["scenes"].config
FORWARD = ("decoder", "bilinear", "dense", "one_3x3", "conv3_conv2")


def network(row: str, **changes: Any) -> DeepLabV3Plus:
    """Returns a row's network with random weights."""
    config = ablations.config_of("short", row, 0)
    model = create_network(config.changed(**changes), scenes(0, 1))
    return model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def forwards() -> dict[str, Callable[[], Any]]:
    images = torch.randint(0, 256, (1, 3, 513, 513), dtype=torch.uint8)
    images = images.to(memory_format=torch.channels_last)
    rows = {row: network(row, atrous_rates=None).architecture for row in FORWARD}
    rows["no_atrous_branches"] = replace(rows["decoder"], atrous_rates=())
    models = {}
    for row, a in rows.items():
        model = build(replace(a, num_classes=21))
        models[row] = model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return {row: lambda model=model: model(images) for row, model in models.items()}


def views() -> dict[str, dict[str, float]]:
    """Times what the rows with another output stride, scales or flip let the network see."""
    image, _ = scenes(0, 1)[0]
    result = {}
    torch.set_num_threads(1)  # more of them would wait busily
    for row in ("decoder", "bilinear"):
        model = network(row)
        for name, other in ablations.ROWS["scenes"].items():
            if other.of == row or name == row:
                options = dict(other.evaluation)
                model.set_output_stride(options.pop("output_stride", 16))
                result[name] = processor_time(TorchNetwork(model), image, Views(**options))
    return result


def processor_time(net: TorchNetwork, image: Any, seen: Views) -> dict[str, float]:
    samples = []
    for _ in range(8):
        start = time.process_time()
        segment(net, image, seen)
        samples.append(1e3 * (time.process_time() - start))
    samples = sorted(samples[1:])
    return {
        "median_ms": round(samples[3], 1),
        "spread_ms": round(samples[5] - samples[1], 1),
        "samples": len(samples),
    }


def updates() -> dict[str, Callable[[], Any]]:
    images = torch.randint(0, 256, (CONFIG.batch_size, 3, *CONFIG.crop_size), dtype=torch.uint8)
    targets = torch.randint(0, 7, (CONFIG.batch_size, *CONFIG.crop_size), dtype=torch.uint8)
    learner = Learner(network("decoder"), CONFIG, Processes(0, 1, torch.device("cpu")))
    peer = Peer(CONFIG, 7).train()
    groups = parameter_groups(peer, weight_decay=CONFIG.weight_decay)
    optimizer = Optimizer(groups, kind=CONFIG.optimizer)
    set_learning_rate(optimizer, 1e-4)
    return {
        "decoder": lambda: learner.update(images, targets, CONFIG.steps - 1),
        "smp": lambda: update(peer, optimizer, images, targets),
    }


def main() -> None:
    torch.manual_seed(0)
    training = measuring.interleave(updates(), rounds=30, warm_up=3)
    with torch.inference_mode():
        times = {
            "A forward pass of 513 x 513": measuring.interleave(forwards(), rounds=15, warm_up=2),
            "A scene, processor time of one thread": views(),
        }
    times["An update of six scenes"] = training
    result = {"machine": measuring.machine("torch", "segmentation_models_pytorch"), "times": times}
    measuring.save("ablation_costs", result)


if __name__ == "__main__":
    main()
