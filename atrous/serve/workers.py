"""The front process's side of its workers: one queue in order, and processes that are replaced.

A worker has the job it computes and, while jobs are short, one waiting behind it, so that it never
waits for the front process. It is killed when the job it computes passes the deadline; when it is
gone, for whatever reason, that job alone is lost and another worker takes its place.
"""

import asyncio
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from atrous.errors import AtrousError
from atrous.serve import messages
from atrous.serve.costs import Costs
from atrous.serve.refusals import Busy

LOG = logging.getLogger("atrous.serve")

START_SECONDS = 120.0  # for a worker to load its model; compiling a large one takes its time
SHORT = 0.1  # seconds; behind a longer job, none waits in the worker: another may be free sooner
_SLOWEST_RESTART = 5.0  # seconds between attempts to start a worker that keeps ending
_SEND_BUFFER = 1 << 20

# By itself, glibc keeps what large pictures took, up to 64 MB a worker, for later ones.
_GIVE_MEMORY_BACK = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "4194304"}


@dataclass(eq=False)
class Job:
    """One request's work.

    Attributes:
        number: Its name between front process and worker.
        fields: The worker's instructions, beside number and deadline.
        body: The request's body; empty once it is answered.
        pixels: Of the picture, by its header.
        seconds: The estimated time to compute it.
        deadline: On the clock of `time.monotonic`, which processes share.
        answer: The worker's fields and the bytes of the answer.
        timer: Ends it at the deadline.
    """

    number: int
    fields: dict[str, Any]
    body: bytes
    pixels: int
    seconds: float
    deadline: float
    answer: "asyncio.Future[messages.Message]" = field(repr=False)
    timer: asyncio.TimerHandle | None = None

    def finish(self, answer: messages.Message | AtrousError) -> None:
        """Answers, unless the client has been answered or is gone."""
        if self.timer is not None:
            self.timer.cancel()
        self.body = b""
        if self.answer.done():
            return
        if isinstance(answer, AtrousError):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


