"""An S3 server on loopback: moto's, with faults in front of it."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

BUSY = (
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>'
)


class Faults:
    """A WSGI application that passes requests on, or not.

    Attributes:
        busy: How often each request is answered 503 before it is passed on.
        hang: Requests whose path ends so are never answered, and noted in `hung`.
    """

    def __init__(self, passed_on: Callable[..., Iterable[bytes]], port: int = 0) -> None:
        self.passed_on, self.port = passed_on, port
        self.busy, self.hang = 0, "\0"
        self.hung, self.released = threading.Event(), threading.Event()
        self.seen: Counter[str] = Counter()

    def __call__(self, environ: dict, start: Callable) -> Iterable[bytes]:
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        self.seen[request] += 1
        if self.busy >= self.seen[request]:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [BUSY]
        if request.startswith("PUT") and request.endswith(self.hang):
            self.hung.set()
            self.released.wait(60)
            start("503 Slow Down", [])
            return []
        return self.passed_on(environ, start)

    def post(self, what: str, body: bytes = b"") -> None:
        """Asks moto for `reset`, or for `reset-auth`: check credentials after so many requests."""
        address = f"http://127.0.0.1:{self.port}/moto-api/{what}"
        urlopen(Request(address, body, {"Content-Type": "text/plain"})).close()

    def clear(self) -> None:
        """Empties the bucket and takes the faults away."""
        self.released.set()
        self.__init__(self.passed_on, self.port)
        self.post("reset-auth", b"inf")
        self.post("reset")
        create_bucket()


def create_bucket() -> None:
    import s3fs

    s3fs.S3FileSystem(use_listings_cache=False).call_s3("create_bucket", Bucket="box")


@contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Faults]:
    """Starts a server whose bucket is `box` after `clear`; the environment leads to it."""
    pytest.importorskip("moto", reason="needs the extra integration")
    pytest.importorskip("s3fs", reason="needs the extra cloud")
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    faults = Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, faults, threaded=True)
    server.daemon_threads = True
    faults.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "none"))
    monkeypatch.setenv("ATROUS_CACHE", str(folder / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    try:
        yield faults
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        faults.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
