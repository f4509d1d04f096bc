"""Interruptions of a run from outside: signals, and memory that runs out."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

import torch

from atrous.engines.machine import peak_megabytes
from atrous.errors import ResourceError
from atrous.training.config import TrainConfig
from atrous.training.distributed import Processes

# SLURM warns with SIGUSR1, which Windows does not have.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


class StopSignals:
    """Remembers the first signal; a second signal stops the process at once."""

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received = number

    def agreed(self, processes: Processes) -> int:
        """Returns the signal any of the processes received, the same in each; 0: none."""
        if processes.world_size == 1:
            return self.received
        flags = torch.zeros(65, dtype=torch.int32, device=processes.device)
        flags[self.received] = 1
        received = processes.sum(flags)[1:].nonzero()
        return int(received[0]) + 1 if len(received) else 0


@contextmanager
def memory_errors(config: TrainConfig, *, first: bool) -> Iterator[None]:
    """Turns an error of an allocator into an `AtrousError` with advice.

    Args:
        config: The run.
        first: Whether this is the first update. If it fails, the config does not fit.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        needed = _asked_for(error)
        if needed is None:
            raise
        pictures = config.batch_size // config.accumulation
        smaller = _next_accumulation(config)
        advice = f"--accumulation {smaller} computes the same batch in parts of "
        advice += f"{config.batch_size // smaller}; --batch auto does so by itself"
        raise ResourceError(
            "E-MEMORY",
            f"out of memory{needed} with {pictures} pictures of "
            f"{config.crop_size[0]}x{config.crop_size[1]} at a time, "
            f"{peak_memory() / 2**20:.0f} MB in use at most",
            where="" if first else "later in the run; the last checkpoint is kept",
            fix=advice
            if smaller > config.accumulation
            else "use smaller crops, or --gradient-checkpointing",
        ) from error


def _next_accumulation(config: TrainConfig) -> int:
    """Returns the next larger number of parts the batch can be divided into."""
    larger = range(config.accumulation + 1, config.batch_size + 1)
    return next((n for n in larger if config.batch_size % n == 0), config.accumulation)


def _asked_for(error: Exception) -> str | None:
    """Returns " asking for N bytes" from an allocator's message; None: another error."""
    text = str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        found = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", text)
        return f" asking for {found[1]}" if found else ""
    if isinstance(error, MemoryError):
        return ""
    if "not enough memory" in text or "can't allocate memory" in text:
        found = re.search(r"allocate (\d+) bytes", text)
        return f" asking for {int(found[1]) / 2**20:.0f} MB" if found else ""
    if "could not create a memory object" in text or "std::bad_alloc" in text:
        return ""
    return None


def peak_memory() -> int:
    """Returns the peak of this process's memory in bytes, of the GPU where it uses one.

    Windows has neither ``/proc`` nor `resource`; there the answer is 0.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return round(peak_megabytes() * 2**20)
