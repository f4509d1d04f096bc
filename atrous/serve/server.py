"""The server: its socket, its signals, and how it comes and goes."""

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import uvicorn
from uvicorn.server import ServerState

from atrous.engines import built_in
from atrous.engines.exported_file import read_header
from atrous.engines.machine import usable_processors
from atrous.errors import AtrousError, ExitCode
from atrous.serve.app import Service
from atrous.serve.connections import Protocol
from atrous.serve.files import File, page_files
from atrous.serve.settings import Settings
from atrous.serve.site import PAGE, check_rgb
from atrous.serve.workers import Pool, first_to_fail

LOG = logging.getLogger("atrous.serve")

WORKER = (sys.executable, "-P", "-m", "atrous.serve.worker")  # nothing from the current folder

_BACKLOG = 2048  # connections the system holds until they are accepted
_LONGEST_HEAD = 16_384  # bytes of a request line and its headers
_IDLE_GRACE = 0.5  # seconds in which a request that is on its way may still arrive
_MORE_TIME = 5.0  # seconds beyond body and deadline until a stop no longer waits for clients


class Server:
    """Serves models over HTTP; a context manager that runs in a thread, or `run` until a signal.

    >>> with atrous.serve.Server(Settings(port=0)) as server:  # doctest: +SKIP
    ...     urllib.request.urlopen(server.url + "/readyz")

    Args:
        settings: Models, address, limits.
        worker: The command that starts a worker; tests give one with a model of their own.
        page: The folder of the page's files.

    Raises:
        AtrousError: Two models of one name, or a file that is missing or damaged.

    Attributes:
        port: Where it listens; the one that was free if `Settings.port` is 0.
        pools: The workers of each model.
    """

    def __init__(
        self, settings: Settings, *, worker: Sequence[str] = WORKER, page: Path = PAGE
    ) -> None:
        self.settings = settings
        self.port = settings.port
        self.workers, self.threads = settings.processes(usable_processors())
        self.pools: dict[str, Pool] = {}
        files = {}
        for name, model in settings.named_models().items():
            if (file := _file(model, settings)) is not None:
                files[name] = file
            options = {
                "model": model,
                "threads": self.threads,
                "memory": settings.memory,
                "precision": settings.precision,
            }
            self.pools[name] = Pool(
                name,
                worker,
                options,
                workers=self.workers,
                queue=settings.queue_bound(self.workers),
                deadline=settings.deadline,
            )
        self.service = Service(settings, self.pools, page_files(page), files)
        self._state = ServerState()
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._hurry = False

    @property
    def url(self) -> str:
        """Where clients on this machine find it."""
        host = self.settings.host
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def run(self) -> int:
        """Serves until SIGTERM or SIGINT, and finishes what it has read.

        Returns:
            The exit code, 0.

        Raises:
            AtrousError: A model cannot be opened, or the address cannot be listened on.
        """
        asyncio.run(self._serve(signals=True))
        return ExitCode.OK

    def start(self) -> Self:
        """Serves in a thread; returns when the server is ready.

        Raises:
            AtrousError: As `run`.
        """
        self._thread = threading.Thread(target=self._run_in_thread, name="atrous.serve")
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            self._thread = None
            raise self._failure
        return self

    def stop(self) -> None:
        """Finishes what was read, then ends; returns when it has."""
        if self._thread is None:
            return
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._stop)
        self._thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        """Starts; see `start`."""
        return self.start()

    def __exit__(self, *raised: object) -> None:
        """Stops; see `stop`."""
        self.stop()

    def _run_in_thread(self) -> None:
        try:
            asyncio.run(self._serve(signals=False))
        except BaseException as error:  # whoever called `start` raises it
            self._failure = error
        finally:
            self._started.set()

    async def _serve(self, *, signals: bool) -> None:
        self._loop = asyncio.get_running_loop()
        if signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._stop)
        with _bound(self.settings) as listener:
            self.port = listener.getsockname()[1]
            pools = list(self.pools.values())
            try:
                await self._unless_stopped(first_to_fail([pool.start for pool in pools]))
                if self._stopping.is_set():
                    return
                await self._listen(listener)
            finally:
                await asyncio.gather(*(pool.stop() for pool in pools))

    def _stop(self) -> None:
        """Stops; the second time, without waiting for anybody."""
        self._hurry = self._stopping.is_set()
        self._stopping.set()

    async def _listen(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        _raise_file_limit()
        config = _configuration(self.service, self.settings.header_seconds)
        protocol = type("_Protocol", (Protocol,), {"header_seconds": self.settings.header_seconds})

        def connection() -> Protocol:
            made: Protocol = protocol(config=config, server_state=self._state, app_state={})
            return made

        server = await loop.create_server(connection, sock=listener, backlog=_BACKLOG)
        pools = list(self.pools.values())
        await self._unless_stopped(first_to_fail([pool.until_ready for pool in pools]))
        self._started.set()
        LOG.info("ready: %s at %s", ", ".join(self.pools), self.url)
        await self._stopping.wait()
        self.service.draining = True
        LOG.info("stopping: finishing what was read")
        waiting = _accept_all(listener)
        server.close()
        for accepted in waiting:
            await loop.connect_accepted_socket(connection, accepted)
        await self._drain()

    async def _unless_stopped(self, work: Any) -> None:
        """Waits for work, but not longer than until a signal."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            task.result()
        task.cancel()

    async def _drain(self) -> None:
        """Answers all requests whose first byte was read, then closes all connections."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        idle_end = now + _IDLE_GRACE
        end = now + self.settings.body_seconds + self.settings.deadline + _MORE_TIME
        while self._state.connections and now < end and not self._hurry:
            await asyncio.sleep(0.02)
            now = loop.time()
            for connection in list(self._state.connections) if now > idle_end else []:
                assert isinstance(connection, Protocol)
                if connection.idle:
                    connection.transport.close()
        for connection in list(self._state.connections):
            connection.transport.abort()
        for task in list(self._state.tasks):
            task.cancel()


def _configuration(service: Service, idle_seconds: float) -> uvicorn.Config:
    config = uvicorn.Config(
        service.application(),
        lifespan="off",
        ws="none",
        loop="asyncio",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=idle_seconds,  # type: ignore[arg-type]  # it takes any number
        h11_max_incomplete_event_size=_LONGEST_HEAD,
    )
    config.load()
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # odd requests are no news
    return config


@contextlib.contextmanager
def _bound(settings: Settings) -> Any:
    """Yields a socket that has the address but does not listen yet.

    Raises:
        AtrousError: Another program has it, or it is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Without the protocol's number, asyncio does not turn off Nagle's delay of small packets.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        try:
            listener.bind((settings.host.strip("[]"), settings.port))
        except OSError as error:
            raise AtrousError(
                "E-SERVE-ADDRESS",
                f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}",
                fix="choose another with --port, or --host",
            ) from None
        yield listener


def _accept_all(listener: socket.socket) -> list[socket.socket]:
    """Takes in the connections that wait to be accepted: closing the listener would reset them."""
    accepted = []
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            accepted.append(connection)
    return accepted


def _file(model: str, settings: Settings) -> File | None:
    """Returns the file of a model that may be downloaded.

    Raises:
        AtrousError: No such exported file, or a damaged one: known before a worker is started.
    """
    built = built_in.find(model)
    if built is not None:
        return File(built)
    path = Path(model)
    if path.suffix != ".onnx":
        return None
    if not path.is_file():
        raise AtrousError("E-FILE-MISSING", "no such file", where=path)
    try:
        check_rgb(read_header(path), path)
    except AtrousError as error:  # here it is not data that is wrong, but the command
        raise AtrousError(error.code, error.what, where=error.where, fix=error.fix) from None
    return File(path) if settings.downloadable else None


def _raise_file_limit() -> None:
    """Lets as many connections be open as the system allows this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
