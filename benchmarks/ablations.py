"""The paper's claims at our scale: one row is one change to a network, trained and measured.

python benchmarks/ablations.py train decoder bilinear --seeds 0,1,2 --runs RUNS
python benchmarks/ablations.py table

A row is trained by `atrous train`, in a folder of RUNS that resumes after anything, evaluated on
held-out pictures, and written to results/ablations/ROW-SEED.json: command, commit, steps, scores
and the counts of each picture, from which `table` computes differences and their paired intervals
anew. Rows of the same base and seed see the same pictures in the same order.
"""

import argparse
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import machine

import atrous
from atrous.config import TrainConfig
from atrous.data.procedural import scenes as painted
from atrous.evaluation.uncertainty import difference
from atrous.metrics import iou
from atrous.recipes import scenes
from atrous.training.loop import train

RESULTS = Path(__file__).parent / "results" / "ablations"
HELD_OUT, PICTURES = 7_000_000, 200  # a seed no run trains on

BASE = replace(scenes(), steps=500, evaluate_every=0, save_every=100, samples=0)
ROWS: dict[str, dict[str, Any]] = {
    "decoder": {},
    "bilinear": {"decoder": False},
    "dense": {"separable": False},
    "no_atrous_branches": {"atrous_rates": ()},
    "decoder_64": {"decoder_channels": 64},
}
REFERENCE = "decoder"


def config_of(row: str, seed: int) -> TrainConfig:
    """Returns the run of a row."""
    return replace(BASE, **ROWS[row], seed=seed)


def measure(row: str, seed: int, runs: Path) -> None:
    """Trains and evaluates a row, unless its result is there."""
    result = RESULTS / f"{row}-{seed}.json"
    if result.exists():
        return
    config, out = config_of(row, seed), runs / f"{row}-{seed}"
    train(config, out, resume=(out / "checkpoints").exists())
    model = atrous.load(out)
    data = painted(HELD_OUT, PICTURES)
    scores = atrous.evaluate(model, data, trimap="borders")
    assert scores.boundaries is not None
    content = {
        "row": row,
        "seed": seed,
        "changes": ROWS[row],
        "command": f"python benchmarks/ablations.py train {row} --seeds {seed}",
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "steps": config.steps,
        "multiply_adds": atrous.multiply_adds(model, config.crop_size, convention="true"),
        "parameters": atrous.parameters(model),
        "mean_iou": scores.mean_iou,
        "trimap": scores.trimap,
        "machine": machine(),
        "per_picture": scores.per_picture.tolist(),
        "narrowest": scores.boundaries.narrowest.tolist(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(content) + "\n")


def read() -> dict[str, dict[int, dict[str, Any]]]:
    """Returns the committed results by row and seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text())
        found.setdefault(content["row"], {})[content["seed"]] = content
    return found


def table() -> Iterator[str]:
    """Yields docs/ablations.md's table."""
    found = read()
    yield (
        "| row | seeds | steps | parameters | mean IoU | trimap 1 px | minus reference | "
        "at 1 px | commit |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for row, by_seed in found.items():
        seeds = sorted(set(by_seed) & set(found.get(REFERENCE, {})))
        shown = [gain(found, row, seeds, key) for key in ("per_picture", "narrowest")]
        first = next(iter(by_seed.values()))
        means = np.mean([r["mean_iou"] for r in by_seed.values()])
        near = np.mean([r["trimap"]["1"] for r in by_seed.values()])
        commits = " ".join(sorted({r["commit"] for r in by_seed.values()}))
        yield (
            f"| {row} | {', '.join(map(str, sorted(by_seed)))} | {first['steps']} | "
            f"{first['parameters']:,} | {means:.4f} | {near:.4f} | {shown[0]} | {shown[1]} | "
            f"{commits} |"
        )


def gain(found: dict[str, Any], row: str, seeds: list[int], key: str) -> str:
    """Returns the paired difference to the reference in points, over all seeds at once.

    The counts of a picture are added over seeds, so a resample takes a picture with all its runs.
    """
    if row == REFERENCE or not seeds:
        return "-"
    first, second = (
        np.sum([found[name][seed][key] for seed in seeds], axis=0, dtype=np.int64)
        for name in (REFERENCE, row)
    )
    result = difference(first, second)
    assert np.isclose(
        result.mean_iou, np.nanmean(iou(*second.sum(0))) - np.nanmean(iou(*first.sum(0)))
    )
    return f"{100 * result.mean_iou:+.2f} ({100 * result.low:+.2f} to {100 * result.high:+.2f})"


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    training = actions.add_parser("train")
    training.add_argument("rows", nargs="+", choices=sorted(ROWS))
    training.add_argument("--seeds", default="0")
    training.add_argument("--runs", type=Path, required=True)
    actions.add_parser("table")
    asked = parser.parse_args()
    if asked.action == "train":
        for seed in map(int, asked.seeds.split(",")):
            for row in asked.rows:
                measure(row, seed, asked.runs)
    print("\n".join(table()))


if __name__ == "__main__":
    main()
