"""The engine for exported files on processors: OpenVINO (docs/performance.md says why)."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.engines.exported_file import FileEngine, Header
from atrous.engines.machine import cache_folder, usable_processors, writable
from atrous.engines.openvino_graph import (
    bytes_per_pixel,
    classes_first,
    give_pooled,
    keep_finest_layers,
    only_logits,
    up_to_high_level,
)
from atrous.engines.openvino_package import import_openvino, openvino_core
from atrous.engines.openvino_row_strips import in_strips
from atrous.engines.protocol import Device, Precision
from atrous.engines.requests import BySize, Gate, Requests
from atrous.engines.strips_choice import Choice, Choices
from atrous.errors import AtrousError
from atrous.images.bands import Pixels

logger = logging.getLogger(__name__)

Prepared = Callable[[Any], Any]  # a change of a graph

LEAST_AGREEMENT = 0.995  # of labels in bf16 with those in fp32, for `auto` to take bf16

# After a picture of more bytes, the engine gives back its working memory. Pictures that run at a
# time have so many bytes together at most.
_LARGE = 12 << 20
_BYTES_OF_PROCESS = 150_000_000  # Python, NumPy, OpenVINO
_COPIES_OF_WEIGHTS = 3  # in the file, in the graph, and packed for the processor


class ExportedEngine(FileEngine):
    """Runs a file written by `atrous export` in OpenVINO; see `atrous.engines.protocol.Engine`.

    Whole pictures have models by their size (`BySize`). Tiles of a large picture have a model of
    their own for as long as they come. Compiled models are kept for other processes in
    `cache_folder`. Calls from several threads wait for each other, or run in one stream each.

    Args:
        path: The file.
        threads: Threads to use; None: one for each processor this process may run on.
        keep_compiled: Whether to keep compiled models for other processes.
        precision: As in `Predictor`; None: int8 for int8 files, fp32 for all others.
        streams: Pictures that are seen at a time, by calls from so many threads. They share
            `threads`. Labels do not depend on it.
        device: ``cpu``, or ``gpu`` for the graphics of an Intel processor or card.

    Attributes:
        header: The metadata of the file.

    Raises:
        AtrousError: Not such a file (see `read_header`), it cannot run in this precision, or
            OpenVINO finds no such device.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        keep_compiled: bool = True,
        precision: Precision | None = None,
        streams: int = 1,
        device: Device = "cpu",
    ) -> None:
        super().__init__(path)
        check_device(device)
        self.precision = chosen_precision(self.header, precision, where=path, device=device)
        self.bytes_fixed = _BYTES_OF_PROCESS + _COPIES_OF_WEIGHTS * path.stat().st_size
        self._channels = len(self.bands.names)
        self.streams = streams
        self._compiler, self._for_streams = (
            Compiler(
                path,
                threads or usable_processors(),
                keep_compiled=keep_compiled,
                precision=self.precision,
                streams=number,
                device=device,
                fingerprint=self.fingerprint,
            )
            for number in (1, streams)
        )
        self._one, self._several = (
            BySize(compiler.compile, self._channels)
            for compiler in (self._compiler, self._for_streams)
        )
        self._for_tiles: tuple[tuple[object, ...], Requests | None] | None = None
        self._gate = Gate()

    def coarse_logits(self, image: Pixels) -> NDArray[np.float32]:
        """Maps a picture (H, W, C) to logits (h, w, K) at `logits_stride`.

        Raises:
            AtrousError: The file is fixed to another size.
        """
        size, inputs = self._inputs(image)
        if self.streams > 1 and image.size <= _LARGE // self.streams:
            with self._gate.shared():
                return np.moveaxis(self._several.requests(size).infer(inputs), 0, 2)
        with self.alone():
            self._for_tiles = None
            requests = self._one.requests(size)
            logits = requests.infer(inputs)  # (K, h, w)
            if image.size > _LARGE:
                requests.compiled.release_memory()
            return np.moveaxis(logits, 0, 2)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lets no other thread in, and gives back the memory of pictures seen at a time."""
        with self._gate.alone():
            self._several.release_memory()
            yield

    @property
    def rewrite_error(self) -> str:
        """Why the graph runs as exported although it was to be rewritten; empty otherwise."""
        return self._compiler.rewrite_error or self._for_streams.rewrite_error

    def chosen_rewrite(self, size: tuple[int, int]) -> Choice | None:
        """Chooses strips or the graph as exported for a size; None if nothing is to be cut."""
        with self.alone():
            self._one.forget()
            return self._compiler.choose((1, *size, self._channels))

    @cached_property
    def bytes_per_pixel(self) -> int:
        """Memory for each pixel seen at a time; 0 for a file of one size, which is never tiled."""
        return 0 if any(self.header.size) else bytes_per_pixel(self._compiler.read())

    def high_level(self, tile: Pixels) -> NDArray[np.float32] | None:
        """Maps a tile (H, W, C) to the features that image pooling averages, (h, w, C)."""
        size, inputs = self._inputs(tile)
        with self.alone():
            requests = self._tile_requests(up_to_high_level, size)
            return None if requests is None else np.moveaxis(requests.infer(inputs), 0, 2)

    def tile_logits(self, tile: Pixels, pooled: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Maps a tile to logits as `coarse_logits` does, with the pooled features (C,) given."""
        size, inputs = self._inputs(tile)
        if pooled is not None:
            inputs[1] = pooled[None, :, None, None]
        with self.alone():
            requests = self._tile_requests(give_pooled, size)
            assert requests is not None
            return requests.infer(inputs)

    def _tile_requests(self, prepared: Prepared, size: tuple[int, int]) -> Requests | None:
        """Returns the model for tiles of a size; gives back the memory of all other models."""
        if self._for_tiles is None or self._for_tiles[0] != (prepared, size):
            self._one.forget()
            self._several.forget()
            self._for_tiles = None
            compiled = self._compiler.compiled(prepared, (1, *size, self._channels))
            self._for_tiles = (prepared, size), compiled
        return self._for_tiles[1]

    def _inputs(self, image: Pixels) -> tuple[tuple[int, int], dict[int, NDArray[Any]]]:
        """Returns the size of a picture, and the picture as the first input of a graph."""
        size = (image.shape[0], image.shape[1])
        fixed = self.header.size
        if fixed not in ((0, 0), size):
            raise AtrousError(
                "E-MODEL-SIZE",
                f"this model takes pictures of {fixed[0]} x {fixed[1]} (height x width) only, "
                f"not {size[0]} x {size[1]}",
                fix="export it again without --size",
            )
        return size, {0: np.ascontiguousarray(image)[None]}


