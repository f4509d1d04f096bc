"""The cost of a run before it starts: its memory, its time, and the steps that fit a time limit."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from atrous.cost import measure, parameters
from atrous.data.dataset import Dataset
from atrous.data.loader import TrainingLoader
from atrous.data.splitting import Subset
from atrous.errors import AtrousError
from atrous.evaluation.evaluator import evaluate
from atrous.model import DeepLabV3Plus, Model
from atrous.training.config import TrainConfig
from atrous.training.distributed import Processes, chosen_device
from atrous.training.inputs import augmentation, open_data, with_channels
from atrous.training.setup import create_network
from atrous.training.update import Learner

USABLE = 0.8  # of the free memory: the rest is for the error of the estimate

_START_SECONDS = 10.0  # of a run for imports, the doctor and the first checkpoint


@dataclass(frozen=True)
class Plan:
    """The cost of a run.

    Attributes:
        config: The run, its batch divided so that it fits into memory.
        pictures: Of the training and the validation split.
        parameters: Trainable numbers of the network.
        memory: Estimated bytes at the peak, of one process.
        available: Free bytes on the device.
        seconds_per_step: Measured on one update; None: the run does not fit into memory.
        seconds_per_evaluation: Measured on one picture, for the whole split.
    """

    config: TrainConfig
    pictures: tuple[int, int]
    parameters: int
    memory: int
    available: int
    seconds_per_step: float | None
    seconds_per_evaluation: float

    @property
    def fits(self) -> bool:
        """Whether the run should fit into memory."""
        return self.memory <= USABLE * self.available

    @property
    def seconds(self) -> float | None:
        """The estimated time of the run, evaluations included; None: it does not fit."""
        if self.seconds_per_step is None:
            return None
        steps, every = self.config.steps, self.config.evaluate_every
        evaluations = -(-steps // every) if every else 1
        return steps * self.seconds_per_step + evaluations * self.seconds_per_evaluation

    def __str__(self) -> str:
        c = self.config
        part = c.batch_size // c.accumulation
        spent = "not measured: the run does not fit into memory"
        if self.seconds is not None:
            spent = (
                f"{_duration(self.seconds)} ({self.seconds_per_step:.2f} s a step, "
                f"{self.seconds_per_evaluation:.0f} s an evaluation, measured on one of each)"
            )
        too_much = ": TOO MUCH, use --batch auto, smaller --crop-size, or --gradient-checkpointing"
        return "\n".join(
            (
                f"network      {c.network.backbone}, output stride {c.network.output_stride}, "
                f"{self.parameters / 1e6:.2f} M parameters",
                f"data         {c.data}: {self.pictures[0]} training, "
                f"{self.pictures[1]} validation pictures ({c.val_split})",
                f"steps        {c.steps} of {c.batch_size} crops of "
                f"{c.crop_size[0]}x{c.crop_size[1]}: "
                f"{c.steps * c.batch_size / self.pictures[0]:.1f} epochs, evaluated "
                + (f"every {c.evaluate_every} steps" if c.evaluate_every else "at the end"),
                f"at a time    {part} crops (accumulation {c.accumulation})",
                f"memory       about {self.memory / 2**20:.0f} MB of "
                f"{self.available / 2**20:.0f} MB free" + ("" if self.fits else too_much),
                f"time         {spent}",
            )
        )


def _duration(seconds: float) -> str:
    """Returns a time in the unit that suits it.

    >>> _duration(240), _duration(9000)
    ('4.0 minutes', '2.5 hours')
    """
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def plan(config: TrainConfig, *, divide: bool = False) -> Plan:
    """Estimates the memory and measures the time of a run; nothing is written.

    Args:
        config: The run.
        divide: Choose the accumulation: the fewest parts that fit into memory.

    Raises:
        AtrousError: An error in config or data.
    """
    train_data, val_data = open_data(config)
    config = with_channels(config, train_data)
    network = create_network(config, train_data)
    available = free_memory(config.device)
    if divide:
        config = replace(config, accumulation=_parts(network, config, available))
    memory = estimate_memory(network, config)
    fits = memory <= USABLE * available
    evaluation = _measure_evaluation(network, config, val_data) if fits else 0.0
    seconds = _measure_step(network, config, train_data) if fits else None
    counts = (len(train_data), len(val_data))
    return Plan(config, counts, parameters(network), memory, available, seconds, evaluation)


def with_budget(
    config: TrainConfig, *, epochs: float | None = None, minutes: float | None = None
) -> TrainConfig:
    """Returns the config with as many steps as a number of epochs or minutes gives.

    Args:
        config: The run.
        epochs: How often training sees every picture.
        minutes: The time of the whole run. One update and one evaluation are measured.

    Raises:
        AtrousError: Both or impossible values, or a time that does not suffice for a step.
    """
    check_length(epochs=epochs, minutes=minutes)
    if epochs is not None:
        pictures = len(open_data(config)[0])
        config = replace(config, steps=max(1, round(epochs * pictures / config.batch_size)))
    if minutes is not None:
        config = within(plan(config), 60 * minutes)
    return config


def check_length(
    *, steps: int | None = None, epochs: float | None = None, minutes: float | None = None
) -> None:
    """Raises AtrousError unless at most one length is given, above 0, and fits the processes."""
    given = [value for value in (steps, epochs, minutes) if value is not None]
    if len(given) > 1 or (given and not 0 < given[0] < float("inf")):
        raise AtrousError("E-CONFIG", "give one of steps, epochs and minutes, above 0")
    if minutes is not None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise AtrousError(
            "E-CONFIG",
            "minutes cannot be given to several processes: each measures another time",
            fix="use --epochs or --steps",
        )


def within(planned: Plan, seconds: float) -> TrainConfig:
    """Returns a planned run with as many steps as fit into a time.

    Evaluations take less than a third of the time, and there are at most ten.

    Raises:
        AtrousError: The time does not suffice for a step, or the run does not fit into memory.
    """
    config, step = planned.config, planned.seconds_per_step
    if step is None:
        raise AtrousError("E-MEMORY", f"the run does not fit into memory\n{planned}")
    left = seconds - _START_SECONDS  # slower steps than measured: the run leaves out some
    evaluations = int(min(10, max(1, 0.3 * left / max(planned.seconds_per_evaluation, 1e-3))))
    steps = int((left - evaluations * planned.seconds_per_evaluation) / step)
    if steps < 1:
        raise AtrousError(
            "E-CONFIG",
            f"{seconds / 60:.1f} minutes do not suffice: a step takes {step:.1f} s, an evaluation "
            f"{planned.seconds_per_evaluation:.1f} s, the start about {_START_SECONDS:.0f} s",
            fix="more --minutes, smaller --crop-size or --batch-size",
        )
    every = max(config.evaluate_every, -(-steps // evaluations)) if config.evaluate_every else 0
    return replace(config, steps=steps, evaluate_every=every)


def estimate_memory(network: Model, config: TrainConfig) -> int:
    """Estimates the bytes an update takes, of all that torch allocates.

    The backward pass may need the outputs of convolutions and batch norms (on a CPU most outputs
    of batch norms are computed again). Logits at the crop's size exist about four times: logits,
    their logarithms and two gradients.
    """
    part = config.batch_size // config.accumulation
    height, width = config.crop_size if config.task == "segmentation" else (1, 1)
    logits = 4 * 4 * len(network.classes) * height * width
    activations = measure(network, config.crop_size).activation_bytes
    copies = 3 + (config.optimizer == "adamw") + (config.average_decay > 0)
    return part * (activations + logits) + 4 * copies * parameters(network)


def free_memory(device: str = "auto") -> int:
    """Returns the bytes this process may still allocate on the device it trains on."""
    if chosen_device(device).type == "cuda":
        return torch.cuda.mem_get_info()[0]
    return min((1 << 62, *_free_in_machine(), *_free_in_process(), *free_in_groups()))


def _free_in_machine() -> Iterator[int]:
    information = Path("/proc/meminfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024


def _free_in_process() -> Iterator[int]:
    """Yields the rest of the address space that `ulimit -v` leaves."""
    if sys.platform == "win32":  # it has neither limit nor module
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    size = Path("/proc/self/statm")
    if limit != resource.RLIM_INFINITY and size.is_file():
        yield max(0, limit - int(size.read_text().split()[0]) * resource.getpagesize())


def free_in_groups(
    membership: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """Yields the free bytes of each control group this process is in, where it has a limit.

    Containers limit memory like that. Files in the kernel's cache count as free.

    Args:
        membership: The kernel's list of the groups of this process.
        mounted: Where the groups are mounted: version 2, or version 1 with a folder ``memory``.
    """
    if not membership.is_file():
        return
    for line in membership.read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            top, limit, used, cache = mounted, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, used = mounted / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        group = top / name.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                yield from _free_in_group(folder, limit, used, cache)


def _free_in_group(folder: Path, limit: str, used: str, cache: str) -> Iterator[int]:
    try:
        most = (folder / limit).read_text().strip()
        if most == "max":
            return
        rows = [row.split() for row in (folder / "memory.stat").read_text().splitlines()]
        cached = sum(int(value) for key, value in rows if key == cache)
        yield max(0, int(most) - int((folder / used).read_text()) + cached)
    except (OSError, ValueError):
        return  # no such limit here, or not readable


def _parts(network: Model, config: TrainConfig, available: int) -> int:
    parts = [n for n in range(1, config.batch_size + 1) if config.batch_size % n == 0]
    for n in parts:
        if estimate_memory(network, replace(config, accumulation=n)) <= USABLE * available:
            return n
    return parts[-1]


def _measure_step(network: Model, config: TrainConfig, data: Dataset) -> float:
    part = config.batch_size // config.accumulation
    one = replace(config, batch_size=part, accumulation=1)
    learner = Learner(network, one, Processes(0, 1, chosen_device(config.device)))
    loader = TrainingLoader(data, augmentation(one), part, config.seed)
    batches = loader.batches()
    spent = []
    for _ in range(3):  # the first warms up
        start = time.perf_counter()
        batch = next(batches)
        learner.update(batch.images, batch.targets, 0)
        spent.append(time.perf_counter() - start)
    return min(spent[1:]) * config.accumulation


def _measure_evaluation(network: Model, config: TrainConfig, data: Dataset) -> float:
    """Returns the seconds an evaluation of the whole split takes."""
    if not isinstance(network, DeepLabV3Plus):
        return 0.0
    network = network.to(chosen_device(config.device)).eval()
    some = Subset(data, range(0, len(data), -(-len(data) // 2)), "a look")
    evaluate(network, Subset(data, range(1), "one picture"), trimap=None)  # warms up
    start = time.perf_counter()
    evaluate(network, some, trimap=None)
    return (time.perf_counter() - start) * len(data) / len(some)
