"""A worker process: one Predictor, one job after the other, over one socket.

``python -m atrous.serve.worker FD OPTIONS``, started by `atrous.serve.workers`. It ends when the
front process does: that closes the socket. Signals are the front process's business.
"""

import contextlib
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from atrous.errors import AtrousError
from atrous.serve import messages, refusals
from atrous.serve.parameters import Wish

if TYPE_CHECKING:
    from atrous.predict.predictor import Predictor

WARM_UP = ((513, 513), (257, 385), (385, 257))  # the second size compiles for any size
_LOST_DEVICE = ("out of memory", "cuda", "device", "allocate")  # in messages of engines


def run(connection: socket.socket, open_predictor: "Callable[[], Predictor]") -> None:
    """Opens the model, says so, and answers jobs until the front process is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # to the whole group: the front decides
        signal.signal(number, signal.SIG_IGN)
    try:
        predictor = open_predictor()
        messages.send(connection, {"model": _description(predictor)})
        messages.send(connection, {"ready": _warm_up(predictor)})
    except AtrousError as error:
        # With `where`: this goes to the person who starts the server, not to a client.
        values = {"code": error.code, "what": error.what, "fix": error.fix}
        where = {"where": error.where} if error.where else {}
        messages.send(connection, {"failed": {**values, **where}})
        return
    jobs: queue.SimpleQueue[messages.Message] = queue.SimpleQueue()
    cancelled: set[int] = set()
    threading.Thread(target=_listen, args=(connection, jobs, cancelled), daemon=True).start()
    while True:
        fields, body = jobs.get()
        if fields["id"] in cancelled:
            cancelled.discard(fields["id"])
            messages.send(connection, {"id": fields["id"], "cancelled": True})
            continue
        answered, payload = _answered(predictor, fields, body)
        messages.send(connection, {"id": fields["id"], **answered}, payload)
        if answered.get("restart"):
            return


def _listen(
    connection: socket.socket,
    jobs: "queue.SimpleQueue[messages.Message]",
    cancelled: set[int],
) -> None:
    """Takes in the next job while one is being worked on."""
    try:
        stream = connection.makefile("rb")
        while (message := messages.receive(stream)) is not None:
            if "cancel" in message[0]:
                cancelled.add(message[0]["cancel"])
            else:
                jobs.put(message)
    finally:  # also after a reset: the front process was killed with an answer unread
        os._exit(0)  # nobody waits for what is being computed


def _answered(
    predictor: "Predictor", fields: dict[str, Any], body: bytes
) -> tuple[dict[str, Any], bytes]:
    """Returns what is said of a job, and the bytes of its answer."""
    from atrous.serve import answers, inference

    start = time.monotonic()
    if start > fields["deadline"]:
        return _refused(AtrousError("E-DEADLINE", "it waited too long", fix="try again later"))
    try:
        if "inference" in fields:
            described, payload = inference.infer(predictor, body, fields)
        else:
            described = {}
            payload = answers.answer(predictor, body, Wish(**fields["wish"]), fields["max_pixels"])
    except AtrousError as error:
        return _refused(error)
    except MemoryError:
        return _refused(AtrousError("E-MEMORY", "not enough memory", fix="add max_side=1500"))
    except Exception as error:
        traceback.print_exc()
        if any(word in str(error).lower() for word in _LOST_DEVICE):
            lost = refusals.Busy("the engine failed and is started again", code="E-WORKER")
            said, payload = _refused(lost)
            return {**said, "restart": True}, payload
        return _refused(AtrousError("E-BUG", f"{type(error).__name__}", fix="report it"))
    seconds, precision = time.monotonic() - start, predictor.precision
    return {"status": 200, "seconds": seconds, "precision": precision, **described}, payload


def _refused(error: AtrousError) -> tuple[dict[str, Any], bytes]:
    return {"status": refusals.status_of(error), "error": refusals.fields(error)}, b""


def _description(predictor: "Predictor") -> dict[str, Any]:
    """Returns what clients are told about the model."""
    engine = predictor.engine
    header = getattr(engine, "header", None)  # exported files say more about themselves
    return {
        "classes": engine.classes,
        "palette": engine.palette,
        "output_stride": engine.output_stride,
        "logits_stride": engine.logits_stride,
        "fingerprint": engine.fingerprint,
        "licence": getattr(header, "licence", ""),
        "terms": getattr(header, "notes", ()),
        "source": getattr(header, "source", ""),
        "backbone": getattr(header, "backbone", ""),
        "precision": predictor.precision,
        "fixed_size": list(getattr(header, "size", (0, 0))),
    }


def _warm_up(predictor: "Predictor") -> dict[str, Any]:
    """Segments pictures without content; returns what pictures cost.

    Answers come as fast from the first request on as later, and the front process can tell
    which pictures the deadline cannot hold.
    """
    fixed = tuple(getattr(getattr(predictor.engine, "header", None), "size", (0, 0)))
    sizes = (fixed, fixed) if any(fixed) else WARM_UP
    for height, width in sizes:
        start = time.monotonic()
        predictor(np.zeros((height, width, 3), np.uint8))
        seconds = time.monotonic() - start
    whole = 0
    if predictor.engine.bytes_per_pixel:
        left = predictor.memory - predictor.engine.bytes_fixed
        whole = max(0, left // predictor.engine.bytes_per_pixel)
    return {"seconds": seconds, "pixels": height * width, "whole_pixels": whole}


def main() -> None:
    """Runs a worker for the front process that started it."""
    number, options = int(sys.argv[1]), json.loads(sys.argv[2])
    from atrous.predict.predictor import Predictor

    connection = socket.socket(fileno=number)
    with contextlib.suppress(ConnectionError):  # the front process is gone
        run(connection, lambda: Predictor(**options))


if __name__ == "__main__":
    main()