def check_device(device: Device) -> None:
    """Makes sure that OpenVINO finds a device.

    Raises:
        AtrousError: It does not.
    """
    found = {name.partition(".")[0].lower() for name in openvino_core().available_devices}
    if device not in found:
        raise AtrousError(
            "E-DEVICE",
            f"OpenVINO finds no device {device!r} here",
            fix=f"choose --device {' or '.join(sorted(found))}; the graphics of Intel processors "
            "need Intel's compute runtime (intel-opencl-icd)",
        )


def chosen_precision(
    header: Header, asked: Precision | None, *, where: object = "", device: Device = "cpu"
) -> str:
    """Returns the arithmetic for a file: ``fp32``, ``bf16`` or ``int8``.

    ``auto`` takes bf16 on a processor with bf16 units, if the labels of the file were measured to
    agree with those of fp32. On such processors bf16 was faster wherever it was timed, with matrix
    units (AMX) and with vector units alone (AVX512_BF16).

    Raises:
        AtrousError: The file or the processor lacks the precision that was asked for.
    """
    fix, what = "", ""
    if header.precision == "int8":
        if asked in (None, "auto", "int8"):
            return "int8"
        what, fix = f"an int8 file cannot run in {asked}", "name the float file it was made from"
    elif asked == "int8":
        what = "not an int8 file"
        fix = "atrous export MODEL --int8 --calibration PICTURES --out FILE writes one"
    elif asked == "bf16" and (device != "cpu" or not has_bf16_units()):
        which = "processor" if device == "cpu" else "device"
        what, fix = f"this {which} has no bf16 units", "choose --precision auto or fp32"
    if what:
        raise AtrousError("E-PRECISION", what, where=where, fix=fix)
    agrees = header.bf16_agreement is not None and header.bf16_agreement >= LEAST_AGREEMENT
    can = device == "cpu" and has_bf16_units()
    if asked == "bf16" or (asked == "auto" and agrees and can):
        return "bf16"
    return "fp32"


