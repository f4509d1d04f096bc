"""What every benchmark here shares: interleaved samples, medians, and who measured them."""

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from atrous.bench import processor

RESULTS = Path(__file__).parent / "results"


def interleave(
    candidates: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warm_up: int = 1,
    untimed: int = 0,
) -> dict[str, dict[str, float]]:
    """Times each candidate once a round, so that other load on the machine hits all alike.

    Args:
        candidates: What to run, by name.
        rounds: Samples of each.
        warm_up: Rounds before the first that counts.
        untimed: Runs of a candidate before each of its samples: the one before it may leave cold
            caches, and threads that spin.

    Returns:
        Milliseconds: median, fastest, between the quartiles, and number of samples by candidate.
    """
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(rounds + warm_up):
        for name, run in candidates.items():
            for _ in range(untimed):
                run()
            start = time.perf_counter()
            run()
            if round_ >= warm_up:
                samples[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: {
            "median_ms": round(statistics.median(values), 2),
            "fastest_ms": round(min(values), 2),
            "spread_ms": round(_spread(values), 2),
            "samples": len(values),
        }
        for name, values in samples.items()
    }


def _spread(values: list[float]) -> float:
    """Returns what lies between the first and the third quartile."""
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4)
    return third - first


def machine(*packages: str) -> dict[str, Any]:
    """Names processor, cores, load and versions."""
    flags = Path("/proc/cpuinfo").read_text()
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "avx512": "avx512f" in flags,
        "vnni": "vnni" in flags,
        "load_average": os.getloadavg()[0],
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def save(name: str, result: Mapping[str, Any]) -> None:
    """Writes a result beside the scripts and prints it."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
