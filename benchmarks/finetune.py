"""What `atrous train finetune` makes of sixty labelled pictures in three minutes.

    python benchmarks/finetune.py animals VOC_FOLDER
    python benchmarks/finetune.py formats
    python benchmarks/finetune.py formats VOC_FOLDER
    python benchmarks/finetune.py table

`animals`: sixty pictures with a cat or a dog, of the split `train`, classes background, cat, dog
and person; everything else is background. Measured on all pictures of the split `val` with a cat
or a dog, in two groups, and on sixty others of `train`, which the start (`voc`) was trained on.
Beside both stands the built-in `animals`, which was trained on all 3,131 pictures: more
than three minutes on sixty of them can be expected to give.
`formats`: sixty pictures in each of seven forms, painted or of VOC_FOLDER; measured on others.

Every run is the command as a user types it, in a process of its own; data and runs lie in a
temporary folder, or in --runs, where finished runs are kept and not repeated. Writes
results/finetune.PROCESSOR.json, the parts of other calls kept. `table` prints the tables of
docs/train.md from it.
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from labelled_sets import KINDS, write_set
from measuring import machine, result_path, save

import atrous
from atrous.data.dataset import Dataset

COUNT = 60
ANIMALS = ("background", "cat", "dog", "person")
SCENES = ("background", *atrous.data.scenes(0, 1).classes[1:])  # the sky: tools draw none
SEED = 18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("animals", "formats", "table"))
    parser.add_argument("voc", type=Path, nargs="?")
    parser.add_argument("--runs", type=Path, help="a folder for data and runs")
    parser.add_argument("--minutes", default="3")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    asked = parser.parse_args()
    if asked.part == "table":
        print("\n".join(tables(json.loads(result_path("finetune").read_text()))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = (asked.runs or Path(temporary)) / f"{asked.part}{'-voc' if asked.voc else ''}"
        if asked.part == "animals":
            keep("animals", measure_animals(asked.voc, root, asked.minutes))
        else:
            part = "formats of voc" if asked.voc else "formats of scenes"
            for kind in asked.kinds:
                keep(part, {kind: measure_format(kind, asked.voc, root, asked.minutes)})


def keep(part: str, found: dict[str, Any]) -> None:
    """Adds to the result file of this machine."""
    path = result_path("finetune")
    result = json.loads(path.read_text()) if path.exists() else {}
    result.setdefault(part, {}).update(found)
    save("finetune", result)


def measure_animals(voc: Path, root: Path, minutes: str) -> dict[str, Any]:
    """Returns the scores of the start and of the run on each group of pictures."""
    train, val = (animals(voc, split) for split in ("train", "val"))
    groups = {
        "val, first half": val[:COUNT],
        "val, second half": val[COUNT:],
        "train, others": train[COUNT : 2 * COUNT],
    }
    data = write_set("index", train[:COUNT], ANIMALS, root / "data")
    run, facts = trained(data, root / "run", minutes)
    found: dict[str, Any] = {"run": facts}
    for name, pictures in groups.items():
        others = write_set("index", pictures, ANIMALS, root / name)
        found[name] = {
            "pictures": len(pictures),
            "start": scores("voc", others),
            "finetune": scores(run, others),
            "animals": scores("animals", others),
        }
    return found


def measure_format(kind: str, voc: Path | None, root: Path, minutes: str) -> dict[str, Any]:
    """Returns the scores of a run on one form of the pictures."""
    if voc:
        pictures, others = animals(voc, "train")[:COUNT], animals(voc, "val")[:COUNT]
        classes, objects = ANIMALS, 1
    else:
        pictures, others = (list(atrous.data.scenes(SEED + i, COUNT)) for i in (0, 1))
        classes, objects = SCENES, 3  # trees, houses, boats and balloons
    data = write_set(kind, pictures, classes, root / "data", objects=objects)
    run, facts = trained(data, root / f"run-{kind}", minutes)
    form = "binary" if kind == "binary" else "index"
    measured = write_set(form, others, classes, root / "others", objects=objects)
    return {"run": facts, "pictures": len(others), "finetune": scores(run, measured)}


def animals(voc: Path, split: str) -> list[tuple[Any, Any]]:
    """Returns a split's pictures of cats and dogs, shuffled, with the labels of `ANIMALS`."""
    data = atrous.data.open_dataset(voc, split)
    labels = [data.classes.index(name) for name in ANIMALS]
    table = np.zeros(256, np.uint8)
    table[labels], table[255] = range(len(labels)), 255
    order = random.Random(SEED).sample(range(len(data)), len(data))
    return list(_chosen(data, order, {labels[1], labels[2]}, table))


def _chosen(
    data: Dataset, order: Sequence[int], wanted: set[int], table: Any
) -> Iterator[tuple[Any, Any]]:
    for index in order:
        image, target = data[index]
        if wanted & set(np.unique(target).tolist()):
            yield image, table[target]


def trained(data: Path, run: Path, minutes: str) -> tuple[Path, dict[str, Any]]:
    """Runs the command, if the run is not there; returns the run folder and facts of it."""
    facts = run.with_suffix(".json")
    if not facts.exists():
        load, start = os.getloadavg()[0], time.perf_counter()
        words = ["train", "finetune", "--data", data, "--out", run, "--minutes", minutes]
        _atrous(words)
        seconds = time.perf_counter() - start
        config = json.loads((run / "config.json").read_text())
        with (run / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        best = max(rows, key=lambda row: float(row["mean_iou"]))
        content = {
            "command": f"atrous train finetune --data D --out R --minutes {minutes}",
            "seconds": round(seconds),
            "steps": config["steps"],
            "batch_size": config["batch_size"],
            "best_step": int(best["step"]),
            "held_out_mean_iou": [round(float(row["mean_iou"]), 4) for row in rows],
            "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
            "machine": machine("torch"),
        }
        facts.write_text(json.dumps(content))
    return run, json.loads(facts.read_text())


def scores(model: Path | str, data: Path) -> dict[str, Any]:
    """Returns what `atrous evaluate` says of all pictures of a data set."""
    words = ["evaluate", model, "--data", data, "--split", "all", "--trimap", "none", "--json"]
    found = json.loads(_atrous(words))
    iou = {name: value for name, value in found["class_iou"].items() if value is not None}
    return {
        "mean_iou": round(found["mean_iou"], 4),
        "class_iou": {name: round(value, 4) for name, value in iou.items()},
    }


def _atrous(words: Sequence[object]) -> str:
    command = [sys.executable, "-m", "atrous.cli", *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def tables(result: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of the tables in docs/train.md."""
    groups = {name: row for name, row in result.get("animals", {}).items() if name != "run"}
    if groups:
        yield "| pictures | model | mean of cat, dog, person | cat | dog | person |"
        yield "|---|---|---|---|---|---|"
    for name, row in groups.items():
        for model in ("start", "finetune", "animals"):
            iou = [row[model]["class_iou"][animal] for animal in ANIMALS[1:]]
            cells = " | ".join(f"{value:.3f}" for value in (sum(iou) / 3, *iou))
            yield f"| {row['pictures']} of {name} | {model} | {cells} |"
    yield ""
    parts = [part for part in result if part.startswith("formats of ")]
    if not parts:
        return
    yield f"| form | {' | '.join(f'{part[11:]}: mean IoU | steps' for part in parts)} |"
    yield "|---|" + "---|---|" * len(parts)
    for kind in KINDS:
        cells = [
            f"{found['finetune']['mean_iou']:.3f} | {found['run']['steps']}"
            if (found := result[part].get(kind))
            else "not run | "
            for part in parts
        ]
        yield f"| {kind} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
