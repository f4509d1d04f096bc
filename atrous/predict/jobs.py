"""Segments pictures in several worker processes, any of which may die."""

import multiprocessing
import signal
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from atrous.engines.machine import ignore_interrupts, interrupts_held, usable_processors
from atrous.errors import AtrousError, InputError
from atrous.images.decode import remove_unfinished
from atrous.predict.batch import PLAIN, Extras, Job, Outcome, Task
from atrous.predict.find import Picture
from atrous.predict.predictor import Predictor

DEATHS = 2  # a picture over which so many workers died is reported and not tried again
_PATIENCE = 20.0  # seconds for a worker to finish its picture when the call ends


def segment_in_jobs(
    options: Mapping[str, Any],
    tasks: Sequence[Task],
    out: Path,
    extras: Extras = PLAIN,
    overwrite: bool = False,
    *,
    jobs: int,
) -> Iterator[Outcome]:
    """Does what `segment_files` does in several processes; yields pictures as they are finished.

    A worker that dies is replaced, and its picture tried once more. A picture over which two
    workers died is reported.

    Args:
        options: Of the `Predictor` of each worker, with a path or a name as the model.
        tasks: From `checked_share`.
        out: As in `segment_files`.
        extras: As in `segment_files`.
        overwrite: As in `segment_files`.
        jobs: Number of processes; they share the threads.

    Raises:
        AtrousError: As `segment_files`.
    """
    threads = max(1, (options.get("threads") or usable_processors()) // jobs)
    make = {**options, "threads": threads}
    crew = _Crew((make, out, extras, overwrite), min(jobs, len(tasks)), tasks)
    try:
        yield from crew.outcomes()
    finally:
        crew.dismiss()


def killed_its_workers(place: int, picture: Picture, ended: str = "") -> Outcome:
    """Returns the outcome of a picture over which several workers died."""
    error = InputError(
        "E-WORKER",
        f"worker processes ended over it {DEATHS} times{ended}",
        where=picture.shown,
        fix="it may need more memory than there is: fewer --jobs, or less --memory",
    )
    return Outcome(picture.path, picture.shown, picture.name, place, None, error, 0.0)


class _Worker:
    """A process that segments a picture whenever it is sent one."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        # A forked child of a process with threads can wait forever for a lock of a lost thread.
        # Engines have threads.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, *arguments), daemon=True)
        with interrupts_held():
            self.process.start()
        theirs.close()
        self.task: Task | None = None


class _Crew:
    """The workers of a call, the pictures left to do, and the deaths over each picture."""

    def __init__(self, arguments: tuple[Any, ...], number: int, tasks: Sequence[Task]) -> None:
        self._arguments = arguments
        self._out: Path = arguments[1]
        self._left = deque(tasks)
        self._deaths: Counter[int] = Counter()
        self._workers = [_Worker(arguments) for _ in range(number)]

    def outcomes(self) -> Iterator[Outcome]:
        """Yields the outcome of each picture when it is known."""
        for worker in self._workers:
            self._next(worker)
        while busy := [worker for worker in self._workers if worker.task is not None]:
            ready = wait([worker.connection for worker in busy])
            for worker in busy:
                if worker.connection in ready:
                    outcome = self._heard(worker)
                    if outcome is not None:
                        yield outcome

    def _next(self, worker: _Worker) -> None:
        worker.task = self._left.popleft() if self._left else None
        if worker.task is not None:
            with suppress(OSError):  # the worker died, which `_heard` finds
                worker.connection.send(worker.task)

    def _heard(self, worker: _Worker) -> Outcome | None:
        """Returns the outcome that a worker sent; replaces a worker that died."""
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):
            return self._died(worker)
        if isinstance(answer, AtrousError):
            raise answer
        self._next(worker)
        outcome: Outcome = answer
        return outcome

    def _died(self, worker: _Worker) -> Outcome | None:
        worker.process.join()
        assert worker.task is not None
        place, picture = worker.task
        remove_unfinished(self._out)
        self._deaths[place] += 1
        outcome = None
        if self._deaths[place] < DEATHS:
            self._left.append(worker.task)
        else:
            ended = f", the last with code {worker.process.exitcode}"
            outcome = killed_its_workers(place, picture, ended)
        fresh = _Worker(self._arguments)
        self._workers[self._workers.index(worker)] = fresh
        self._next(fresh)
        return outcome

    def dismiss(self) -> None:
        """Ends all workers; each may finish its picture first."""
        for worker in self._workers:
            with suppress(OSError):
                worker.connection.send(None)
        for worker in self._workers:
            worker.process.join(_PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        if any(worker.task is not None for worker in self._workers):
            remove_unfinished(self._out)


def _work(
    connection: Connection,
    options: dict[str, Any],
    out: Path,
    extras: Extras,
    overwrite: bool,
) -> None:
    """Segments pictures as they come, until None comes or the parent is gone."""
    ignore_interrupts()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exit removes the unfinished file
    job = Job(Predictor(**options), out, extras, overwrite)
    with suppress(EOFError, OSError):
        while (task := connection.recv()) is not None:
            place, picture = task
            try:
                connection.send(job.do(place, picture))
            except AtrousError as error:  # the disk is full, which ends the call
                connection.send(error)
