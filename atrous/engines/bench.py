"""Measures what a model costs on this machine, in every engine that is installed.

The engines take turns in one warm process, so that load from other programs hits all alike.
Start-up time and memory come from separate processes. The machine's peak is measured in the same
turns, because times alone mean little on a machine that is shared or changes its clock.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from atrous.engines.exported_file import read_header
from atrous.engines.machine import peak_megabytes, processor, usable_processors
from atrous.engines.open import exported_file, load_model, open_engine
from atrous.engines.openvino import ExportedEngine
from atrous.engines.openvino_package import import_openvino, openvino_core
from atrous.engines.protocol import Engine, Precision
from atrous.engines.strips_choice import Choice
from atrous.errors import AtrousError, ExitCode
from atrous.images.bands import PLAIN, Bands, Pixels, bands_of
from atrous.predict import upsample

PACKAGES = {"OpenVINO": "openvino", "ONNX Runtime": "onnxruntime", "PyTorch": "torch"}
# Of the convolution that measures the peak, which takes 4.3 G multiply-adds.
PEAK_CHANNELS, PEAK_SIDE = 1024, 64


@dataclass(frozen=True)
class EngineCost:
    """The cost of a model in one engine.

    Attributes:
        engine: The name of the engine, a key of `PACKAGES`.
        version: The version of its package.
        precision: The arithmetic it ran in: ``fp32``, ``bf16`` or ``int8``.
        median_ms: Milliseconds from picture to coarse logits.
        fastest_ms: The shortest time.
        spread_ms: Distance between the first and the third quartile.
        share_of_peak: Multiply-adds a second at the median time, as a share of the machine's
            measured peak at the file's precision. Exceeds 1 if the engine saves multiplications.
        first_start_s: Seconds from the start of a process to its first labels.
        start_s: The same for a second process, which finds the compiled model of the first.
        peak_memory_mb: Largest resident memory of the second process.
    """

    engine: str
    version: str
    precision: str
    median_ms: float
    fastest_ms: float
    spread_ms: float
    share_of_peak: float
    first_start_s: float
    start_s: float
    peak_memory_mb: float


@dataclass(frozen=True)
class BenchReport:
    """The costs of a model on this machine.

    Attributes:
        model: The file or name.
        precision: ``float32`` or ``int8``.
        size: Height and width of the picture.
        threads: Threads the engines may use.
        samples: Timed runs of each engine.
        multiply_adds: Multiply-adds of the file's convolutions, for one picture.
        peak: Multiply-adds a second in the fastest run of a large convolution.
        labels_ms: Median milliseconds from coarse logits to labels, the step after every engine.
        undecided_cells: Share of cells that this step had to interpolate.
        processor: The name of the processor.
        rewrite_error: Why OpenVINO runs the graph as exported although this package would rewrite
            it for speed; empty if nothing failed.
        choice: The graph in row strips against the graph as exported, with ``strips``: whether
            strips run; None if the graph is not cut at this size and precision.
        engines: The costs in each engine, in the order of `PACKAGES`.
    """

    model: str
    precision: str
    size: tuple[int, int]
    threads: int
    samples: int
    multiply_adds: int
    peak: float
    labels_ms: float
    undecided_cells: float
    processor: str
    rewrite_error: str
    choice: Choice | None
    engines: tuple[EngineCost, ...]

    def as_json(self) -> dict[str, Any]:
        """Returns the report in types that JSON has."""
        report = asdict(self)
        if self.choice is not None:
            report["choice"]["strips"] = self.choice.strips
        return report


def bench(
    model: str | Path,
    *,
    size: tuple[int, int] | None = None,
    threads: int | None = None,
    samples: int = 9,
    precision: Precision | None = None,
) -> BenchReport:
    """Measures a model in every engine that is installed.

    Torch runs any model that is not an exported file; the model is exported for other engines.

    Args:
        model: An exported file, the name of a built-in model, or a path or name as in
            `atrous.load`.
        size: Height and width of the picture; None: 513 x 513, or the fixed size of the file.
        threads: Threads to use; None: one for each processor this process may run on.
        samples: Timed runs of each engine.
        precision: As in `Predictor`, for OpenVINO and PyTorch; None: the file's own. ONNX Runtime
            has the file's own always.

    Raises:
        AtrousError: No such model, torch is needed and missing, or the file has another size or
            precision.
    """
    threads = threads or usable_processors()
    with _as_exported(model, size, precision) as (path, sources):
        header = read_header(path)
        size = size or (header.size if header.size != (0, 0) else (513, 513))
        picture = made_up_picture(size, header.bands)
        engines = {n: _open(n, source, threads, precision) for n, source in sources.items()}
        ours = engines.get("OpenVINO")
        choice = ours.chosen_rewrite(size) if isinstance(ours, ExportedEngine) else None
        peak_runner, peak_work = _peak_runner(threads, header.precision)
        runs: dict[str, Callable[[], Any]] = {"peak": peak_runner}
        runs |= {name: partial(engine.coarse_logits, picture) for name, engine in engines.items()}
        times = _in_turns(runs, samples)
        work = multiply_adds(path, size)
        peak = peak_work / min(times.pop("peak"))
        coarse = engines[next(iter(engines))].coarse_logits(picture)
        stride = header.logits_stride
        labelling = _in_turns({"": lambda: upsample.labels(coarse, stride, size)}, samples)[""]
        costs = []
        for name, seconds in times.items():
            starts = _start_up(name, sources[name], size, threads, engines[name].precision)
            cost = _engine_cost(engines[name].precision, name, seconds, work / peak, starts)
            costs.append(cost)
        rewrite_error = getattr(ours, "rewrite_error", "")
    return BenchReport(
        model=str(model),
        precision=header.precision,
        size=size,
        threads=threads,
        samples=samples,
        multiply_adds=work,
        peak=peak,
        labels_ms=round(1e3 * statistics.median(labelling), 3),
        undecided_cells=round(upsample.undecided_share(coarse), 4),
        processor=processor(),
        rewrite_error=rewrite_error,
        choice=choice,
        engines=tuple(costs),
    )


@contextlib.contextmanager
def _as_exported(
    model: str | Path, size: tuple[int, int] | None, precision: Precision | None
) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yields an exported file, and the source that each installed engine runs."""
    installed = [n for n, package in PACKAGES.items() if importlib.util.find_spec(package)]
    exported = exported_file(model, int8=precision == "int8")
    if exported is not None:
        yield exported, {name: str(exported) for name in installed if name != "PyTorch"}
        return
    loaded = load_model(model)
    from atrous.export.export import export

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(loaded, path, size=size)
        yield path, {name: str(model if name == "PyTorch" else path) for name in installed}


