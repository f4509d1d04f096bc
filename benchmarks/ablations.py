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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
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
from atrous.evaluation.boundary import Boundaries
from atrous.evaluation.evaluator import Outcome
from atrous.evaluation.metrics import Counts, iou
from atrous.training import checkpoint
from atrous.training.config import TrainConfig
from atrous.training.recipes import camvid, scenes, voc_animals
from atrous.weights.edit_classes import graft

DOCUMENT = Path(__file__).parent.parent / "docs" / "ablations.md"
SHARED = Path("../shared")
HELD_OUT, PICTURES = 7_000_000, 200  # a seed no run trains on
ANIMALS = ("background", "cat", "cow", "dog", "horse", "person", "sheep")
SIX_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # the paper's "MS"


@dataclass(frozen=True)
class Base:
    """What the rows of a table have in common.

    Args:
        config: The run of its reference, `decoder`.
        data: Folder below data/, or scenes.
        start: File below weights/ that all rows start from; "": random weights.
        taken: What of that file is taken; all else is new, and alike in all rows. Of the whole
            file all that fits; a decoder at first passes on what the encoder says.
        classes: Those whose mean IoU counts; None: all.
        trimap: Where the band of the trimap starts.
    """

    config: TrainConfig
    data: str = "scenes"
    start: str = ""
    taken: Literal["backbone", "encoder", "whole"] = "backbone"
    classes: tuple[str, ...] | None = None
    trimap: Any = "borders"


@dataclass(frozen=True)
class Row:
    """One change.

    Args:
        changes: To the base's config.
        of: The row whose trained network is evaluated in another way; "": one of its own.
        evaluation: How (`atrous.evaluate`).
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    of: str = ""
    evaluation: Mapping[str, Any] = field(default_factory=dict)


_QUIET = {"evaluate_every": 0, "save_every": 100, "samples": 0}
_SCENES = scenes().changed(refine=((3, 256), (3, 256)), steps=400, base_lr=0.002, **_QUIET)
_ANIMALS = replace(
    voc_animals(),
    crop_size=(257, 257),
    scale_range=(1.0, 1.5),
    base_lr=0.0001,
    head_multiplier=3.0,
    freeze_backbone=False,
    **_QUIET,
)
_STREET = camvid().changed(
    crop_size=(193, 257),
    scale_range=(0.75, 1.5),
    steps=600,
    precision="bf16",
    evaluate_every=100,
    save_every=100,
    samples=0,
)
_VOC = {"data": "voc2012", "start": "deeplabv3_mnv2_pascal_quant.tflite", "trimap": "void"}
_ADE20K: dict[str, Any] = {"start": "deeplabv3_mnv2_ade20k_uint8.tflite", "taken": "encoder"}
_IMAGENET = {"start": "tf2_mobilenet_v2_1.0_224_ptq.tflite"}
BASES = {
    "street": Base(_STREET, "camvid", **_ADE20K),
    "cityscapes": Base(_STREET, "cityscapes_small", **_ADE20K),
    "scenes": Base(_SCENES, **_IMAGENET),
    "random": Base(replace(scenes(), steps=500, **_QUIET)),
    "short": Base(replace(_SCENES, steps=200), **_IMAGENET),
    "animals": Base(replace(_ANIMALS, steps=200), taken="whole", classes=ANIMALS, **_VOC),
    "faster": Base(
        replace(_ANIMALS, head_multiplier=20.0, steps=300), taken="whole", classes=ANIMALS, **_VOC
    ),
    "new_heads": Base(
        replace(
            _ANIMALS,
            batch_norm="train",
            batch_norm_momentum=0.03,
            scale_range=(0.75, 1.25),
            base_lr=0.0003,
            head_multiplier=10.0,
            average_decay=0.98,
            steps=160,
        ),
        classes=ANIMALS,
        **_VOC,
    ),
    "xception": Base(
        scenes().changed(backbone="xception41", batch_size=4, steps=150, **_QUIET),
    ),
}

_DECODERS = {
    "decoder": Row(),
    "bilinear": Row({"decoder": False}),
    "dense": Row({"separable": False}),
}
_STRIDES = {
    f"{model}_{stride}{suffix}": Row(of=model, evaluation={"output_stride": stride, **views})
    for model in ("decoder", "bilinear")
    for stride in (32, 16, 8)
    for suffix, views in (
        ("", {}),
        ("_ms", {"scales": SIX_SCALES}),
        ("_ms_flip", {"scales": SIX_SCALES, "flip": True}),
    )
    if (stride, suffix) != (16, "")  # the row itself
}
_LONG = {
    "decoder_long": Row({"steps": 1200}),
    "bilinear_long": Row({"decoder": False, "steps": 1200}),
}
_DETAILS = {
    "one_3x3": Row({"refine": ((3, 256),)}),
    "reduced_8": Row({"reduced_channels": 8}),
    "reduced_64": Row({"reduced_channels": 64}),
}
ROWS: dict[str, dict[str, Row]] = {
    "street": {**_DECODERS, **_LONG, **_DETAILS, **_STRIDES},
    "cityscapes": {**_DECODERS, **_STRIDES},
    "scenes": {**_DECODERS, **_STRIDES},
    "random": _DECODERS,
    "short": {
        **_DECODERS,
        **_DETAILS,
        "reduced_16": Row({"reduced_channels": 16}),
        "reduced_32": Row({"reduced_channels": 32}),
        "three_3x3": Row({"refine": ((3, 256),) * 3}),
        "one_3x3_of_128": Row({"refine": ((3, 128),)}),
        "two_3x3_of_128": Row({"refine": ((3, 128),) * 2}),
        "one_1x1": Row({"refine": ((1, 256),)}),
        "conv3_conv2": Row({"refine": ((3, 256),), "decoder_strides": (8, 4)}),
        "no_image_pooling": Row({"image_pooling": False}),
        "no_atrous_branches": Row({"atrous_rates": ()}),
    },
    "animals": {**_DECODERS, **_STRIDES},
    "faster": _DECODERS,
    "new_heads": _DECODERS,
    "xception": {
        "decoder": Row(),
        "papers_relu": Row({"relu_after_depthwise": True}),
        "resnet50": Row({"backbone": "resnet50", "steps": 170}),  # as many seconds
    },
}


def config_of(base: str, row: str, seed: int) -> TrainConfig:
    """Returns the run of a row, which still lacks its start weights."""
    return BASES[base].config.changed(**ROWS[base][row].changes, seed=seed)


def data_of(base: str, seed: int) -> tuple[Dataset, Dataset, Dataset]:
    """Returns what a row trains on, what the run checks itself on, and what it is measured on."""
    name = BASES[base].data
    if name == "scenes":
        return scenes_split("train", seed), painted(1, 2), painted(HELD_OUT, PICTURES)
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
    row, config = ROWS[base][name], config_of(base, ROWS[base][name].of or name, seed)
    run = trained(base, row.of or name, seed, runs)
    model = last_of(run)
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
        "curve": curve_of(run),
    }
    write(result, {"base": base, "row": name, "seed": seed, **content, **scores})


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
            head, heading, _ = DOCUMENT.read_text().partition("\n## Tables\n")
            DOCUMENT.write_text(f"{head}{heading}\n{lines}\n")
        return
    for seed in map(int, asked.seeds.split(",")):
        for row in asked.rows:
            measure(asked.base, row, seed, asked.runs)


if __name__ == "__main__":
    main()
