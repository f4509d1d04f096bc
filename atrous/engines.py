"""What an engine is, and the one for exported files: one picture in, coarse logits out.

NumPy is on both sides of an engine. Exported files run in OpenVINO (docs/performance.md says why).
"""

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from atrous.classes import Color
from atrous.errors import AtrousError
from atrous.onnx_file import read_header


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

    One compiled model serves every size; what it prepares for a size it keeps for the next
    picture of that size. Compilation is kept between processes in `cache_folder`. Calls from
    several threads wait for each other.

    Args:
        path: The file.
        threads: Threads to use; None: one for each processor this process may run on.
        keep_compiled: Whether to keep the compiled model for other processes.

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
        self._request = _compile(
            path, threads or usable_processors(), keep_compiled=keep_compiled
        ).create_infer_request()
        self._lock = threading.Lock()

    def coarse_logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps a picture (H, W, 3), RGB, to logits (h, w, K) at `logits_stride`.

        Raises:
            AtrousError: The file is fixed to another size.
        """
        size = self.header.size
        if size != (0, 0) and image.shape[:2] != size:
            raise AtrousError(
                "E-MODEL-SIZE",
                f"this model takes pictures of {size[0]} x {size[1]} (height x width) only, "
                f"not {image.shape[0]} x {image.shape[1]}",
                fix="export it again without --size",
            )
        with self._lock:
            output = self._request.infer({0: np.ascontiguousarray(image)[None]})
            return np.array(output[0][0])  # a copy: the next call writes over the original


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


def _compile(path: Path, threads: int, *, keep_compiled: bool) -> Any:
    core = import_openvino().Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # processes that share a machine would pin the same cores
    }
    if keep_compiled and (folder := _writable(cache_folder() / "openvino")):
        settings["CACHE_DIR"] = str(folder)
    try:
        return core.compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise AtrousError("E-MODEL-ENGINE", f"OpenVINO refuses it: {reason}", where=path) from error
