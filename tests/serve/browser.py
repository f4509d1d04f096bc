"""A browser, a page in it, and hosts for the page: a static one and one with a server behind it."""

import io
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from inspect import signature
from mimetypes import guess_type
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from atrous.engines import built_in
from atrous.predict.overlay import palette_image
from atrous.predict.predictor import Predictor
from atrous.serve.site import page_files

PATIENCE = 60  # seconds


class _Static(SimpleHTTPRequestHandler):
    """Any host of static files: no Content-Encoding, no types but those of file names."""

    def log_message(self, *_: object) -> None:
        pass


class _Service(BaseHTTPRequestHandler):
    """The page with the part of the service it talks to, behind the token "open sesame"."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.lstrip("/") or "index.html"
        files = page_files()
        if path.startswith("v1/") and not self._allowed():
            self._refuse()
        elif path == "v1/models":
            self._answer(json.dumps([entry(name) for name in built_in.names()]).encode())
        elif path.startswith("v1/models/"):
            self._answer((built_in.FOLDER / f"{path.split('/')[2]}.onnx").read_bytes())
        elif path in files:
            self._answer(files[path].read_bytes(), guess_type(path)[0] or "text/javascript")
        else:
            self._answer(b"", status=404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._allowed():
            self._refuse()
        else:
            self._segment(body, parse_qs(urlsplit(self.path).query))

    def _segment(self, body: bytes, wish: dict[str, list[str]]) -> None:
        assert wish["format"] == ["png"]
        image = Image.open(io.BytesIO(body)).convert("RGB")
        side = int(wish.get("max_side", ["0"])[0])
        if 0 < side < max(image.size):
            image.thumbnail((side, side))
        result = predictor(wish["model"][0])(np.asarray(image))
        self._answer(encoded(palette_image(result.labels, result.palette)), "image/png")

    def _allowed(self) -> bool:
        return self.headers.get("Authorization") == "Bearer open sesame"

    def _refuse(self) -> None:
        self._answer(b'{"code": "E-TOKEN", "message": "no token"}', status=401)

    def _answer(self, body: bytes, kind: str = "application/json", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.path.endswith(".gz"):  # as some hosts do: the browser then unpacks it
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)


def predictor(name: str) -> Predictor:
    """Returns what the page is compared with: the model in 32-bit floats, as the page runs it."""
    exact = {"precision": "fp32"} if "precision" in signature(Predictor).parameters else {}
    return Predictor(name, threads=1, **exact)


def entry(name: str) -> dict[str, object]:
    """Returns a model as ``v1/models`` lists it."""
    header = built_in.header(name)
    return {
        "name": name,
        "classes": header.classes,
        "palette": header.palette,
        "licence": header.licence,
        "terms": header.notes,
        "logits_stride": header.logits_stride,
        "bytes": (built_in.FOLDER / f"{name}.onnx").stat().st_size,
        "file": f"v1/models/{name}/file",
    }


@contextmanager
def host(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Runs a web server on loopback; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def static(folder: Path) -> Callable[..., BaseHTTPRequestHandler]:
    return partial(_Static, directory=str(folder))


def service() -> Callable[..., BaseHTTPRequestHandler]:
    return _Service


@contextmanager
def chromium() -> Iterator["object"]:
    """Starts the browser; skips the test, or fails it where ATROUS_REQUIRE_BROWSER is set."""
    path = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        path = None
    if path is None:
        message = "needs chromium and playwright: apt-get install chromium; the extra integration"
        if os.environ.get("ATROUS_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage", *camera]
        )
        yield browser
        browser.close()


class Visit:
    """The page in a tab of its own.

    Attributes:
        tab: Playwright's page.
        requests: Addresses that were asked for.
        loaded: Those that were asked for until the page was ready.
        complaints: What the browser's console said of errors and warnings.
    """

    def __init__(self, browser: object, url: str, **options: object) -> None:
        options.setdefault("viewport", {"width": 1440, "height": 900})
        options.setdefault("reduced_motion", "reduce")
        self.context = browser.new_context(**options)  # type: ignore[attr-defined]
        self.tab = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("console", self._heard)
        self.url = url

    def _heard(self, message: object) -> None:
        if message.type in ("error", "warning"):  # type: ignore[attr-defined]
            self.complaints.append(message.text)  # type: ignore[attr-defined]

    def open(self, token: str | None = None) -> "Visit":
        self.tab.goto(self.url)
        if token is not None:
            self.wait("document.getElementById('token-dialog').open")
            self.tab.fill("#token", token)
            self.tab.keyboard.press("Enter")
        self.wait("window.atrous && window.atrous.ready")
        self.loaded = self.requests[:]
        return self

    def wait(self, expression: str) -> object:
        """Polls: the page's security policy forbids what Playwright's own waiting does."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if value := self.tab.evaluate(expression):
                return value
            time.sleep(0.05)
        raise TimeoutError(f"{expression}; the console says {self.complaints}")

    def drop(self, *files: tuple[str, bytes]) -> None:
        payload = [{"name": n, "mimeType": "image/png", "buffer": data} for n, data in files]
        self.tab.set_input_files("input[type=file]", payload)

    def segment(self, image: Image.Image | np.ndarray, kind: str = "PNG") -> np.ndarray:
        """Gives the page a picture as a PNG file; returns the labels."""
        self.drop((f"picture.{kind.lower()}", encoded(image, kind)))
        return self.labels()

    def labels(self) -> np.ndarray:
        self.wait("window.atrous.last !== null")
        width, height, text = self.tab.evaluate(_LABELS)
        return np.array(text.split(","), np.uint16).reshape(height, width)

    def text(self, selector: str) -> str:
        return str(self.tab.text_content(selector))

    def close(self) -> None:
        self.context.close()


_LABELS = "(({width, height, labels}) => [width, height, labels.join()])(window.atrous.last)"


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """Returns a picture as a file."""
    stream = io.BytesIO()
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    picture.save(stream, kind, **options)
    return stream.getvalue()
