"""Clients for tests: small pictures, requests, and load that ends by itself."""

import http.client
import io
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from atrous.serve.server import Server


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float = 0.0

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    picture.save(stream, kind, **options)
    return stream.getvalue()


def noise(height: int = 33, width: int = 45, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 250, (height, width, 3), np.uint8)


def ordered(order: int, seed: int = 0) -> bytes:
    """Returns a picture that makes the fake worker do something."""
    image = noise(seed=seed)
    image[0, 0] = 250, 251, order
    return encoded(image)


def ask(
    server: Server,
    path: str = "/v1/segment",
    body: Any = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
    timeout: float = 60.0,
) -> Answer:
    """Sends one request over a connection of its own."""
    start = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    try:
        method = method or ("GET" if body is None else "POST")
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        values = {key.lower(): value for key, value in response.getheaders()}
        return Answer(response.status, values, response.read(), time.monotonic() - start)
    finally:
        connection.close()


def raw(server: Server, data: bytes, *, timeout: float = 30.0) -> bytes:
    """Sends bytes; returns everything the server says until it closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout) as connection:
        connection.sendall(data)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def labels_of(answer: Answer) -> np.ndarray:
    assert answer.status == 200, answer.body
    return np.asarray(Image.open(io.BytesIO(answer.body)))


@dataclass
class Load:
    """What became of many requests."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    times: dict[int, list[float]] = field(default_factory=dict)
    wrong: int = 0  # answers with 200 that are not what was expected
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(
        self, connection: http.client.HTTPConnection, body: bytes, expected: bytes | None
    ) -> None:
        """Sends one request and notes what becomes of it."""
        start = time.monotonic()
        try:
            connection.request("POST", "/v1/segment", body)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self.failures.append(repr(error))
            return
        with self.lock:
            self.statuses[response.status] += 1
            self.times.setdefault(response.status, []).append(time.monotonic() - start)
            self.wrong += response.status == 200 and expected not in (None, content)

    def median(self, status: int = 200) -> float:
        values = sorted(self.times[status])
        return values[len(values) // 2]

    def quantile(self, share: float, status: int = 200) -> float:
        values = sorted(self.times[status])
        return values[min(len(values) - 1, int(share * len(values)))]


def load(
    server: Server,
    body: bytes,
    *,
    clients: int,
    requests: int = 1 << 60,
    seconds: float = 1e9,
    expected: bytes | None = None,
    refused_is_fine: Callable[[], bool] = lambda: False,
) -> Load:
    """Sends requests over kept connections, each client the next when it has its answer.

    Ends after so many requests, or seconds. `refused_is_fine` says whether a connection that
    cannot be made any more is expected: the server has been stopped.
    """
    result = Load()
    tickets = iter(range(requests))  # one operation of C: threads may share it
    end = time.monotonic() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        while time.monotonic() < end and next(tickets, None) is not None:
            try:
                if connection.sock is None:
                    connection.connect()
            except OSError as error:
                if refused_is_fine():
                    break
                result.failures.append(repr(error))
                continue
            result.send(connection, body, expected)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return result
