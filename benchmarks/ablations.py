"""The paper's claims at our scale: one row is one change to a network, trained and measured.

    python benchmarks/ablations.py train scenes decoder bilinear --seeds 0,1,2 --runs RUNS
    python benchmarks/ablations.py table       # prints the tables of docs/ablations.md
    python benchmarks/ablations.py document    # writes them there

A row is trained by `atrous.train`, in a folder of RUNS that resumes after anything, evaluated on
held-out pictures, and written to results/ablations/BASE-ROW-SEED.json: command, commit, steps,
scores and the counts of each picture, from which `table` computes differences and their paired
intervals anew. Rows of one base and seed see the same pictures in the same order and start from
the same weights wherever their networks are alike.
"""

import argparse
import csv
import json
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_rows import BASES, ROWS
from ablation_tables import RESULTS, tables
from measuring import machine

import atrous
from atrous.build import build
from atrous.classes import unlabelled
from atrous.data.dataset import Dataset
from atrous.data.opening import open_dataset
from atrous.data.scenes.procedural import scenes as painted
from atrous.data.scenes.procedural import scenes_split
from atrous.data.splitting import Subset
from atrous.encoder import resnet
from atrous.evaluation.boundary import Boundaries
from atrous.evaluation.evaluator import Outcome
from atrous.evaluation.metrics import Counts, iou
from atrous.training import checkpoint
from atrous.training.config import TrainConfig
from atrous.weights.edit_classes import graft

DOCUMENT = Path(__file__).parent.parent / "docs" / "ablations.md"
SHARED = Path("../shared")
HELD_OUT, PICTURES = 7_000_000, 200  # a seed no run trains on


def config_of(base: str, row: str, seed: int) -> TrainConfig:
    """Returns the run of a row, which still lacks its start weights."""
    return BASES[base].config.changed(**ROWS[base][row].changes, seed=seed)


def data_of(base: str, seed: int) -> tuple[Dataset, Dataset, Dataset]:
    """Returns what a row trains on, what the run checks itself on, and what it is measured on."""
    name = BASES[base].data
    if name == "scenes":
        return scenes_split("train", seed), painted(1, 20), painted(HELD_OUT, PICTURES)
    folder = SHARED / "data" / name
    held_out = open_dataset(folder, "val")
    step = len(held_out) // 2 if name == "voc2012" else 8
    check = Subset(held_out, range(0, len(held_out), step), f"every {step}th")
    return open_dataset(folder, "train_aug" if name == "voc2012" else "train"), check, held_out


def start_of(base: str, seed: int, num_classes: int, runs: Path) -> str | None:
    """Returns what to graft: a file, or its backbone or encoder in the reference's network."""
    chosen = BASES[base]
    if not chosen.start:
        return None
    source = SHARED / "weights" / chosen.start
    if chosen.taken == "whole":
        return str(source)
    path = runs / f"start-{base}-{seed}.safetensors"
    if not path.exists():
        torch.manual_seed(seed)
        network = replace(chosen.config.network, num_classes=num_classes)
        if chosen.taken == "encoder":
            model, _ = graft(atrous.load(source), network)
            model.decoder = build(model.architecture).decoder
        else:
            model = atrous.create_model(
                "mobilenet_v2",
                num_classes=num_classes,
                atrous_rates=network.atrous_rates,
                pretrained=source,
            )
        atrous.save(model, path)
    return str(path)


def trained(base: str, row: str, seed: int, runs: Path) -> Path:
    """Trains a row, or goes on with it, and returns its run folder."""
    out = runs / f"{base}-{row}-{seed}"
    train_data, check_data, _ = data_of(base, seed)
    start = start_of(base, seed, len(train_data.classes), runs)
    config = replace(config_of(base, row, seed), weights=start, graft=start is not None)
    if not (out / "finished").exists():
        resume = (out / "checkpoints").exists()
        atrous.train(config, out, resume=resume, data=(train_data, check_data))
        (out / "finished").touch()
    return out


def last_of(run: Path) -> atrous.DeepLabV3Plus:
    """Returns the network at the end of a run: `best` would be chosen by the pictures it checks."""
    model = atrous.load(run)
    last = checkpoint.load_newest(run / "checkpoints")
    assert last is not None
    model.load_state_dict(dict(last.tensors.get("average", last.tensors["model"])))
    return model


