#!/usr/bin/env python3
"""Makes a built-in model of a finished run: atrous/trained/NAME.onnx and docs/models/NAME.md.

python scripts/release.py animals runs/animals --data VOC2012 --mix 0.3
python scripts/release.py street runs/street --data camvid

With --mix, weights lie on the line between those the run started from and those it ended with,
which keeps more of what the start knew (Wortsman et al., "Robust fine-tuning of zero-shot models",
CVPR 2022); it needs batch norm to have been frozen. They are kept with all classes in weights/.
The classifier then keeps the classes that at least 20 training pictures show. The file is written
in 16 bits, or in 8 with --int8, and both it and the float model are evaluated on the run's
validation pictures: the card says what the smaller file costs.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import atrous
from atrous.classes import ClassTable
from atrous.data.dataset import Dataset
from atrous.data.opening import open_dataset
from atrous.engines.exported_file import Header
from atrous.export.export import export
from atrous.export.int8 import quantize
from atrous.training import random_state
from atrous.training.config import read_config, to_json
from atrous.training.setup import create_network

ROOT = Path(__file__).parents[1]
SHOWN = 20  # training pictures a class must be in


class Terms(NamedTuple):
    """What a file says about who may use it, and who it owes thanks to."""

    licence: str
    notes: tuple[str, ...]


# Classes the mean is over, where validation pictures show others too rarely to say anything.
SCORED = {"animals": ("background", "cat", "cow", "dog", "horse", "person", "sheep")}

TERMS = {
    "animals": Terms(
        "research use: trained on PASCAL VOC 2012 pictures, which are Flickr's under its terms; "
        "start weights Apache-2.0",
        (
            "training pictures: PASCAL VOC 2012 (Everingham et al.), masks of VOC and of SBD "
            "(Hariharan et al., ICCV 2011)",
            "started from Google's deeplabv3_mnv2_pascal (Apache-2.0), itself trained on COCO and "
            "VOC",
        ),
    ),
    "street": Terms(
        "personal and research use: trained on CamVid; start weights Apache-2.0",
        (
            "training pictures: CamVid (Brostow, Fauqueur, Cipolla: Semantic object classes in "
            "video, 2009), in the 11 classes and 480x360 pixels of SegNet's tutorial",
            "started from MLCommons' deeplabv3_mnv2_ade20k (Apache-2.0), trained by Google on "
            "ADE20K",
        ),
    ),
}


def main() -> None:
    """Releases the model the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(TERMS))
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--mix", type=float, default=1.0, help="share of the run's own weights")
    parser.add_argument("--stride", type=int, help="output stride to ship; the run's if not given")
    asked = parser.parse_args()
    config = read_config(asked.run / "config.json")
    train_data = open_dataset(asked.data, config.train_split)
    val_data = open_dataset(asked.data, config.val_split)

    model = atrous.load(asked.run)
    random_state.seed(config.seed)  # what the run began with at random is part of its start
    start = create_network(config, train_data)
    if asked.mix != 1:
        mix(model, start, asked.mix)
    atrous.save(model, ROOT / "weights" / f"{asked.name}.safetensors", half=True)
    kept = shown_classes(train_data)
    if len(kept) < len(model.classes):
        atrous.change_classes(model, ClassTable("kept", *kept_table(model, kept)))
    if asked.stride:
        model.set_output_stride(asked.stride)
    best = best_row(asked.run)
    model.provenance = start.provenance
    assert model.provenance.training is not None
    model.provenance.training = replace(
        model.provenance.training,
        mean_iou=None,
        evaluated_on=f"{asked.data.name} {config.val_split}, step {best['step']}",
    )
    model.provenance.licence, notes = TERMS[asked.name]
    model.provenance.notes = list(notes)
    if asked.mix != 1:
        model.provenance.notes.append(
            f"weights: {asked.mix:g} of the run's and {1 - asked.mix:g} of those it started from"
        )

    scores = atrous.evaluate(model, val_data, classes=SCORED.get(asked.name), trimap=None)
    model.provenance.training = replace(model.provenance.training, mean_iou=scores.mean_iou)

    out = ROOT / "atrous" / "trained" / f"{asked.name}.onnx"
    out.parent.mkdir(exist_ok=True)
    if asked.int8:
        samples = [train_data[i] for i in range(0, len(train_data), len(train_data) // 64)]
        images, targets = [s.image for s in samples], [s.target for s in samples]
        header = quantize(model, out, images, targets=targets).header
    else:
        header = export(model, out, half=True)
    write_card(asked.name, header, out, asked.run, compare(model, out, val_data))


def mix(model: atrous.DeepLabV3Plus, start: atrous.DeepLabV3Plus, share: float) -> None:
    """Moves a model's weights towards those it started from; `share` of its own stay."""
    before = start.state_dict()
    mixed = {
        name: torch.lerp(before[name], value, share) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(mixed)


def shown_classes(data: Dataset) -> list[str]:
    """Returns the classes that enough pictures of a data set show."""
    pictures = np.zeros(len(data.classes), np.int64)
    for index in range(len(data)):
        labels = np.unique(data[index].target)
        pictures[labels[labels < len(pictures)]] += 1
    return [name for name, n in zip(data.classes, pictures, strict=True) if n >= SHOWN]


def kept_table(model: atrous.DeepLabV3Plus, kept: Sequence[str]) -> tuple[Any, Any]:
    """Returns names and colours of the classes that stay."""
    colors = dict(zip(model.classes, model.palette, strict=True))
    return tuple(kept), tuple(colors[name] for name in kept)


def best_row(run: Path) -> dict[str, str]:
    """Returns the row of metrics.csv whose model the run kept."""
    header, *rows = (line.split(",") for line in (run / "metrics.csv").read_text().split())
    return max((dict(zip(header, row, strict=True)) for row in rows), key=lambda r: r["mean_iou"])


def compare(model: atrous.DeepLabV3Plus, path: Path, data: Dataset) -> dict[str, Any]:
    """Evaluates the float model and the file on the same pictures, and counts equal labels."""
    predictors = atrous.Predictor(model), atrous.Predictor(path)
    equal = pixels = 0
    for index in range(len(data)):
        whole, small = (predictor(data[index].image).labels for predictor in predictors)
        equal, pixels = equal + int((whole == small).sum()), pixels + whole.size
    scores = [
        atrous.evaluate(m, data, classes=SCORED.get(path.stem), trimap=None)
        for m in (model, str(path))
    ]
    return {"agreement": equal / pixels, "float": scores[0], "file": scores[1]}


def write_card(name: str, header: Header, path: Path, run: Path, measured: dict[str, Any]) -> None:
    """Writes docs/models/NAME.md, with the curves of the run beside it."""
    folder = ROOT / "docs" / "models"
    folder.mkdir(exist_ok=True)
    shutil.copy(run / "curves.png", folder / f"{name}_curves.png")
    shutil.copy(run / "metrics.csv", folder / f"{name}_metrics.csv")
    config = read_config(run / "config.json")
    named = replace(config, data=Path(config.data).name, weights=Path(str(config.weights)).name)
    (folder / f"{name}_config.json").write_text(to_json(named) + "\n")
    whole, file = measured["float"], measured["file"]
    training = header.training
    over = f" of {', '.join(SCORED[name])}" if name in SCORED else ""
    rows = [
        f"| {label} | {whole.class_iou[label]:.4f} | {file.class_iou[label]:.4f} |"
        for label in header.classes
        if whole.class_iou[label] is not None
    ]
    lines = [
        f"# {name}",
        "",
        f"`atrous predict PICTURE --model {name}`",
        "",
        f"DeepLabv3+ with {header.backbone} at output stride {header.output_stride}; "
        f"{path.stat().st_size / 1e6:.1f} MB, {header.precision}.",
        f"Classes: {', '.join(header.classes)}.",
        "",
        "| | |",
        "|---|---|",
        f"| trained by | `{header.source}`, {training['steps']} steps of {training['batch_size']} "
        f"crops of {training['crop_size'][0]}x{training['crop_size'][1]} |",
        f"| data | {training['data']} |",
        f"| started from | {training['initial_weights']} |",
        f"| terms | {header.licence} |",
        *(f"| | {note} |" for note in header.notes),
        f"| hash of the graph | {header.sha256} |",
        "",
        f"On {training['evaluated_on'].split(',')[0]}, whole pictures at their own size:",
        "",
        "| class | IoU, float model | IoU, this file |",
        "|---|---|---|",
        *rows,
        f"| **mean{over}** | {whole.mean_iou:.4f} | {file.mean_iou:.4f} |",
        "",
        f"The file gives {100 * measured['agreement']:.2f} % of the pixels the float model's "
        "label.",
        "",
        f"![Loss and mean IoU over the run]({name}_curves.png)",
        "",
        f"Every number of the run: [{name}_config.json]({name}_config.json), "
        f"[{name}_metrics.csv]({name}_metrics.csv).",
        "",
    ]
    (folder / f"{name}.md").write_text("\n".join(lines))
    print(json.dumps({"mean_iou": [whole.mean_iou, file.mean_iou], **vars(header)}, indent=1))


if __name__ == "__main__":
    main()
