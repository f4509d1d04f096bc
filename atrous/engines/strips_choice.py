"""Whether a graph runs in row strips or as exported: measured once on a machine, and kept.

On some processors strips gain 7 %, on others nothing (docs/performance.md). A measurement may
choose only between graphs whose logits are equal bit for bit, so that it never changes a label.
Whether they are depends on the kernels that OpenVINO has for a processor: with AVX-512 they are,
with AVX2 alone the order of sums differs. Where they are not, every process runs strips.
"""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous import __version__
from atrous.engines.machine import processor
from atrous.engines.openvino_package import import_openvino
from atrous.engines.requests import Requests
from atrous.errors import AtrousError
from atrous.images.decode import write

logger = logging.getLogger(__name__)

BUDGET = 0.5  # seconds of runs; a network whose three runs take longer gets three
LEAST_GAIN = 1.03  # strips stay unless the graph as exported is so many times faster


@dataclass(frozen=True)
class Choice:
    """What was measured for pictures of one size.

    Attributes:
        strips_ms: Milliseconds of the fastest run in strips.
        as_exported_ms: Milliseconds of the fastest run of the graph as exported.
        equal: Whether both gave the same logits, bit for bit.
    """

    strips_ms: float
    as_exported_ms: float
    equal: bool

    @property
    def strips(self) -> bool:
        """Whether strips are used."""
        return not self.equal or self.strips_ms <= LEAST_GAIN * self.as_exported_ms


def measured(strips: Requests, as_exported: Requests, shape: tuple[int, ...]) -> Choice:
    """Times both in turns on random pixels of a shape (1, H, W, C), and compares their logits.

    Args:
        strips: The graph in strips, which ran before.
        as_exported: The graph as exported; its first run is not timed.
        shape: Of the picture.
    """
    dtype = strips.compiled.input(0).element_type.to_dtype()
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    begun = time.perf_counter()
    logits = as_exported.infer({0: pixels})
    first, seconds = _timed(strips, pixels)
    of_strips, of_exported = [seconds], [_timed(as_exported, pixels)[1]]
    while time.perf_counter() - begun + of_strips[-1] + of_exported[-1] < BUDGET:
        of_strips.append(_timed(strips, pixels)[1])
        of_exported.append(_timed(as_exported, pixels)[1])
    in_strips, whole = (round(1e3 * min(times), 3) for times in (of_strips, of_exported))
    return Choice(in_strips, whole, equal=logits.tobytes() == first.tobytes())


def _timed(requests: Requests, pixels: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    start = time.perf_counter()
    logits = requests.infer({0: pixels})
    return logits, time.perf_counter() - start


class Choices:
    """The choices of one file in fp32, in memory and in a folder.

    A choice is kept under all that it depends on, so that one of another processor or of an older
    version is never found.

    Args:
        folder: Where they are kept for other processes; None: nowhere.
        fingerprint: Of the file.
        threads: Threads that work on a picture.
    """

    def __init__(self, folder: Path | None, fingerprint: str, threads: int) -> None:
        self._folder = folder
        self._key = {
            "file": fingerprint,
            "threads": threads,
            "processor": processor(),
            "versions": [__version__, import_openvino().__version__],
        }
        self._known: dict[tuple[int, ...], Choice] = {}

    def read(self, shape: tuple[int, ...]) -> Choice | None:
        """Returns the choice for a shape; None if there is none, or its file is broken."""
        if shape not in self._known and self._folder is not None:
            path, key = self._place(shape)
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                there = json.loads(path.read_bytes())
                if there["key"] == key:
                    times = float(there["strips_ms"]), float(there["as_exported_ms"])
                    self._known[shape] = Choice(*times, equal=there["equal"] is True)
        return self._known.get(shape)

    def faster(
        self, shape: tuple[int, ...], strips: Requests, as_exported: Callable[[], Requests | None]
    ) -> Requests:
        """Returns the faster of the graph in strips and as exported, and keeps the choice.

        Args:
            shape: Of the picture, (1, H, W, C).
            strips: The graph in strips.
            as_exported: Compiles the graph as exported.
        """
        try:
            other = as_exported()
            assert other is not None
            choice = measured(strips, other, shape)
        except (AtrousError, RuntimeError) as error:  # no memory for a second model, say
            logger.warning("row strips were not measured: %s", error)
            return strips
        self._known[shape] = choice
        self._write(shape, choice)
        return strips if choice.strips else other

    def _write(self, shape: tuple[int, ...], choice: Choice) -> None:
        if self._folder is not None:
            path, key = self._place(shape)
            with contextlib.suppress(OSError):  # it would save others the measurement, no more
                write(path, json.dumps({"key": key, **asdict(choice)}).encode())

    def _place(self, shape: tuple[int, ...]) -> tuple[Path, dict[str, Any]]:
        """Returns the file for a shape, and the key that it must hold."""
        assert self._folder is not None
        key = {**self._key, "shape": list(shape)}
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        return self._folder / f"{name}.strips.json", key
