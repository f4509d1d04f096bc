"""What an engine is, and the one for exported files: one picture in, coarse logits out.

NumPy is on both sides of an engine. Exported files run in OpenVINO (docs/performance.md says why).
"""

import contextlib
import os
import sys
import threading
from collections import Counter
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from atrous.classes import Color
from atrous.engines.exported_file import read_header
from atrous.engines.openvino_channels import in_whole_vectors
from atrous.engines.openvino_graph import (
    bytes_per_pixel,
    classes_first,
    give_pooled,
    up_to_high_level,
)
from atrous.engines.openvino_row_strips import in_strips
from atrous.errors import AtrousError

_CORE_LOCK = threading.Lock()

REPEATS_WORTH_COMPILING = 16  # of a size: what its own compiled model saves, it has then cost

_LARGE = 12 << 20  # bytes of a picture whose working memory is given back once it is seen
_BYTES_OF_PROCESS = 150_000_000  # Python, NumPy, OpenVINO
_COPIES_OF_WEIGHTS = 3  # the file, its constants, and what they are packed into


class Engine(Protocol):
    """Runs a model, whatever executes it.

    Attributes:
        classes: Names of the classes, in the order of the logits.
        palette: Their colours.
        output_stride: Pixels of the picture per step of the features image pooling averages.
        logits_stride: The same of the coarse logits.
        fingerprint: Equal for equal weights and settings, so that finished work can be told.
    """

    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    output_stride: int
    logits_stride: int
    fingerprint: str

    @property
    def reach(self) -> int:
        """Pixels around its own that a logit depends on, image pooling aside."""
        ...

    @property
    def bytes_fixed(self) -> int:
        """Memory of the process apart from pictures, estimated."""
        ...

    @property
    def bytes_per_pixel(self) -> int:
        """Memory for each pixel the network sees at a time, estimated."""
        ...

    def coarse_logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps a picture (H, W, 3), RGB, to logits (h, w, K) at `logits_stride`."""
        ...

    def high_level(self, tile: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Maps a tile (H, W, 3) to the features image pooling averages, (h, w, C).

        None for networks without image pooling.
        """
        ...

    def tile_logits(
        self, tile: NDArray[np.uint8], pooled: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Does what `coarse_logits` does for a tile, with the pooled features (C,) given."""
        ...


class ExportedEngine:
    """Runs a file written by `atrous export` on the CPU; see `Engine`.

    A model compiled for one size is a few percent faster than one for any size and takes as long
    to compile, so the first picture's size gets its own, other sizes share one, and a size that
    keeps coming back takes the place of the first. Tiles of a large picture have one of their own
    while they come. Compiled models are kept for other processes in `cache_folder`. Calls from
    several threads wait for each other.

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
        self.output_stride = self.header.output_stride
        self.logits_stride = self.header.logits_stride
        self.reach = self.header.reach
        self.bytes_fixed = _BYTES_OF_PROCESS + _COPIES_OF_WEIGHTS * path.stat().st_size
        self.fingerprint = self.header.sha256
        self._compiler = Compiler(
            path,
            threads or usable_processors(),
            keep_compiled=keep_compiled,
            rewrites=self.header.precision != "int8",
        )
        self._for_size: tuple[tuple[int, int], Any] | None = None
        self._for_any_size: Any = None
        self._for_tiles: tuple[tuple[object, ...], Any] | None = None
        self._times_seen: Counter[tuple[int, int]] = Counter()
        self._lock = threading.Lock()

    def coarse_logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps a picture (H, W, 3), RGB, to logits (h, w, K) at `logits_stride`.

        Raises:
            AtrousError: The file is fixed to another size.
        """
        size = self._checked_size(image)
        with self._lock:
            self._for_tiles = None
            request = self._request(size)
            logits = _infer(request, {0: np.ascontiguousarray(image)[None]})  # (K, h, w)
            if image.size > _LARGE:
                request.get_compiled_model().release_memory()
            return np.moveaxis(logits, 0, 2)

    @cached_property
    def bytes_per_pixel(self) -> int:
        """Memory for each pixel seen at a time; 0 for a file fixed to one size, never tiled."""
        return 0 if any(self.header.size) else bytes_per_pixel(self._compiler.read())

    def high_level(self, tile: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Maps a tile (H, W, 3) to the features image pooling averages, (h, w, C)."""
        size = self._checked_size(tile)
        with self._lock:
            request = self._tile_request("high_level", size)
            if request is None:
                return None
            return np.moveaxis(_infer(request, {0: np.ascontiguousarray(tile)[None]}), 0, 2)

    def tile_logits(
        self, tile: NDArray[np.uint8], pooled: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Does what `coarse_logits` does for a tile, with the pooled features (C,) given."""
        size = self._checked_size(tile)
        inputs: dict[int, NDArray[Any]] = {0: np.ascontiguousarray(tile)[None]}
        if pooled is not None:
            inputs[1] = pooled[None, :, None, None]
        with self._lock:
            return _infer(self._tile_request("logits", size), inputs)

    def _tile_request(self, what: str, size: tuple[int, int]) -> Any:
        """Returns what runs tiles of a size; the memory of everything else is given back."""
        if self._for_tiles is None or self._for_tiles[0] != (what, size):
            self._for_size = self._for_any_size = self._for_tiles = None
            compiled = self._compiler.compile_for_tiles((1, *size, 3), what)
            self._for_tiles = (what, size), compiled
        return self._for_tiles[1]

    def _checked_size(self, image: NDArray[np.uint8]) -> tuple[int, int]:
        size = (image.shape[0], image.shape[1])
        fixed = self.header.size
        if fixed not in ((0, 0), size):
            raise AtrousError(
                "E-MODEL-SIZE",
                f"this model takes pictures of {fixed[0]} x {fixed[1]} (height x width) only, "
                f"not {size[0]} x {size[1]}",
                fix="export it again without --size",
            )
        return size

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
    """Compiles a file for picture sizes.

    Args:
        path: The file.
        threads: Threads to use.
        keep_compiled: Whether to keep compiled models for other processes.
        rewrites: Whether to rewrite the graph for speed where the size is known.
    """

    def __init__(self, path: Path, threads: int, *, keep_compiled: bool, rewrites: bool) -> None:
        self._path = path
        self._rewrites = rewrites
        self._core = openvino_core()
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # processes sharing a machine would pin the same cores
        }
        if keep_compiled and (folder := _writable(cache_folder() / "openvino")):
            self._settings["CACHE_DIR"] = str(folder)

    def compile(self, shape: tuple[int, ...]) -> Any:
        """Returns an inference request for an input shape, whose logits are (1, K, h, w).

        Args:
            shape: Of the picture, (1, H, W, 3); -1 is any length.

        Raises:
            AtrousError: The engine refuses the file.
        """
        model = self.read()
        classes_first(model)
        return self._compiled(model, shape)

    def compile_for_tiles(self, shape: tuple[int, ...], what: str) -> Any:
        """Returns the same for ``high_level`` features, or ``logits`` given pooled ones.

        None where there are no features to pool.
        """
        model = self.read()
        if what == "high_level":
            model = up_to_high_level(import_openvino(), model)
        else:
            give_pooled(import_openvino(), model)
        return None if model is None else self._compiled(model, shape)

    def read(self) -> Any:
        """Returns the graph."""
        try:
            return self._core.read_model(str(self._path))
        except RuntimeError as error:
            raise self._refused(error) from error

    def _compiled(self, model: Any, shape: tuple[int, ...]) -> Any:
        try:
            model.reshape({model.input(0): list(shape)})
            if self._rewrites and min(shape) > 0:
                in_whole_vectors(import_openvino(), model)
                in_strips(import_openvino(), model)
            return self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        except RuntimeError as error:
            raise self._refused(error) from error

    def _refused(self, error: RuntimeError) -> AtrousError:
        reason = str(error).strip().splitlines()[-1]
        return AtrousError("E-MODEL-ENGINE", f"OpenVINO refuses it: {reason}", where=self._path)


def _infer(request: Any, inputs: dict[int, NDArray[Any]]) -> NDArray[np.float32]:
    """Runs one picture, (1, ...); returns its output without the first axis."""
    outputs = request.infer(inputs, share_inputs=True, share_outputs=True)
    return np.array(outputs[0][0])  # a copy: the next call writes over the original


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


def openvino_core() -> Any:
    """Returns OpenVINO's entry point, one for the whole process and never given up.

    Each `openvino.Core` that compiles gives the thread a stack for signal handlers, and frees it
    when it goes. Of two that go in the order they came, the second puts the first one's freed
    stack back, and the next signal that Python handles ends the process (OpenVINO 2026.4).
    """
    with _CORE_LOCK:  # functools.cache alone may call twice
        return _core()


@cache
def _core() -> Any:
    return import_openvino().Core()


def _writable(folder: Path) -> Path | None:
    """Makes a folder; None where that cannot be: then every start compiles."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    return None
