"""The pace of a run, and the time it still takes."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from atrous.training.config import TrainConfig
from atrous.training.run_folder import RunFolder
from atrous.training.saver import State
from atrous.training.signals import peak_memory
from atrous.training.update import Update

_EVERY = 10  # updates between lines of timing.csv


class Progress(NamedTuple):
    """The place and pace of a run, after an update."""

    step: int
    steps: int
    epoch: int
    loss: float
    lr: float
    pictures_per_second: float
    seconds_left: float
    peak_memory: int  # bytes
    score: str  # of the last evaluation, such as "mean IoU 0.7312"; "" before the first

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds_left), 60)
        score = f"  {self.score}" if self.score else ""
        return (
            f"step {self.step}/{self.steps}  epoch {self.epoch}  loss {self.loss:.4f}{score}  "
            f"lr {self.lr:.2g}  {self.pictures_per_second:.1f} pictures/s  "
            f"{self.peak_memory / 2**20:.0f} MB  {minutes}:{seconds:02d} left"
        )


class Clock:
    """Times the updates of a run.

    Args:
        config: The run.
        step: Updates done before this process began.
        on_progress: Called after every update.
    """

    def __init__(
        self, config: TrainConfig, step: int, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self.config = config
        self.first_step = step
        self.on_progress = on_progress
        self.start = self.mark = time.perf_counter()

    def tick(self, run: RunFolder, state: State, update: Update) -> None:
        """Notes that an update is done."""
        now = time.perf_counter()
        if state.step % _EVERY == 0:
            pictures = _EVERY * self.config.batch_size
            run.add_timing(state.step, now - self.mark, pictures, peak_memory())
            self.mark = now
        if self.on_progress is None:
            return
        per_step = (now - self.start) / (state.step - self.first_step)
        measure, name = next(iter(self.config.measures.items()))
        progress = Progress(
            state.step,
            self.config.steps,
            state.position.epoch,
            update.loss,
            update.lr,
            pictures_per_second=self.config.batch_size / per_step,
            seconds_left=per_step * (self.config.steps - state.step),
            peak_memory=peak_memory(),
            score=f"{name} {state.scores[measure]:.4f}" if state.scores else "",
        )
        self.on_progress(progress)


class TimeLimit:
    """Ends the schedule of a run sooner if its updates turn out slower than planned.

    Args:
        minutes: The time from now to the end of the run; None: no limit.
    """

    def __init__(self, minutes: float | None) -> None:
        self.seconds = float("inf") if minutes is None else 60 * minutes
        self.end = time.perf_counter() + self.seconds
        self.evaluation = 0.0  # seconds of the last evaluation
        self._evaluations = 0.0  # seconds of all evaluations
        self._marks: deque[float] = deque(maxlen=_EVERY + 1)  # ends of updates, on a training clock

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Times an evaluation, which does not count as part of an update."""
        start = time.perf_counter()
        yield
        self.evaluation = time.perf_counter() - start
        self._evaluations += self.evaluation

    def steps(self, step: int, config: TrainConfig) -> int:
        """Returns the steps of the schedule, fewer than planned if these would miss the limit.

        Call it after every update. The pace of the last ten updates decides. A run that would
        miss its limit by less than 3 % goes on as planned.

        Args:
            step: Updates done.
            config: The run as planned.
        """
        now = time.perf_counter()
        self._marks.append(now - self._evaluations)
        updates = len(self._marks) - 1
        if updates < _EVERY:
            return config.steps
        pace = (self._marks[-1] - self._marks[0]) / updates
        left = self.end - now

        def needed(steps: int) -> float:
            every = config.evaluate_every or steps
            evaluations = -(-steps // every) - (step - 1) // every  # that after this update too
            return (steps - step) * pace + evaluations * self.evaluation

        if needed(config.steps) <= left + 0.03 * self.seconds:
            return config.steps
        fitting = (steps for steps in range(config.steps - 1, step, -1) if needed(steps) <= left)
        return next(fitting, min(step + 1, config.steps))