def _open(
    name: str, source: str, threads: int, precision: Precision | None, *, keep: bool = False
) -> Engine:
    """Opens a model in the engine of a name; `keep` keeps what OpenVINO compiles."""
    if name == "OpenVINO":
        path = Path(source)
        return ExportedEngine(path, threads=threads, keep_compiled=keep, precision=precision)
    if name == "ONNX Runtime":
        from atrous.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(Path(source), None, ("CPUExecutionProvider",), threads)
    return open_engine(source, threads=threads, precision=precision)


def _in_turns(runs: dict[str, Callable[[], Any]], samples: int) -> dict[str, list[float]]:
    """Returns the seconds of each run.

    Each runs once untimed before every sample, because the one before it left cold caches, and
    perhaps threads that still spin.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(samples):
        for name, run in runs.items():
            run()
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _engine_cost(
    precision: str, name: str, seconds: list[float], ideal: float, starts: list[tuple[float, float]]
) -> EngineCost:
    quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
    return EngineCost(
        engine=name,
        version=importlib.metadata.version(PACKAGES[name]),
        precision=precision,
        median_ms=round(1e3 * quartiles[1], 2),
        fastest_ms=round(1e3 * min(seconds), 2),
        spread_ms=round(1e3 * (quartiles[2] - quartiles[0]), 2),
        share_of_peak=round(ideal / quartiles[1], 3),
        first_start_s=round(starts[0][0], 2),
        start_s=round(starts[1][0], 2),
        peak_memory_mb=round(starts[1][1], 1),
    )


def multiply_adds(path: Path, size: tuple[int, int]) -> int:
    """Returns the multiply-adds of an exported file's convolutions for a picture of a size."""
    model = openvino_core().read_model(str(path))
    model.reshape([1, *size, 3])
    total = 0
    for node in model.get_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            filters = [int(n) for n in node.input(1).get_shape()]  # (groups,) out, in, *kernel
            inputs = filters[2:] if node.get_type_name() == "GroupConvolution" else filters[1:]
            total += int(np.prod([int(n) for n in node.output(0).get_shape()])) * int(
                np.prod(inputs)
            )
    return total


