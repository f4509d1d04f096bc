"""What a run would take, before it starts: memory, time, and a division of the batch that fits."""

import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from atrous.cost import measure, parameters
from atrous.data.dataset import Dataset
from atrous.data.loader import TrainingLoader
from atrous.model import Model
from atrous.training.config import TrainConfig
from atrous.training.distributed import Processes
from atrous.training.setup import augmentation, create_network, open_data
from atrous.training.update import Learner

USABLE = 0.8  # of the memory that is free: an estimate is not a promise


@dataclass(frozen=True)
class Plan:
    """What a run would take.

    Attributes:
        config: The run, its batch divided so that it fits.
        pictures: Of the training and the validation split.
        parameters: Trainable numbers of the network.
        memory: Estimated bytes at the peak, of one process.
        available: Bytes free on the device.
        seconds_per_step: Measured on one update; None where it would not fit.
    """

    config: TrainConfig
    pictures: tuple[int, int]
    parameters: int
    memory: int
    available: int
    seconds_per_step: float | None

    @property
    def fits(self) -> bool:
        """Whether the run should fit into memory."""
        return self.memory <= USABLE * self.available

    def __str__(self) -> str:
        c = self.config
        part = c.batch_size // c.accumulation
        if self.seconds_per_step is None:
            spent = "not measured: it would not fit"
        else:
            hours = self.seconds_per_step * c.steps / 3600
            spent = f"{hours:.2f} h ({self.seconds_per_step:.2f} s a step, one step measured)"
        return "\n".join(
            (
                f"network      {c.backbone}, output stride {c.output_stride}, "
                f"{self.parameters / 1e6:.2f} M parameters",
                f"data         {c.data}: {self.pictures[0]} training, "
                f"{self.pictures[1]} validation pictures",
                f"steps        {c.steps} of {c.batch_size} crops of "
                f"{c.crop_size[0]}x{c.crop_size[1]}: "
                f"{c.steps * c.batch_size / self.pictures[0]:.1f} epochs",
                f"at a time    {part} crops (accumulation {c.accumulation})",
                f"memory       about {self.memory / 2**20:.0f} MB of "
                f"{self.available / 2**20:.0f} MB free"
                + ("" if self.fits else ": TOO MUCH, use --batch auto, smaller --crop-size, or "
                   "--gradient-checkpointing"),
                f"time         {spent}, evaluations not counted",
            )
        )  # fmt: skip


def plan(config: TrainConfig, *, divide: bool = False) -> Plan:
    """Finds out what a run would take; nothing is written.

    Args:
        config: The run.
        divide: Choose the accumulation: the fewest parts that fit into memory.

    Raises:
        AtrousError: Anything wrong with config or data.
    """
    train_data, val_data = open_data(config)
    network = create_network(config, train_data)
    available = free_memory()
    if divide:
        config = replace(config, accumulation=_parts(network, config, available))
    memory = estimate_memory(network, config)
    fits = memory <= USABLE * available
    seconds = _measure_step(network, config, train_data) if fits else None
    counts = (len(train_data), len(val_data))
    return Plan(config, counts, parameters(network), memory, available, seconds)


def estimate_memory(network: Model, config: TrainConfig) -> int:
    """Estimates the bytes an update takes, of everything torch allocates.

    Outputs of convolutions and batch norms may be kept for the backward pass (on a CPU most of the
    latter are not); logits, at the crop's size in segmentation, are there about four times
    (logits, their logarithms, two gradients), of one picture only where the loss is cross-entropy
    or focal.
    """
    part = config.batch_size // config.accumulation
    height, width = config.crop_size if config.task == "segmentation" else (1, 1)
    logits = 4 * 4 * len(network.classes) * height * width
    activations = measure(network, config.crop_size).activation_bytes
    copies = 3 + (config.optimizer == "adamw") + (config.average_decay > 0)
    return part * (activations + logits) + 4 * copies * parameters(network)


def free_memory() -> int:
    """Returns the bytes this process may still allocate on its device."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    free = [1 << 62]
    information = Path("/proc/meminfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(int(line.split()[1]) * 1024)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        free.append(max(0, limit - used))
    return min(free)


def _parts(network: Model, config: TrainConfig, available: int) -> int:
    parts = [n for n in range(1, config.batch_size + 1) if config.batch_size % n == 0]
    for n in parts:
        if estimate_memory(network, replace(config, accumulation=n)) <= USABLE * available:
            return n
    return parts[-1]


def _measure_step(network: Model, config: TrainConfig, data: Dataset) -> float:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    part = config.batch_size // config.accumulation
    one = replace(config, batch_size=part, accumulation=1, compile=False)
    learner = Learner(network, one, Processes(0, 1, device))
    loader = TrainingLoader(data, augmentation(one), part, config.seed)
    batches = loader.batches()
    spent = []
    for _ in range(2):  # the first warms up
        start = time.perf_counter()
        batch = next(batches)
        learner.update(batch.images, batch.targets, 0)
        spent.append(time.perf_counter() - start)
    return spent[-1] * config.accumulation
