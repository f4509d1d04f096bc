"""Training throughput and memory against segmentation_models.pytorch, on the CPU.

    python benchmarks/training.py              # every row, some fifteen minutes on two idle cores
    python benchmarks/training.py --rows 0 1   # some of them; the others' results stay

A step is forward, cross-entropy at full resolution, backward and SGD with momentum, for 21 classes
at output stride 16 with random weights. Each contender is a process of its own that imports what it
needs and nothing of the others, as people run it: in one process they would share the C library's
memory, and each would pay for how the others left it. Ours and two others at a time take one step
each in turns; the first `WARM` rounds are not counted. Ratios are of medians of wall time, of the
fastest steps, and of medians of processor time: on a machine that does other work meanwhile the
last is the fairest. Memory is the peak of the process over all its steps, imports included.

smp        as `smp.DeepLabV3Plus(...)` comes: eager, NCHW
smp_cl     the same in channels_last memory
smp_kept   the same with our setting of the C library, which `atrous train` comes with
           (`training/cpu/malloc.py`) and which no training script of the peer's makes
atrous     this package: a whole `Learner.update` (weight groups, guard against values that are not
           finite and all) in the process `atrous train` sets up
stock      our network as smp_cl would train it: torch's layers, optimiser and memory as they come,
           channels_last. The peer's networks are others than the paper's (of ResNet-101 the
           authors' has a stem of three convolutions and a decoder of two): this one is ours
plain      this package without its backward of dilated depthwise convolutions (first row)
bf16       this package with `--precision bf16`, on a processor with bf16 units (MobileNetV2's rows)
bf16_torch the same with torch's backward of depthwise convolutions with a stride
bf16_smp   the peer in channels_last under torch's autocast to bf16

All others compute in float32.

smp refuses sides that 16 does not divide: there its modules are called one by one (`peer.py`).

Writes results/training.PROCESSOR.json.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from measuring import Turns, machine, result_path, save, take_steps
from torch import nn

WARM = 2
CLASSES = 21
PEERS = ("smp", "smp_cl", "smp_kept", "bf16_smp")
BF16 = ("bf16", "bf16_torch", "bf16_smp")
ALLOCATING = ("atrous", "plain", "smp_kept", "bf16", "bf16_torch")
CONTENDERS = ("atrous", "stock", "smp", "smp_cl", "smp_kept")

AT_A_TIME = 2  # besides ours
KINDS: dict[str, Callable[[list[float]], float]] = {
    "seconds": statistics.median,
    "fastest": min,
    "processor_seconds": statistics.median,
}

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
    Row("xception65", 2, 256, 8),
    Row("resnet101", 2, 256, 10),
    Row("xception65", 2, 513, 3),
    Row("resnet101", 2, 513, 4),
)


def contender(name: str, row: Row) -> Step:
    """Returns one training step of a contender on random pictures, in the process for it.

    `atrous train` keeps freed memory from the first update on.
    """
    torch.manual_seed(0)
    if name in ALLOCATING:
        from atrous.training.cpu.malloc import keep_freed_memory, return_freed_memory

        return_freed_memory()
        step = network(name, row)
        step()
        keep_freed_memory()
        return step
    return network(name, row)


def network(name: str, row: Row) -> Step:
    """Creates the network of a contender, and what it learns from."""
    images = torch.randint(0, 256, (row.batch, 3, row.crop, row.crop), dtype=torch.uint8)
    targets = torch.randint(0, CLASSES, (row.batch, row.crop, row.crop))
    if name in PEERS:
        step = peer(row.backbone, images, targets, channels_last=name != "smp")
        return under_autocast(step) if name in BF16 else step
    if name == "stock":
        return stock(row.backbone, images, targets)
    return ours(row.backbone, images, targets, name)


def peer(
    backbone: str, images: torch.Tensor, targets: torch.Tensor, *, channels_last: bool
) -> Step:
    import segmentation_models_pytorch as smp
    from peer import ENCODERS, Peer

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
    from atrous.build import create_model

    model = create_model(backbone, num_classes=CLASSES)
    return plain_step(
        model.train().to(memory_format=torch.channels_last),
        images.to(memory_format=torch.channels_last),
        targets,
    )


def plain_step(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.007, momentum=0.9, weight_decay=4e-5)
    criterion = nn.CrossEntropyLoss(ignore_index=255)

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()

    return step


def under_autocast(step: Step) -> Step:
    def in_bf16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            step()

    return in_bf16


def ours(backbone: str, images: torch.Tensor, targets: torch.Tensor, name: str) -> Step:
    from atrous.architecture import Architecture
    from atrous.build import create_model
    from atrous.training.config import TrainConfig
    from atrous.training.cpu import install
    from atrous.training.distributed import Processes
    from atrous.training.update import Learner

    config = TrainConfig(
        network=Architecture(backbone),
        batch_size=len(images),
        crop_size=(images.shape[2], images.shape[3]),
        precision="bf16" if name in BF16 else "fp32",
    )
    model = create_model(backbone, num_classes=CLASSES)
    learner = Learner(model, config, Processes(0, 1, torch.device("cpu")))
    if name == "plain":
        install._AtrousConv2d._trains_slowly = lambda *_: False  # type: ignore[method-assign]
    if name == "bf16_torch":
        install._in_bf16 = lambda: False

    def step() -> None:
        learner.update(images, targets, 0)

    return step


def command(name: str, row: Row, threads: int) -> list[str]:
    """Returns what starts the process of a contender."""
    index = str(ROWS.index(row))
    return [__file__, "--contender", name, "--rows", index, "--threads", str(threads)]


def measured(row: Row, threads: int) -> dict[str, Any]:
    """Takes steps of ours and of two others in turns, then of ours and of the next two."""
    from atrous.engines.openvino import has_bf16_units

    result: dict[str, Any] = {**row._asdict(), "memory_mb": {}}
    others = (*CONTENDERS[1:], "plain") if row is ROWS[0] else CONTENDERS[1:]
    if row.backbone == "mobilenet_v2" and has_bf16_units():
        others += BF16
    for index in range(0, len(others), AT_A_TIME):  # all at once would not fit into the memory
        names = ("atrous", *others[index : index + AT_A_TIME])
        taking = {name: Turns(command(name, row, threads)) for name in names}
        for _ in range(WARM + row.rounds):
            for contender in taking.values():
                contender.step()
        for name, contender in taking.items():
            result["memory_mb"].setdefault(name, contender.finish())
        for kind, typical in KINDS.items():
            times = {
                name: typical((c.processor if kind == "processor_seconds" else c.wall)[WARM:])
                for name, c in taking.items()
            }
            for name, time_taken in times.items():
                result.setdefault(kind, {}).setdefault(name, round(time_taken, 4))
                ratio = round(time_taken / times["atrous"], 3)
                result.setdefault(f"ratio_of_{kind}", {})[name] = ratio
    return result


def compare(indices: Sequence[int], threads: int) -> None:
    """Measures rows, and writes each beside those that were measured before."""
    path = result_path("training")
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = {(r["backbone"], r["batch"], r["crop"]): r for r in known}
    for index in indices:
        rows[ROWS[index][:3]] = measured(ROWS[index], threads)
        result = {
            "machine": machine("torch", "segmentation_models_pytorch", "atrous"),
            "threads": threads,
            "rows": [rows[row[:3]] for row in ROWS if row[:3] in rows],
        }
        save("training", result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=range(len(ROWS)))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contender", help="take its steps, one for each line of input")
    arguments = parser.parse_args()
    if arguments.contender is None:
        compare(arguments.rows, arguments.threads)
        return
    torch.set_num_threads(arguments.threads)
    take_steps(contender(arguments.contender, ROWS[arguments.rows[0]]))


if __name__ == "__main__":
    main()