def _peak_runner(threads: int, precision: str) -> tuple[Callable[[], Any], int]:
    """Returns a large convolution to run, and its multiply-adds."""
    openvino = import_openvino()
    from openvino import opset13 as ops

    shape = [1, PEAK_CHANNELS, PEAK_SIDE, PEAK_SIDE]
    image = ops.parameter(shape, np.float32)
    random = np.random.default_rng(0)
    values = random.normal(size=(PEAK_CHANNELS, PEAK_CHANNELS, 1, 1)).astype(np.float32)
    weight, x = ops.constant(values), image
    if precision == "int8":
        # As in an int8 network: weights in 255 steps, activations in 256, before and after.
        scale = ops.constant(np.float32(0.05))
        rounded = np.clip(np.round(values / 0.05), -127, 127).astype(np.int8)
        weight = ops.multiply(ops.convert(ops.constant(rounded), np.float32), scale)
        x = _in_8_bits(ops, x, 1.0)
    x = ops.convolution(x, weight, [1, 1], [0, 0], [0, 0], [1, 1])
    if precision == "int8":
        x = _in_8_bits(ops, ops.relu(x), 64.0)
        # An operation that reads 8 bits, so that the convolution must write them.
        x = ops.max_pool(x, [1, 1], [1, 1], [0, 0], [0, 0], [1, 1]).output(0)
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Model([x], [image])
    request = openvino_core().compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(random.random(shape).astype(np.float32)))
    return request.infer, PEAK_CHANNELS**2 * PEAK_SIDE**2


def _in_8_bits(ops: Any, x: Any, largest: float) -> Any:
    low, high = ops.constant(np.float32(0)), ops.constant(np.float32(largest))
    return ops.fake_quantize(x, low, high, low, high, 256)


def _start_up(
    name: str, source: str, size: tuple[int, int], threads: int, precision: str
) -> list[tuple[float, float]]:
    """Runs two processes one by one; returns their seconds to first labels and peak megabytes."""
    arguments = json.dumps([name, source, list(size), threads, precision])
    code = "import sys; from atrous.engines.bench import first_labels; first_labels(sys.argv[1])"
    results = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "ATROUS_CACHE": folder}
        for _ in range(2):
            start = time.time()
            done = subprocess.run(
                [sys.executable, "-c", code, arguments],
                env=environment,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise AtrousError(
                    "E-BENCH-START",
                    f"{name} failed in a process of its own: {done.stderr.strip()[-500:]}",
                    where=source,
                    exit_code=ExitCode.BUG,
                )
            end, megabytes = json.loads(done.stdout)
            results.append((end - start, megabytes))
    return results


def first_labels(arguments: str) -> None:
    """Labels a picture, then prints the time of day and the process's peak memory as JSON."""
    name, source, (height, width), threads, precision = json.loads(arguments)
    engine = _open(name, source, threads, precision, keep=True)
    coarse = engine.coarse_logits(made_up_picture((height, width), bands_of(engine)))
    upsample.labels(coarse, engine.logits_stride, (height, width))
    print(json.dumps([time.time(), peak_megabytes()]))


def made_up_picture(size: tuple[int, int], bands: Bands = PLAIN) -> Pixels:
    """Returns a synthetic picture (H, W, C) of smooth shapes."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    planes = [
        128 + 63 * (np.sin(rows / (40 + 9 * c)) + np.cos(columns / 31))
        for c in range(len(bands.names))
    ]
    return bands.made_up(np.stack(planes, axis=-1))
