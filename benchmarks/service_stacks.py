"""Servers for `service.py`: ours, and other stacks around the same Predictor."""

import contextlib
import http.client
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from service_load import PATH, Target

WORKERS = 2
FAKE_MS = 10

FAKE = f"""
import json, socket, sys, threading, time
import numpy as np
from atrous.predict.predictor import Predictor
lock = threading.Lock()  # engines run one picture at a time
class Fake:
    classes, palette = ("a", "b"), ((0, 0, 0), (255, 0, 0))
    output_stride = logits_stride = 16
    reach = bytes_fixed = 0
    bytes_per_pixel = 1
    fingerprint = "fake"
    def coarse_logits(self, image):
        with lock:
            time.sleep({FAKE_MS} / 1e3)
        return np.zeros((-(-image.shape[0] // 16), -(-image.shape[1] // 16), 2), np.float32)
"""
FAKE_WORKER = f"""{FAKE}
from atrous.serve import worker
worker.run(socket.socket(fileno=int(sys.argv[1])), lambda: Predictor(Fake()))
"""
OURS = """
import logging, sys
from atrous.serve.server import WORKER, Server
from atrous.serve.settings import Settings
logging.basicConfig(level=logging.INFO, format="%(message)s")
model, workers, threads, fake = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
settings = Settings(models=(model,), port=0, workers=workers, threads=threads)
Server(settings, worker=(sys.executable, "-c", fake) if fake else WORKER).run()
"""
# The same work as ours: a picture's bytes in, the bytes of the PNG of its labels out.
WORK = f"""{FAKE}
import io, os
from PIL import Image
predictor = Predictor(Fake()) if sys.argv[1] == "fake" else Predictor(sys.argv[1], threads=1)
def work(body):
    result = predictor(Image.open(io.BytesIO(body)))
    image = Image.fromarray(result.labels, mode="P")
    image.putpalette([channel for color in result.palette for channel in color])
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
"""
# Processes share a socket as those of `uvicorn --workers` do.
FASTAPI = f"""
import os, socket, sys
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[2])))
listener.listen(2048)
for _ in range({WORKERS - 1}):
    if os.fork() == 0:
        break
{WORK}
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
app = FastAPI()
@app.post("{PATH}")
async def segment(request: Request) -> Response:
    return Response(await run_in_threadpool(work, await request.body()), media_type="image/png")
uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
"""
LITSERVE = f"""
import base64, sys
import litserve
class API(litserve.LitAPI):
    def setup(self, device):
        names = {{}}
        exec({WORK!r}, names)
        self.work = names["work"]
    def decode_request(self, request):
        return base64.b64decode(request["image"])
    def predict(self, body):
        return self.work(body)
    def encode_response(self, output):
        return {{"labels": base64.b64encode(output).decode()}}
if __name__ == "__main__":
    server = litserve.LitServer(
        API(api_path="{PATH}"), accelerator="cpu", workers_per_device={WORKERS}
    )
    server.run(port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False,
               log_level="error")
"""


@contextlib.contextmanager
def running(command: list[str], port: int | None = None, kind: str = "") -> Iterator[Target]:
    """Starts a server; yields it when it answers."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    said = []
    try:
        if port is None:
            for line in process.stderr:
                said.append(line)
                if found := re.match(r"ready: .* at http://\S+:(\d+)", line):
                    port = int(found[1])
                    break
            assert port is not None, "".join(said)
        _until_answering(port, process)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        spent = time.perf_counter() - begin
        yield Target(port, process.pid, spent, kind or "application/octet-stream")
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):  # what a peer left behind
            os.killpg(process.pid, 9)


def _until_answering(port: int, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            assert process.stderr is not None
            raise SystemExit(process.stderr.read())
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/readyz")
            connection.getresponse().read()
            return
        time.sleep(0.1)


def ours(model: str, *, fake: bool) -> list[str]:
    fake_worker = FAKE_WORKER if fake else ""
    threads = max(1, len(os.sched_getaffinity(0)) // WORKERS)
    return [sys.executable, "-c", OURS, model, str(WORKERS), str(threads), fake_worker]


def litserve() -> str:
    """Returns the path of the program: its processes import it again."""
    path = Path(os.environ.get("TMPDIR", "/tmp")) / "atrous_service_peer.py"
    path.write_text(LITSERVE)
    return str(path)
