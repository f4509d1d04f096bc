"""The first run people make: `atrous train scenes` from an empty folder, timed and scored anew.

    python benchmarks/scenes.py                # some three minutes on two idle cores
    python benchmarks/scenes.py --keep runs/x  # leaves the run folder there

The command runs in a process of its own. Its wall time and its processor time are measured, imports
and evaluations included; on a machine that does other work meanwhile only the second means
anything. The best model is then evaluated on scenes of seeds that no run trains or validates on.

Writes results/scenes.PROCESSOR.json.
"""

import argparse
import csv
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measuring

import atrous

SEEDS = (1, 22, 333)  # training takes seeds from 1,000,000 on, validation 2,000,000
PICTURES = 100


def trained(out: Path, threads: int) -> dict[str, float]:
    """Runs the command; returns what it took."""
    command = [sys.executable, "-m", "atrous.cli", "train", "scenes", "--out", str(out)]
    start = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(spent, 1),
        "peak_memory_mb": after.ru_maxrss // 1024,
    }


def scored(out: Path) -> dict[str, Any]:
    """Evaluates the best model on scenes of other seeds."""
    model = atrous.load(out)
    scores = {seed: atrous.evaluate(model, atrous.data.scenes(seed, PICTURES)) for seed in SEEDS}
    return {
        "mean_iou": {str(seed): round(float(s.mean_iou or 0), 4) for seed, s in scores.items()},
        "class_iou": {
            name: round(statistics.mean(float(s.class_iou[name] or 0) for s in scores.values()), 4)
            for name in model.classes
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="where to leave the run folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.keep or Path(folder) / "scenes"
        took = trained(out, arguments.threads)
        with (out / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        result = {
            "machine": measuring.machine("torch", "atrous"),
            "threads": arguments.threads,
            **took,
            "validation": [{k: round(float(v), 4) for k, v in row.items()} for row in rows],
            f"held_out_{PICTURES}_pictures_a_seed": scored(out),
        }
    measuring.save("scenes", result)


if __name__ == "__main__":
    main()
