"""Segments pictures on a Ray cluster, or on a cluster of this machine for the call.

Paths travel to the machines, and records come back; pixels do not travel. Ray Data runs what a dead
actor had not finished again. Each picture gives one result, because files are whole or absent.
"""

import logging
import os
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from atrous.engines.machine import usable_processors
from atrous.errors import AtrousError, needing
from atrous.images.decode import remove_unfinished
from atrous.predict.batch import Extras, Job, Outcome, Task
from atrous.predict.find import Picture
from atrous.predict.jobs import DEATHS, killed_its_workers
from atrous.predict.predictor import Predictor

_BLOCK = 16  # pictures that an actor takes at a time; those of a dead actor are looked at again
_MOST_BLOCKS = 4096
_STORE_BYTES = 100_000_000  # of Ray's shared memory, which holds paths and records only


def segment_on_ray(
    options: Mapping[str, Any],
    tasks: Sequence[Task],
    out: Path,
    extras: Extras,
    overwrite: bool,
    *,
    actors: int | None,
    address: str | None,
) -> Iterator[Outcome]:
    """Segments pictures in actors of Ray Data; yields them as they are finished.

    Args:
        options: Of the `Predictor` of each actor, with a path or a name as the model. Threads are
            those of each actor.
        tasks: From `checked_share`.
        out: The folder of the output, which all machines see.
        extras: As in `segment_files`.
        overwrite: As in `segment_files`.
        actors: Number of actors; None: one for each processor, on a cluster all but one.
        address: Of a running cluster; None: a cluster on this machine, stopped at the end.

    Raises:
        AtrousError: Ray is missing, no cluster answers, it has too few processors, a machine
            cannot open the model, or the disk is full.
    """
    if not tasks:
        return
    with _cluster(address, actors, out) as (ray, actors):
        threads = options.get("threads") or (
            1 if address else max(1, usable_processors() // actors)
        )
        deaths = ray.remote(_Attempts).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        make = {**options, "threads": threads}
        arguments = (deaths.remote(), str(Path.cwd()), make, out, extras, overwrite)
        blocks = min(-(-len(tasks) // _BLOCK), _MOST_BLOCKS)
        items = [{"task": pickle.dumps(task)} for task in tasks]
        answers = ray.data.from_items(items, override_num_blocks=blocks).map(
            _Actor,
            fn_constructor_args=arguments,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=1,
        )
        for row in answers.iter_rows():
            answer = pickle.loads(row["answer"])
            if isinstance(answer, AtrousError):
                raise answer
            yield answer


@contextmanager
def _cluster(address: str | None, actors: int | None, out: Path) -> Iterator[tuple[Any, int]]:
    """Yields Ray, connected to a cluster, and the number of actors; stops what it started."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing here reports to anybody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its errors are lines of ours
    with needing("--engine ray", "ray"):
        import ray
        import ray.data
    ours = not ray.is_initialized()
    quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    try:
        if address:
            ray.init(address=address, ignore_reinit_error=True, **quiet)
        elif ours:
            actors = actors or usable_processors()
            # Ray Data can hang if its actors hold all processors. These are only numbers to Ray.
            ray.init(
                "local", num_cpus=actors + 2, num_gpus=0, object_store_memory=_STORE_BYTES,
                include_dashboard=False, **quiet,
            )  # fmt: skip
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        resources: Any = ray.cluster_resources  # untyped
        free = int(resources().get("CPU", 0)) - 1
        if free < (actors or 1):
            raise AtrousError(
                "E-JOBS",
                f"the cluster has {free + 1} processors, one of which must stay free; "
                f"{actors or 1} actors would wait for ever",
                where=address or "",
                fix="ask for fewer --jobs, or start machines with more: ray start --num-cpus N",
            )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        yield ray, actors or free
    except ConnectionError as error:
        raise AtrousError(
            "E-RAY", f"no Ray cluster answers: {error}", where=address or "",
            fix="start one with: ray start --head",
        ) from None  # fmt: skip
    finally:
        if ours:
            ray.shutdown()
        if not address:
            remove_unfinished(out)  # an interrupt stops actors while they write


class _Attempts:
    """Counts how often each picture was begun and not finished; an actor without processor."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, place: int, finished: int) -> int:
        """Returns how often a picture was begun, and forgets one that was finished."""
        self._begun.pop(finished, None)
        self._begun[place] += 1
        return self._begun[place]


class _Actor:
    """Holds a Predictor in a process of its own, on any machine of the cluster."""

    def __init__(
        self,
        attempts: Any,
        folder: str,
        options: dict[str, Any],
        out: Path,
        extras: Extras,
        overwrite: bool,
    ) -> None:
        self._attempts, self._finished = attempts, 0
        with suppress(OSError):  # a machine without this folder sees absolute paths only
            os.chdir(folder)
        remove_unfinished(out)  # of an actor that died here
        # Ray would create an actor again for ever whose constructor fails.
        self._job: Job | AtrousError
        try:
            self._job = Job(Predictor(**options), out, extras, overwrite)
        except AtrousError as error:
            self._job = error

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        """Segments the picture of a row; returns its outcome, or the error that ends the call."""
        place, picture = pickle.loads(row["task"])
        return {"answer": pickle.dumps(self._answer(place, picture))}

    def _answer(self, place: int, picture: Picture) -> Outcome | AtrousError:
        import ray

        if isinstance(self._job, AtrousError):
            return self._job
        begun = ray.get(self._attempts.begin.remote(place, self._finished))
        self._finished = place
        if begun > DEATHS:
            return killed_its_workers(place, picture)
        try:
            return self._job.do(place, picture)
        except AtrousError as error:  # the disk is full
            return error
