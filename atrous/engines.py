"""What an engine is, and the one for exported files: one picture in, coarse logits out.

NumPy is on both sides of an engine. Exported files run in OpenVINO (docs/performance.md says why).
"""

import contextlib
import os
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from atrous.classes import Color
from atrous.errors import AtrousError
from atrous.onnx_file import read_header

REPEATS_WORTH_COMPILING = 16  # of a size: what its own compiled model saves, it has then cost


class Engine(Protocol):
    """Runs a model, whatever executes it.

    Attributes:
        classes: Names of the classes, in the order of the logits.
        palette: Their colours.
        logits_stride: Pixels of the picture per step of the coarse logits.
        fingerprint: Equal for equal weights and settings, so that finished work can be told.
    """

    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    logits_stride: int
    fingerprint: str

    def coarse_logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps a picture (H, W, 3), RGB, to logits (h, w, K) at `logits_stride`."""
        ...


class ExportedEngine:
    """Runs a file written by `atrous export` on the CPU; see `Engine`.

    A model compiled for one size is a few percent faster than one for any size and takes as long
    to compile, so the first picture's size gets its own, other sizes share one, and a size that
    keeps coming back takes the place of the first. Compiled models are kept for other processes
    in `cache_folder`. Calls from several threads wait for each other.

    Args:
        path: The file.
        threads: Threads to use; None: one for each processor this process may run on.
        keep_compiled: Whether to keep compiled models for other processes.

    Attributes:
        header: What the file says about itself.

    Raises:
        AtrousError: Not such a file; see `read_header`.
    """

    def __init__(
        self, path: Path, *, threads: int | None = None, keep_compiled: bool = True
    ) -> None:
        self.header = read_header(path)
        self.classes = self.header.classes
        self.palette = self.header.palette
        self.logits_stride = self.header.logits_stride
        self.fingerprint = self.header.sha256
        self._compiler = Compiler(path, threads or usable_processors(), keep_compiled=keep_compiled)
        self._for_size: tuple[tuple[int, int], Any] | None = None
        self._for_any_size: Any = None
        self._times_seen: Counter[tuple[int, int]] = Counter()
        self._lock = threading.Lock()

    def coarse_logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps a picture (H, W, 3), RGB, to logits (h, w, K) at `logits_stride`.

        Raises:
            AtrousError: The file is fixed to another size.
        """
        size = (image.shape[0], image.shape[1])
        fixed = self.header.size
        if fixed not in ((0, 0), size):
            raise AtrousError(
                "E-MODEL-SIZE",
                f"this model takes pictures of {fixed[0]} x {fixed[1]} (height x width) only, "
                f"not {size[0]} x {size[1]}",
                fix="export it again without --size",
            )
        with self._lock:
            output = self._request(size).infer({0: np.ascontiguousarray(image)[None]})
            return np.array(output[0][0])  # a copy: the next call writes over the original

    def _request(self, size: tuple[int, int]) -> Any:
        """Returns what runs a picture of a size."""
        self._times_seen[size] += 1
        if self._for_size is None or (
            self._for_size[0] != size and self._times_seen[size] == REPEATS_WORTH_COMPILING
        ):
            self._for_size = size, self._compiler.compile((1, *size, 3))
        if self._for_size[0] == size:
            return self._for_size[1]
        if self._for_any_size is None:
            self._for_any_size = self._compiler.compile((1, -1, -1, 3))
        return self._for_any_size


class Compiler:
    """Compiles a file for picture sizes."""

    def __init__(self, path: Path, threads: int, *, keep_compiled: bool) -> None:
        self._path = path
        self._core = import_openvino().Core()
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # processes sharing a machine would pin the same cores
        }
        if keep_compiled and (folder := _writable(cache_folder() / "openvino")):
            self._settings["CACHE_DIR"] = str(folder)

    def compile(self, shape: tuple[int, ...]) -> Any:
        """Returns an inference request for an input shape; -1 is any length.

        Raises:
            AtrousError: The engine refuses the file.
        """
        try:
            model = self._core.read_model(str(self._path))
            model.reshape(list(shape))
            return self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise AtrousError(
                "E-MODEL-ENGINE", f"OpenVINO refuses it: {reason}", where=self._path
            ) from error


def usable_processors() -> int:
    """Returns how many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder() -> Path:
    """Returns where compiled models are kept; ATROUS_CACHE names another place."""
    if os.environ.get("ATROUS_CACHE"):
        return Path(os.environ["ATROUS_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "atrous"


def import_openvino() -> Any:
    """Imports OpenVINO without its model converter, which reports its import to a server."""
    if "openvino" not in sys.modules:
        blocked = "openvino.tools.ovc"
        sys.modules[blocked] = None  # type: ignore[assignment]
        try:
            import openvino
        finally:
            del sys.modules[blocked]
    import openvino

    return openvino


def _writable(folder: Path) -> Path | None:
    """Makes a folder; None where that cannot be: then every start compiles."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    return None
