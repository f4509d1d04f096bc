"""A worker whose model has no network: it sleeps, and does what the first pixel tells it.

python -m tests.serve.fake_worker SECONDS FD OPTIONS
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np

from atrous.predict.predictor import Predictor
from atrous.serve import worker
from tests.fake_engine import BrightestChannel

CRASH, HANG, LOST_DEVICE, BUG, HALF_A_SECOND, MARKED = range(1, 7)


def command(seconds: float = 0.0) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.serve.fake_worker", str(seconds))


class Sleeper(BrightestChannel):
    """Takes the same time for any picture; (250, 251, N) in the first pixel orders more."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def coarse_logits(self, image):
        order = int(image[0, 0, 2]) if tuple(image[0, 0, :2]) == (250, 251) else 0
        if order == CRASH:
            os.kill(os.getpid(), signal.SIGKILL)
        if order == LOST_DEVICE:
            raise RuntimeError("CUDA error: out of memory")
        if order == BUG:
            raise ZeroDivisionError
        if order == MARKED:  # leaves a trace of having been computed
            with Path(os.environ["ATROUS_TEST_MARK"]).open("a") as file:
                file.write("computed\n")
        time.sleep({HANG: 60.0, HALF_A_SECOND: 0.5}.get(order, self.seconds))
        return super().coarse_logits(np.asarray(image))


if __name__ == "__main__":
    seconds = float(sys.argv[1])
    connection = socket.socket(fileno=int(sys.argv[2]))
    worker.run(connection, lambda: Predictor(Sleeper(seconds)))
