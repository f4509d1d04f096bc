"""Training throughput against segmentation_models.pytorch, on the CPU, in float32.

    python benchmarks/training.py --backbone mobilenet_v2 --batch 4 --crop 256

A step is forward, cross-entropy at full resolution, backward and SGD with momentum, for 21 classes
at output stride 16 with random weights. Ours is a whole `Learner.update` (weight groups, guard
against values that are not finite and all). Contenders take one step each in turns; the first
`WARM` rounds are not counted. Ratios are of medians, of wall time and of the process's processor
time: on a machine that does other work meanwhile the second is the fairer one.

smp        as `smp.DeepLabV3Plus(...)` comes: eager, NCHW
smp_cl     the same in channels_last memory
atrous     this package
plain      this package without its backward of dilated depthwise convolutions

Adds to results/training.json.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch import nn

from atrous.build import create_model
from atrous.config import TrainConfig
from atrous.layers import AtrousConv2d
from atrous.training.distributed import Processes
from atrous.training.learner import Learner

WARM = 2
CLASSES = 21
SMP_NAMES = {
    "mobilenet_v2": "mobilenet_v2",
    "resnet101": "resnet101",
    "xception65": "tu-xception65",
}
RESULTS = Path(__file__).parent / "results" / "training.json"

Step = Callable[[], None]


def peer(
    backbone: str, images: torch.Tensor, targets: torch.Tensor, *, channels_last: bool
) -> Step:
    model = smp.DeepLabV3Plus(SMP_NAMES[backbone], encoder_weights=None, classes=CLASSES).train()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)
    images = images.float().div(255).to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.007, momentum=0.9, weight_decay=4e-5)
    criterion = nn.CrossEntropyLoss(ignore_index=255)

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(images), targets).backward()
        optimizer.step()

    return step


def ours(backbone: str, images: torch.Tensor, targets: torch.Tensor, *, fast: bool) -> Step:
    config = TrainConfig(
        backbone=backbone, batch_size=len(images), crop_size=(images.shape[2], images.shape[3])
    )
    model = create_model(backbone, num_classes=CLASSES)
    learner = Learner(model, config, Processes(0, 1, torch.device("cpu")))
    own = AtrousConv2d._trains_slowly

    def step() -> None:
        if not fast:
            AtrousConv2d._trains_slowly = lambda *_: False  # type: ignore[method-assign]
        try:
            learner.update(images, targets, 0)
        finally:
            AtrousConv2d._trains_slowly = own  # type: ignore[method-assign]

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", choices=SMP_NAMES, default="mobilenet_v2")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    crop = arguments.crop
    images = torch.randint(0, 256, (arguments.batch, 3, crop, crop), dtype=torch.uint8)
    targets = torch.randint(0, CLASSES, (arguments.batch, crop, crop))
    name = arguments.backbone
    steps: dict[str, Step] = {
        "atrous": ours(name, images, targets, fast=True),
        "plain": ours(name, images, targets, fast=False),
    }
    if crop % 16 == 0:  # smp refuses other sizes
        steps["smp"] = peer(name, images, targets, channels_last=False)
        steps["smp_cl"] = peer(name, images, targets, channels_last=True)
    wall: dict[str, list[float]] = {contender: [] for contender in steps}
    processor: dict[str, list[float]] = {contender: [] for contender in steps}
    for round_ in range(WARM + arguments.rounds):
        for contender, step in steps.items():
            start, spent = time.perf_counter(), time.process_time()
            step()
            if round_ >= WARM:
                wall[contender].append(time.perf_counter() - start)
                processor[contender].append(time.process_time() - spent)
    result = {
        **vars(arguments),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "load_average": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "smp": smp.__version__,
        "seconds": {n: round(statistics.median(t), 4) for n, t in wall.items()},
        "processor_seconds": {n: round(statistics.median(t), 4) for n, t in processor.items()},
    }
    for kind in ("seconds", "processor_seconds"):
        medians = result[kind]
        result[f"ratio_of_{kind}"] = {
            n: round(value / medians["atrous"], 3) for n, value in medians.items()
        }
    print(json.dumps(result, indent=1))
    earlier = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    RESULTS.write_text(json.dumps([*earlier, result], indent=1) + "\n")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
