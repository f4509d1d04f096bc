#!/usr/bin/env python3
"""Makes a built-in model of a finished run: atrous/trained/NAME.onnx and docs/models/NAME.md.

python scripts/release.py animals runs/animals --data VOC2012
python scripts/release.py street runs/street --data camvid

The classifier keeps the classes that at least 20 training pictures show. The file is written in 16
bits, or in 8 with --int8, and both it and the float model are evaluated on the run's validation
pictures: the card says what the smaller file costs.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import atrous
from atrous.classes import ClassTable
from atrous.config import read_config
from atrous.data.dataset import Dataset
from atrous.data.opening import open_dataset
from atrous.export import export
from atrous.onnx_file import Header
from atrous.quantize import quantize
from atrous.training.starting import origin

ROOT = Path(__file__).parents[1]
SHOWN = 20  # training pictures a class must be in


class Terms(NamedTuple):
    """What a file says about who may use it, and who it owes thanks to."""

    licence: str
    notes: tuple[str, ...]


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
    parser.add_argument("--stride", type=int, help="output stride to ship; the run's if not given")
    asked = parser.parse_args()
    config = read_config(asked.run / "config.json")
    train_data = open_dataset(asked.data, config.train_split)
    val_data = open_dataset(asked.data, config.val_split)

    model = atrous.load(asked.run)
    start = atrous.load(str(config.weights)).provenance
    kept = shown_classes(train_data)
    if len(kept) < len(model.classes):
        atrous.change_classes(model, ClassTable("kept", *kept_table(model, kept)))
    if asked.stride:
        model.set_output_stride(asked.stride)
    best = best_row(asked.run)
    model.provenance = origin(config, replace(start, notes=[]))
    assert model.provenance.training is not None
    model.provenance.training = replace(
        model.provenance.training,
        mean_iou=float(best["mean_iou"]),
        evaluated_on=f"{asked.data.name} {config.val_split}, step {best['step']}",
    )
    model.provenance.licence, notes = TERMS[asked.name]
    model.provenance.notes = list(notes)

    out = ROOT / "atrous" / "trained" / f"{asked.name}.onnx"
    out.parent.mkdir(exist_ok=True)
    if asked.int8:
        pictures = [train_data[i].image for i in range(0, len(train_data), len(train_data) // 64)]
        header = quantize(model, out, pictures, budget=0.005).header
    else:
        header = export(model, out, half=True)
    atrous.save(model, ROOT / "weights" / f"{asked.name}.safetensors", half=True)
    write_card(asked.name, header, out, asked.run, compare(model, out, val_data))


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
        atrous.evaluate(m, data, classes=model.classes, trimap=None) for m in (model, str(path))
    ]
    return {"agreement": equal / pixels, "float": scores[0], "file": scores[1]}


def write_card(name: str, header: Header, path: Path, run: Path, measured: dict[str, Any]) -> None:
    """Writes docs/models/NAME.md, with the curves of the run beside it."""
    folder = ROOT / "docs" / "models"
    folder.mkdir(exist_ok=True)
    shutil.copy(run / "curves.png", folder / f"{name}_curves.png")
    shutil.copy(run / "metrics.csv", folder / f"{name}_metrics.csv")
    shutil.copy(run / "config.json", folder / f"{name}_config.json")
    whole, file = measured["float"], measured["file"]
    training = header.training
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
        f"| **mean** | {whole.mean_iou:.4f} | {file.mean_iou:.4f} |",
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
