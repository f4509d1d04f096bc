"""A web server on loopback that misbehaves in the order it is told to."""

import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


class Server(ThreadingHTTPServer):
    """Serves one content under every path; each request uses up one of `answers`, then `whole`."""

    daemon_threads = True

    def __init__(self, content: bytes, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.answers = list(answers)
        self.requests: list[tuple[str, str | None]] = []  # path and Range of each
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/weights.tar.gz"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        answer = self.server.answers.pop(0) if self.server.answers else whole
        self.close_connection = True
        answer(self, self.server.content)

    def log_message(self, *args: object) -> None:
        pass


def send(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    *,
    length: int | None = None,
    **headers: str,
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


def whole(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    """What a good server does, ranges included."""
    match = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if not match:
        return send(handler, 200, content)
    start = int(match[1])
    if start >= len(content):
        return send(handler, 416, b"")
    place = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return send(handler, 206, content[start:], Content_Range=place)


def no_ranges(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    """Ignores the range that was asked for."""
    send(handler, 200, content)


def cut(share: float) -> Answer:
    """Promises what is asked for and hangs up after a share of it."""

    def answer(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        rest = content[int(match[1]) :] if match else content
        place = {"Content_Range": f"bytes {match[1]}-/*"} if match else {}
        body = rest[: int(len(rest) * share)]
        send(handler, 206 if match else 200, body, length=len(rest), **place)

    return answer


def lie(length: int) -> Answer:
    """Sends everything, and claims another length."""
    return lambda handler, content: send(handler, 200, content, length=length)


def status(code: int, **headers: str) -> Answer:
    """Answers with a status and nothing else."""
    return lambda handler, content: send(handler, code, b"", **headers)


def web_page(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    """What a captive portal or a moved file gives."""
    send(handler, 200, b"<!doctype html><p>sign in", Content_Type="text/html; charset=utf-8")


def stall(seconds: float, after: int = 0) -> Answer:
    """Sends some bytes and then nothing for a while."""

    def answer(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        send(handler, 200, content[:after], length=len(content))
        time.sleep(seconds)

    return answer


def redirect(url: str) -> Answer:
    """Sends the client elsewhere."""
    return lambda handler, content: send(handler, 302, b"", Location=url)