def measure(base: str, name: str, seed: int, runs: Path) -> None:
    """Trains and evaluates a row, unless its result is there."""
    result = RESULTS / f"{base}-{name}-{seed}.json"
    if result.exists():
        return
    if "backbones" in base:
        resnet.UNITS["resnet50"] = (3, 4, 6, 2)  # with the last unit it has more multiply-adds
    row, config = ROWS[base][name], config_of(base, ROWS[base][name].of or name, seed)
    run = trained(base, row.of or name, seed, runs)
    model = last_of(run)
    if row.settled:
        settle(model, data_of(base, seed)[0])
    scores, bands = scores_of(model, base, seed, row.evaluation)
    np.save(runs / f"{base}-{name}-{seed}.bands.npy", bands)
    model.set_output_stride(row.evaluation.get("output_stride", config.network.output_stride))
    content = {
        "changes": {**row.changes, **row.evaluation},
        "command": f"python benchmarks/ablations.py train {base} {name} --seeds {seed}",
        "commit": commit(),
        "steps": config.steps,
        "multiply_adds": multiply_adds(model, config.crop_size, row.evaluation),
        "parameters": atrous.parameters(model),
        "machine": machine("torch"),
        "curve": [] if row.of else curve_of(run),
    }
    write(result, {"base": base, "row": name, "seed": seed, **content, **scores})


def settle(model: atrous.DeepLabV3Plus, data: Dataset) -> None:
    """Measures the statistics of batch norm anew, on 160 training pictures in batches of four.

    The batches take pictures from all over the data: neighbours may be of one drive.

    A short run from random weights ends with statistics of weights it no longer has.
    """
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with torch.no_grad():
        for batch in np.linspace(0, len(data) - 1, 160, dtype=int).reshape(4, 40).T:
            images = np.stack([data[int(index)].image for index in batch])
            model(torch.from_numpy(images).permute(0, 3, 1, 2))
    model.eval()


def scores_of(
    model: Any, base: str, seed: int, evaluation: Mapping[str, Any]
) -> tuple[dict[str, Any], Counts]:
    """Evaluates a network.

    Returns:
        What the tables are made from: scores, and each picture's counts; and the counts of each
        picture's bands of 1 to 40 pixels, (N, 40, 3, K).
    """
    bands: list[Counts] = []

    def keep(outcome: Outcome) -> None:
        k = len(outcome.palette)
        one = Boundaries(k, unlabelled(k), BASES[base].trimap)
        one.update(outcome.target, outcome.labels)
        bands.append(one.bands)

    scores = atrous.evaluate(
        model,
        data_of(base, seed)[2],
        classes=BASES[base].classes,
        trimap=None,
        on_picture=keep,
        **evaluation,
    )
    chosen = list(scores.chosen or range(len(scores.classes)))
    by_picture = np.stack(bands)[..., chosen]
    return {
        "mean_iou": scores.mean_iou,
        "trimap": [float(np.nanmean(iou(*counts))) for counts in by_picture.sum(0)],
        "classes": [scores.classes[i] for i in chosen],
        "per_picture": scores.per_picture[:, :, chosen].tolist(),
        "narrowest": by_picture[:, 0].tolist(),
    }, by_picture


def curve_of(run: Path) -> list[list[float]]:
    """Returns updates, loss since the row before, and mean IoU on the pictures a run checks."""
    with (run / "metrics.csv").open() as file:
        rows = csv.DictReader(file)
        return [[float(row[name]) for name in ("step", "loss", "mean_iou")] for row in rows]


def multiply_adds(
    model: atrous.DeepLabV3Plus, size: tuple[int, int], evaluation: Mapping[str, Any]
) -> int:
    """Counts those of all versions of a picture of the crop's size."""
    total = 0
    for scale in evaluation.get("scales", (1.0,)):
        height, width = (int((side - 1) * scale + 1) for side in size)
        total += atrous.multiply_adds(model, (height, width))
    return total * (2 if evaluation.get("flip") else 1)


def commit() -> str:
    """Names the code that is running."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a result in as few characters as JSON takes."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    training = actions.add_parser("train")
    training.add_argument("base", choices=BASES)
    training.add_argument("rows", nargs="+")
    training.add_argument("--seeds", default="0")
    training.add_argument("--runs", type=Path, required=True)
    actions.add_parser("table")
    actions.add_parser("document")
    asked = parser.parse_args()
    if asked.action != "train":
        lines = "\n".join(tables()).strip()
        if asked.action == "table":
            print(lines)
        else:
            head, heading, old = DOCUMENT.read_text().partition("\n## Tables\n")
            _, method, rest = old.partition("\n## Method\n")
            DOCUMENT.write_text(f"{head}{heading}\n{lines}\n{method}{rest}")
        return
    for seed in map(int, asked.seeds.split(",")):
        for row in asked.rows:
            measure(asked.base, row, seed, asked.runs)


if __name__ == "__main__":
    main()
