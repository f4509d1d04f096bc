"""Load for `service.py`: kept connections in closed and open loops, and what became of requests."""

import asyncio
import io
import re
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

PATH = "/v1/segment"
IDLE_SECONDS = 3.0  # after which a connection is not used again: the server may be closing it


@dataclass
class Result:
    """What became of requests: seconds by status."""

    times: dict[int, list[float]] = field(default_factory=dict)
    wrong: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, status: int, seconds: float, *, wrong: bool) -> None:
        self.times.setdefault(status, []).append(seconds)
        self.wrong += wrong

    def merge(self, other: "Result") -> None:
        for status, times in other.times.items():
            self.times.setdefault(status, []).extend(times)
        self.wrong += other.wrong
        self.failed += other.failed
        self.seconds += other.seconds

    def summary(self) -> dict[str, Any]:
        good = self.times.get(200, [])
        report: dict[str, Any] = {
            "statuses": {str(status): len(times) for status, times in sorted(self.times.items())},
            "failed": dict(self.failed),
            "wrong": self.wrong,
            "per_second": round(len(good) / self.seconds, 1) if self.seconds else None,
        }
        for status, times in self.times.items():
            report[f"p50_ms_{status}"] = round(1e3 * statistics.median(times), 2)
            report[f"p99_ms_{status}"] = round(1e3 * sorted(times)[int(0.99 * len(times))], 2)
        return report


class Connection:
    """A kept HTTP connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.used = 0.0

    async def post(self, body: bytes, kind: str = "application/octet-stream") -> tuple[int, bytes]:
        if time.perf_counter() - self.used > IDLE_SECONDS:
            self.close()
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = re.search(r"content-length: (\d+)", head)
        assert length is not None, head
        content = await reader.readexactly(int(length[1]))
        self.used = time.perf_counter()
        if "connection: close" in head:
            self.close()
        return int(head[9:12]), content

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


@dataclass(frozen=True)
class Target:
    """A server under load."""

    port: int
    pid: int
    start_seconds: float
    kind: str = "application/octet-stream"


async def timed(
    target: Target, connection: Connection, body: bytes, result: Result, expected: bytes | None
) -> None:
    start = time.perf_counter()
    try:
        status, content = await connection.post(body, target.kind)
    except (OSError, asyncio.IncompleteReadError) as error:
        connection.close()
        result.failed[type(error).__name__] += 1
        return
    wrong = status == 200 and expected is not None and content != expected
    result.add(status, time.perf_counter() - start, wrong=wrong)


async def closed_loop(
    target: Target,
    body: bytes,
    *,
    clients: int,
    requests: int = 1 << 60,
    seconds: float = 1e9,
    expected: bytes | None = None,
) -> Result:
    """Each client sends the next request when it has its answer."""
    result, tickets = Result(), iter(range(requests))
    begin = time.perf_counter()

    async def client() -> None:
        connection = Connection(target.port)
        while time.perf_counter() - begin < seconds and next(tickets, None) is not None:
            await timed(target, connection, body, result, expected)
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    result.seconds = time.perf_counter() - begin
    return result


async def open_loop(target: Target, body: bytes, *, rate: float, seconds: float) -> Result:
    """Requests come at random times, whether or not earlier ones are answered."""
    result, idle = Result(), list[Connection]()
    random = np.random.default_rng(0)
    tasks = set[asyncio.Task[None]]()
    begin = due = time.perf_counter()

    async def one() -> None:
        connection = idle.pop() if idle else Connection(target.port)
        await timed(target, connection, body, result, None)
        idle.append(connection)

    while due - begin < seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += random.exponential(1 / rate)
    while tasks:
        await asyncio.sleep(0.05)
    result.seconds = time.perf_counter() - begin
    for connection in idle:
        connection.close()
    return result


def picture(side: int = 513) -> bytes:
    """Returns a picture with some structure as a JPEG, about 100 kB at 513 x 513."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.int16)
    noisy = (smooth + random.integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noisy).save(stream, "JPEG", quality=88)
    return stream.getvalue()


def small_picture(length: int = 100_000) -> bytes:
    """Returns a body of so many bytes whose picture takes no time to decode."""
    return picture(16).ljust(length, b"\0")  # decoders stop at the picture's end