class Worker:
    """One process and what it was given.

    Args:
        command: Starts it; the number of its socket and its options are added.
        options: Of its Predictor.
    """

    def __init__(self, command: Sequence[str], options: dict[str, Any]) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        ours.setblocking(False)
        path = os.pathsep.join(entry for entry in sys.path if entry)
        with theirs:
            self.process = subprocess.Popen(
                [*command, str(theirs.fileno()), json.dumps(options)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C is for the front process
                env={**os.environ, **_GIVE_MEMORY_BACK, "PYTHONPATH": path},
            )
        self.connection = ours
        self.jobs: deque[Job] = deque()
        self.ready = False
        self.writer: asyncio.StreamWriter | None = None

    async def connect(self) -> asyncio.StreamReader:
        """Returns what the worker says."""
        reader, self.writer = await asyncio.open_connection(
            sock=self.connection, limit=_SEND_BUFFER
        )
        return reader

    def send(self, job: Job) -> None:
        """Hands over a job."""
        self.jobs.append(job)
        self._write({"id": job.number, "deadline": job.deadline, **job.fields}, job.body)

    def cancel(self, job: Job) -> None:
        """Tells the worker not to begin with a job, if it has not."""
        self._write({"cancel": job.number})

    def _write(self, fields: dict[str, Any], body: bytes = b"") -> None:
        assert self.writer is not None
        self.writer.writelines((messages.head(fields, body), body))

    def takes(self, job: Job) -> bool:
        """Returns whether it can be given a job now."""
        if not self.ready or len(self.jobs) > 1:
            return False
        return not self.jobs or max(self.jobs[0].seconds, job.seconds) <= SHORT

    async def gone(self, seconds: float) -> None:
        """Closes the socket, which ends the process, and waits until it has ended."""
        if self.writer is not None:
            self.writer.transport.abort()
        else:
            self.connection.close()
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            if time.monotonic() > end:
                self.process.kill()
            await asyncio.sleep(0.01)


class Pool:
    """The workers of one model and the queue before them.

    Args:
        name: Of the model, for the log.
        command: Starts a worker.
        options: Of its Predictor.
        workers: How many.
        queue: Jobs that may wait.
        deadline: Seconds a job may take, waiting included.

    Attributes:
        model: What the first worker said about the model.
        costs: What pictures take.
        restarts: Workers that were replaced.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        options: dict[str, Any],
        *,
        workers: int,
        queue: int,
        deadline: float,
    ) -> None:
        self.name, self.queue_bound, self.deadline = name, queue, deadline
        self._command, self._options, self._count = tuple(command), options, workers
        self.model: dict[str, Any] = {}
        self.costs = Costs()
        self.restarts = 0
        self.workers: list[Worker] = []
        self.waiting: deque[Job] = deque()
        self._numbers = itertools.count()
        self._keepers: list[asyncio.Task[None]] = []
        self._processes: set[Worker] = set()  # that have not ended for sure
        self._described, self._warm = asyncio.Event(), asyncio.Event()
        self._failure: AtrousError | None = None  # why it cannot start

    @property
    def ready(self) -> int:
        """How many workers can take jobs."""
        return sum(worker.ready for worker in self.workers)

    @property
    def backlog(self) -> float:
        """Seconds until a job that came now would be begun."""
        jobs = itertools.chain(self.waiting, *(worker.jobs for worker in self.workers))
        return sum(job.seconds for job in jobs) / self._count

    @property
    def working(self) -> int:
        """How many jobs are waiting or worked on."""
        return len(self.waiting) + sum(len(worker.jobs) for worker in self.workers)

    async def start(self) -> None:
        """Starts the workers; returns once the model is known to be good.

        Raises:
            AtrousError: The model cannot be opened.
        """
        self._keepers = [asyncio.create_task(self._keep()) for _ in range(self._count)]
        await self._until(self._described)

    async def until_ready(self) -> None:
        """Returns when the first worker has warmed up.

        Raises:
            AtrousError: It failed to.
        """
        await self._until(self._warm)

    async def _until(self, event: asyncio.Event) -> None:
        await event.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Ends the workers."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for worker in list(self._processes):  # those whose end was being waited for
            await worker.gone(1.0)

    def submit(self, fields: dict[str, Any], body: bytes, pixels: int) -> Job:
        """Queues a job.

        Raises:
            AtrousError: The deadline cannot hold such a picture, or not now.
        """
        seconds = self.costs.seconds(pixels)
        if seconds > self.deadline:
            raise AtrousError(
                "E-SECONDS",
                f"{pixels / 1e6:.1f} megapixels would take about {seconds:.0f} s here, more than "
                f"the {self.deadline:.0f} s a request may take",
                fix="add max_side=1500, or send a smaller picture",
            )
        backlog = self.backlog
        if len(self.waiting) >= self.queue_bound:
            raise Busy(f"{len(self.waiting)} requests are waiting already", backlog)
        if backlog + seconds > self.deadline:
            raise Busy(f"requests that wait already take {backlog:.0f} s", backlog)
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + self.deadline
        job = Job(
            next(self._numbers), fields, body, pixels, seconds, deadline, loop.create_future()
        )
        job.timer = loop.call_later(self.deadline, self._expire, job)
        self.waiting.append(job)
        self._dispatch()
        return job

    def drop(self, job: Job) -> None:
        """Forgets a job whose client is gone; one that is being computed is finished."""
        if job.timer is not None:
            job.timer.cancel()
        job.answer.cancel()
        if job in self.waiting:
            self.waiting.remove(job)
        for worker in self.workers:
            if job in list(worker.jobs)[1:]:
                worker.cancel(job)

    def _dispatch(self) -> None:
        while self.waiting:
            able = [worker for worker in self.workers if worker.takes(self.waiting[0])]
            if not able:
                return
            min(able, key=lambda worker: len(worker.jobs)).send(self.waiting.popleft())

    def _expire(self, job: Job) -> None:
        what, fix = f"no answer within {self.deadline:g} s", "try again later, or add max_side=1500"
        job.finish(AtrousError("E-DEADLINE", what, fix=fix))
        if job in self.waiting:
            self.waiting.remove(job)
        for worker in self.workers:
            if worker.jobs and worker.jobs[0] is job:
                LOG.warning("%s: a worker is killed: its job passed the deadline", self.name)
                worker.process.kill()

    async def _keep(self) -> None:
        """Keeps one worker alive: starts it, listens to it, replaces it."""
        pause = 0.1
        while True:
            worker = Worker(self._command, self._options)
            self.workers.append(worker)
            self._processes.add(worker)
            try:
                await self._listen(worker)
            except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
                pass  # it is gone, or useless
            except Exception:
                LOG.exception("a bug, listening to a worker")
            finally:
                ready = worker.ready
                self._bury(worker)
                await worker.gone(1.0)
                self._processes.discard(worker)
            self.restarts += 1
            status = worker.process.returncode
            LOG.warning("%s: a worker ended (status %s) and is replaced", self.name, status)
            self._fail_start(
                AtrousError("E-WORKER", f"its process ended with status {status}", where=self.name)
            )
            pause = 0.1 if ready else min(2 * pause, _SLOWEST_RESTART)
            await asyncio.sleep(0 if ready else pause)

    async def _listen(self, worker: Worker) -> None:
        reader = await worker.connect()
        async with asyncio.timeout(START_SECONDS):
            while not worker.ready:
                fields, _ = await messages.read(reader)
                self._started(worker, fields)
        while True:
            fields, payload = await messages.read(reader)
            job = worker.jobs.popleft()
            assert fields.pop("id") == job.number
            if "seconds" in fields:
                self.costs.learn(fields.get("pixels", job.pixels), fields["seconds"])
            if fields.pop("restart", False):
                worker.ready = False
            job.finish((fields, payload))
            self._dispatch()

    def _started(self, worker: Worker, fields: dict[str, Any]) -> None:
        if "failed" in fields:
            self._fail_start(AtrousError(**{"where": self.name, **fields["failed"]}))
        elif "model" in fields:
            self.model = fields["model"]
            self._described.set()
        elif "ready" in fields:
            self.costs.begin(**fields["ready"])
            worker.ready = True
            self._warm.set()
            self._dispatch()

    def _fail_start(self, error: AtrousError) -> None:
        """Says why the server cannot start, if it is starting."""
        if not self._warm.is_set():
            self._failure = self._failure or error
            self._described.set()
            self._warm.set()

    def _bury(self, worker: Worker) -> None:
        """Answers the job a dead worker computed; the one behind it goes first again."""
        self.workers.remove(worker)
        worker.ready = False
        if worker.jobs:
            lost = worker.jobs.popleft()
            lost.finish(Busy("the worker that had this request ended", code="E-WORKER"))
        again = [job for job in worker.jobs if not job.answer.done()]
        self.waiting.extendleft(reversed(again))
        worker.jobs.clear()
        self._dispatch()


async def first_to_fail(works: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Does several things at once; the first error ends them all."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
