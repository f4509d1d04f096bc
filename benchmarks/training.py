"""Training throughput and memory against segmentation_models.pytorch, on the CPU, in float32.

    python benchmarks/training.py                 # every row, some eight minutes on two idle cores
    python benchmarks/training.py --rows 0 1      # some of them; the others' results stay

A step is forward, cross-entropy at full resolution, backward and SGD with momentum, for 21 classes
at output stride 16 with random weights. Ours is a whole `Learner.update` (weight groups, guard
against values that are not finite and all). Contenders take one step each in turns; the first
`WARM` rounds are not counted. Ratios are of medians of wall time, of the fastest steps, and of
medians of the process's processor time: on a machine that does other work meanwhile the last is the
fairest. Memory is the peak of a process that does three steps and nothing else, imports included.

smp        as `smp.DeepLabV3Plus(...)` comes: eager, NCHW
smp_cl     the same in channels_last memory
atrous     this package
stock      the same network as smp_cl would train it: torch's layers and optimiser as they come,
           channels_last. The peer's networks are others than the paper's (of ResNet-101 the
           authors' has a stem of three convolutions and a decoder of two): this one is ours
plain      this package without its backward of dilated depthwise convolutions (first row)

smp refuses sides that 16 does not divide: there its modules are called one by one (`peer.py`).

Writes results/training.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import measuring
import segmentation_models_pytorch as smp
import torch
from peer import ENCODERS, Peer
from torch import nn

from atrous.bench import peak_megabytes
from atrous.build import create_model
from atrous.config import TrainConfig
from atrous.layers import AtrousConv2d
from atrous.origins import nothing_made_again
from atrous.training.distributed import Processes
from atrous.training.learner import Learner

WARM = 2
CLASSES = 21
PEERS = ("smp", "smp_cl")
CONTENDERS = ("atrous", "stock", *PEERS)

Step = Callable[[], None]


class Row(NamedTuple):
    """One setting, and how often it is measured."""

    backbone: str
    batch: int
    crop: int
    rounds: int


ROWS = (
    Row("mobilenet_v2", 4, 256, 20),
    Row("mobilenet_v2", 4, 321, 10),
    Row("mobilenet_v2", 4, 513, 5),
    Row("xception65", 2, 256, 5),
    Row("resnet101", 2, 256, 5),
    Row("xception65", 2, 513, 2),
    Row("resnet101", 2, 513, 2),
)


def contender(name: str, row: Row) -> Step:
    """Returns one training step of a contender on random pictures."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (row.batch, 3, row.crop, row.crop), dtype=torch.uint8)
    targets = torch.randint(0, CLASSES, (row.batch, row.crop, row.crop))
    if name in PEERS:
        return peer(row.backbone, images, targets, channels_last=name == "smp_cl")
    if name == "stock":
        return stock(row.backbone, images, targets)
    return ours(row.backbone, images, targets, fast=name == "atrous")


def peer(
    backbone: str, images: torch.Tensor, targets: torch.Tensor, *, channels_last: bool
) -> Step:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model: nn.Module
    if images.shape[-1] % 16:
        model = Peer(backbone, num_classes=CLASSES)
        inputs = images.permute(0, 2, 3, 1)
    else:
        model = smp.DeepLabV3Plus(ENCODERS[backbone], encoder_weights=None, classes=CLASSES)
        inputs = images.float().div(255).to(memory_format=layout)
    return plain_step(model.train().to(memory_format=layout), inputs, targets)


def stock(backbone: str, images: torch.Tensor, targets: torch.Tensor) -> Step:
    """Returns a step of our network made of torch's own layers."""
    model = create_model(backbone, num_classes=CLASSES)
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, nn.ReLU6(inplace=True))
    step = plain_step(
        model.train().to(memory_format=torch.channels_last),
        images.to(memory_format=torch.channels_last),
        targets,
    )

    def stock_step() -> None:
        own = AtrousConv2d._trains_slowly
        AtrousConv2d._trains_slowly = lambda *_: False  # type: ignore[method-assign]
        try:
            with nothing_made_again():
                step()
        finally:
            AtrousConv2d._trains_slowly = own  # type: ignore[method-assign]

    return stock_step


def plain_step(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.007, momentum=0.9, weight_decay=4e-5)
    criterion = nn.CrossEntropyLoss(ignore_index=255)

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
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


def measured(row: Row) -> dict[str, Any]:
    """Takes steps of every contender in turns."""
    names = (*CONTENDERS, "plain") if row is ROWS[0] else CONTENDERS
    steps = {name: contender(name, row) for name in names}
    wall: dict[str, list[float]] = {name: [] for name in steps}
    processor: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(WARM + row.rounds):
        for name, step in steps.items():
            start, spent = time.perf_counter(), time.process_time()
            step()
            wall[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - spent)
    seconds = {
        "seconds": {name: statistics.median(times[WARM:]) for name, times in wall.items()},
        "fastest": {name: min(times[WARM:]) for name, times in wall.items()},
        "processor_seconds": {n: statistics.median(t[WARM:]) for n, t in processor.items()},
    }
    result: dict[str, Any] = row._asdict()
    for kind, values in seconds.items():
        result[kind] = {name: round(value, 4) for name, value in values.items()}
        result[f"ratio_of_{kind}"] = {
            name: round(value / values["atrous"], 3) for name, value in values.items()
        }
    return result


def peak_memory(name: str, index: int, threads: int) -> int:
    """Returns the megabytes a process of its own needs for three steps of a contender."""
    command = [sys.executable, __file__, "--memory", name, "--rows", str(index)]
    command += ["--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def memory_of_all(index: int, threads: int) -> dict[str, int]:
    """Returns the peak megabytes of each contender in a setting."""
    return {name: peak_memory(name, index, threads) for name in CONTENDERS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=range(len(ROWS)))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--memory", metavar="CONTENDER", help="only its three steps, in this process"
    )
    parser.add_argument("--memory-alone", action="store_true", help="measure memory anew, not time")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        step = contender(arguments.memory, ROWS[arguments.rows[0]])
        for _ in range(3):
            step()
        print(int(peak_megabytes()))
        return
    if arguments.memory_alone:
        result = json.loads((measuring.RESULTS / "training.json").read_text())
        for index, row in enumerate(result["rows"]):
            row["memory_mb"] = memory_of_all(index, arguments.threads)
        measuring.save("training", result)
        return
    start = time.perf_counter()
    path = measuring.RESULTS / "training.json"
    complete = set(arguments.rows) == set(range(len(ROWS)))
    kept = [] if complete else json.loads(path.read_text())["rows"]
    rows = {Row(*(row[field] for field in Row._fields)): row for row in kept}
    for index in arguments.rows:
        row = measured(ROWS[index])
        row["memory_mb"] = memory_of_all(index, arguments.threads)
        rows[ROWS[index]] = row
        spoken = ("backbone", "crop", "ratio_of_seconds", "ratio_of_processor_seconds", "memory_mb")
        print({key: row[key] for key in spoken}, flush=True)
    result = {
        "machine": measuring.machine("torch", "segmentation_models_pytorch", "atrous"),
        "threads": arguments.threads,
        "took_seconds": round(time.perf_counter() - start),
        "rows": [rows[row] for row in ROWS if row in rows],
    }
    measuring.save("training", result)


if __name__ == "__main__":
    main()