def has_bf16_units() -> bool:
    """Returns whether this processor computes in bfloat16: AMX or AVX512_BF16, says OpenVINO."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class Compiler:
    """Compiles a file for picture sizes.

    Args:
        path: The file.
        threads: Threads to use.
        keep_compiled: Whether to keep compiled models for other processes.
        precision: ``fp32``, ``bf16`` or ``int8``.
        rewrites: Whether to cut the graph of a known size into strips for speed. Only fp32 gains:
            the values of the others are half as large or less, and stay in the cache.
        streams: Pictures that are seen at a time; they share the threads.
        device: ``cpu`` or ``gpu``, for which nothing is rewritten.
        fingerprint: Of the file; what was measured for it is kept under this name.

    Attributes:
        rewrite_error: Why the graph runs as exported although it was to be rewritten; empty if
            it is rewritten, or was never to be.
    """

    def __init__(
        self,
        path: Path,
        threads: int,
        *,
        keep_compiled: bool,
        precision: str = "fp32",
        rewrites: bool = True,
        streams: int = 1,
        device: Device = "cpu",
        fingerprint: str = "",
    ) -> None:
        self._path = path
        self._device = device.upper()
        self._rewrites = rewrites and precision == "fp32" and device == "cpu"
        self._mixed = precision == "bf16"
        self.rewrite_error = ""
        self._core = openvino_core()
        self._streams = streams
        self._settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT" if streams > 1 else "LATENCY",
            "NUM_STREAMS": streams,
            # OpenVINO alone would compute in bf16 wherever the processor can.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        if device == "cpu":
            self._settings["INFERENCE_NUM_THREADS"] = threads
            # Processes that share a machine would pin the same cores.
            self._settings["ENABLE_CPU_PINNING"] = False
        # A folder for each precision: a model compiled for another one must never be found.
        folder = writable(cache_folder() / f"openvino-{precision}") if keep_compiled else None
        if folder is not None:
            self._settings["CACHE_DIR"] = str(folder)
        self._cut: set[tuple[int, ...]] = set()  # shapes whose graph is cut into strips
        self._choices = Choices(folder, fingerprint, threads // streams)

    def compile(self, shape: tuple[int, ...], used: Requests | None = None) -> Requests:
        """Returns the requests for an input shape, whose logits are (1, K, h, w).

        Args:
            shape: Of the picture, (1, H, W, C); -1 is any length.
            used: What this returned before and ran for many pictures of the shape. If it is in
                strips, and this machine has not measured whether they pay, that is done now.

        Raises:
            AtrousError: The engine refuses the file.
        """
        choice = self._choices.read(shape) if self._rewrites else None
        if used is None:
            requests = self.compiled(classes_first, shape, strips=choice is None or choice.strips)
            assert requests is not None
            return requests
        return self._faster(shape, used) if choice is None and math.prod(shape) <= _LARGE else used

    def choose(self, shape: tuple[int, ...]) -> Choice | None:
        """Measures and keeps whether strips pay; None if they cut nothing."""
        strips = self.compiled(classes_first, shape)
        if strips is not None:
            self._faster(shape, strips)
        return self._choices.read(shape) if shape in self._cut else None

    def _faster(self, shape: tuple[int, ...], used: Requests) -> Requests:
        """Measures the graph in strips, `used`, against that as exported, if strips cut it."""
        if shape not in self._cut:
            return used
        as_exported = partial(self.compiled, classes_first, shape, strips=False)
        return self._choices.faster(shape, used, as_exported)

    def compiled(
        self, prepared: Prepared, shape: tuple[int, ...], *, strips: bool = True
    ) -> Requests | None:
        """Compiles the graph for an input shape, after a change; None if the change gives None.

        Args:
            prepared: The change, such as `give_pooled`.
            shape: Of the picture or tile, (1, H, W, C); -1 is any length.
            strips: Whether the graph may be cut into strips.

        Raises:
            AtrousError: The engine refuses the file.
        """
        model = self._prepared(prepared, shape)
        if model is not None and self._rewrites and min(shape) > 0 and strips:
            try:
                if in_strips(import_openvino(), model):
                    self._cut.add(shape)
                return self._requests(model)
            # A rewrite saves time and nothing else. Whatever goes wrong in it, in our code or in
            # the engine, the graph as exported still gives the same labels.
            except Exception as error:
                self._rewrites = False
                self.rewrite_error = f"{type(error).__name__}: {str(error).strip()[:500]}"
                logger.warning("%s runs as exported: %s", self._path, self.rewrite_error)
                model = self._prepared(prepared, shape)
        if model is None:
            return None
        with self._refusals():
            if self._mixed:
                keep_finest_layers(self._core, model)
            return self._requests(model)

    def read(self) -> Any:
        """Returns the graph from the picture to the logits."""
        with self._refusals():
            return only_logits(self._core.read_model(str(self._path)))

    def _prepared(self, prepared: Prepared, shape: tuple[int, ...]) -> Any:
        model = prepared(self.read())
        if model is not None:
            with self._refusals():
                model.reshape({model.input(0): list(shape)})
        return model

    def _requests(self, model: Any) -> Requests:
        settings = dict(self._settings)
        try:
            compiled = self._core.compile_model(model, self._device, settings)
        except RuntimeError:
            # Processes that start together may write one file of the cache at the same time, and
            # OpenVINO takes that for an error. Compiling without the cache takes a second longer.
            if settings.pop("CACHE_DIR", None) is None:
                raise
            compiled = self._core.compile_model(model, self._device, {**settings, "CACHE_DIR": ""})
        return Requests(compiled, self._streams)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            what = f"OpenVINO refuses it: {str(error).strip().splitlines()[-1]}"
            raise AtrousError("E-MODEL-ENGINE", what, where=self._path) from error
