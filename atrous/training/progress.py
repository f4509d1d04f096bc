"""How fast a run is, and how long it still takes."""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from atrous.training.config import TrainConfig
from atrous.training.run_folder import RunFolder
from atrous.training.signals import peak_memory
from atrous.training.update import Update

logger = logging.getLogger(__name__)

_EVERY = 10  # updates between lines of timing.csv


class Progress(NamedTuple):
    """What the caller of `train` is told after every update."""

    step: int
    steps: int
    epoch: int
    loss: float
    lr: float
    pictures_per_second: float
    seconds_left: float
    peak_memory: int  # bytes

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds_left), 60)
        return (
            f"step {self.step}/{self.steps}  epoch {self.epoch}  loss {self.loss:.4f}  "
            f"lr {self.lr:.2g}  {self.pictures_per_second:.1f} pictures/s  "
            f"{self.peak_memory / 2**20:.0f} MB  {minutes}:{seconds:02d} left"
        )


class Clock:
    """Times the updates of a run."""

    def __init__(
        self, config: TrainConfig, step: int, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self.config = config
        self.first_step = step
        self.on_progress = on_progress
        self.start = self.mark = time.perf_counter()

    def tick(self, run: RunFolder, step: int, epoch: int, update: Update) -> None:
        """Notes that a step is done."""
        now = time.perf_counter()
        if step % _EVERY == 0:
            pictures = _EVERY * self.config.batch_size
            run.add_timing(step, now - self.mark, pictures, peak_memory())
            self.mark = now
        if self.on_progress is None:
            return
        per_step = (now - self.start) / (step - self.first_step)
        left = per_step * (self.config.steps - step)
        rate = self.config.batch_size / per_step
        self.on_progress(
            Progress(
                step, self.config.steps, epoch, update.loss, update.lr, rate, left, peak_memory()
            )
        )
