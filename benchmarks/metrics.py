"""Confusion matrix update: ours against torchmetrics, scikit-learn and plain NumPy.

    python benchmarks/metrics.py

One thread, 1024x2048 pixels, 21 classes, 3 % unlabelled; implementations take turns in every round
and all must give the same counts. Two kinds of maps: piecewise constant ones as networks and people
make them (a Voronoi diagram of 60 cells and the same with displaced borders), and noise, the worst
case. torchmetrics is called in its fastest form: int64 tensors, no validation.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sklearn
import sklearn.metrics
import torch
import torchmetrics
from measuring import result_path
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_confusion_matrix

from atrous.evaluation.metrics import confusion_matrix

K, SHAPE = 21, (1024, 2048)
Map = NDArray[np.uint8]


def piecewise(rng: np.random.Generator) -> tuple[Map, Map]:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
    wobble = rng.normal(size=2) * 3
    nearest = np.full(SHAPE, np.inf, np.float32)
    target, labels = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    moved = nearest.copy()
    for row, column, kind in zip(
        rng.uniform(0, SHAPE[0], 60),
        rng.uniform(0, SHAPE[1], 60),
        rng.integers(0, K, 60),
        strict=True,
    ):
        for centre, best, out in (
            ((row, column), nearest, target),
            ((row + wobble[0], column + wobble[1]), moved, labels),
        ):
            distance = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
            closer = distance < best
            best[closer], out[closer] = distance[closer], kind
    target[-31:] = 255
    return target, labels


def noise(rng: np.random.Generator) -> tuple[Map, Map]:
    target = rng.integers(0, K, SHAPE).astype(np.uint8)
    labels = np.where(rng.random(SHAPE) < 0.8, target, rng.integers(0, K, SHAPE)).astype(np.uint8)
    target[rng.random(SHAPE) < 0.03] = 255
    return target, labels


def contenders(target: Map, labels: Map) -> dict[str, Callable[[], NDArray[np.int64]]]:
    true, predicted = (torch.from_numpy(a.astype(np.int64)) for a in (target, labels))

    def masked_bincount() -> NDArray[np.int64]:
        valid = target != 255
        codes = target[valid].astype(np.int64) * K + labels[valid]
        return np.bincount(codes, minlength=K * K).reshape(K, K)

    def scikit_learn() -> NDArray[np.int64]:
        valid = target != 255
        return sklearn.metrics.confusion_matrix(target[valid], labels[valid], labels=np.arange(K))

    return {
        "atrous": lambda: confusion_matrix(target, labels, K),
        "numpy masked bincount": masked_bincount,
        "torchmetrics": lambda: multiclass_confusion_matrix(
            predicted, true, K, ignore_index=255, validate_args=False
        ).numpy(),
        "scikit-learn": scikit_learn,
    }


def measure(target: Map, labels: Map, rounds: int) -> dict[str, dict[str, float]]:
    functions = contenders(target, labels)
    expected = functions["atrous"]()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for name, function in functions.items():  # burn in, and insist on equality
        assert np.array_equal(function(), expected), name
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    ours = times["atrous"]
    return {
        name: {
            "median_ms": round(1e3 * statistics.median(values), 2),
            "min_ms": round(1e3 * min(values), 2),
            "megapixels_per_s": round(target.size / statistics.median(values) / 1e6, 1),
            "atrous_is_faster_by": round(
                statistics.median(v / o for v, o in zip(values, ours, strict=True)), 2
            ),
        }
        for name, values in times.items()
    }


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=result_path("metrics"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    maps = {"piecewise constant": piecewise(rng), "noise": noise(rng)}
    result = {
        "what": "confusion matrix of 1024x2048 pixels, 21 classes, 1 thread",
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count()},
        "load_average_before": [round(v, 1) for v in os.getloadavg()],
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "torchmetrics": torchmetrics.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "rounds": arguments.rounds,
        "results": {kind: measure(*pair, arguments.rounds) for kind, pair in maps.items()},
    }
    text = json.dumps(result, indent=2)
    print(text)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
