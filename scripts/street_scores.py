#!/usr/bin/env python3
"""Scores a model of street scenes on what `scripts/street_data.py` made: 19 classes, and 11 merged.

python scripts/street_scores.py runs/street --data street_data [--split test] [--stride 8]
python scripts/street_scores.py street --data street_data --write "3,300 updates"

Cityscapes' pictures are scored in its 19 classes; both sets in CamVid's eleven, into which the 19
are merged after the network has chosen one for each pixel. A model of CamVid's own classes is
scored in the eleven alone.

With --write, the scores go into benchmarks/results/street_scores.json under the name given, and
`python benchmarks/tables.py --write` makes a column of docs/results.md of them: a new name is the
last column.

With --others, a folder of pictures that are no streets, it also says how many of their pixels and
of the streets' have no class of at least some probability: what `--unknown` makes unknown.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atrous.classes import CAMVID, CITYSCAPES
from atrous.data.opening import open_dataset
from atrous.evaluation.metrics import class_iou, confusion_matrix, mean_iou
from atrous.evaluation.networks import Network, open_network, prepared
from atrous.evaluation.uncertainty import interval, mean_iou_resamples
from atrous.evaluation.views import Views, segment
from atrous.images.decode import read_image

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "street_scores.json"
OTHERS = 200  # pictures, at most
THRESHOLDS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

MERGED = {
    "Sky": ("sky",),
    "Building": ("building", "wall"),
    "Pole": ("pole",),
    "Road": ("road",),
    "Pavement": ("sidewalk",),
    "Tree": ("vegetation", "terrain"),
    "SignSymbol": ("traffic sign", "traffic light"),
    "Fence": ("fence",),
    "Car": ("car", "truck", "bus", "train"),
    "Pedestrian": ("person",),
    "Bicyclist": ("rider", "bicycle", "motorcycle"),
}


def main() -> None:
    """Prints the scores of each split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run folder, a model file or a built-in name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", nargs="+", default=["val", "test"])
    parser.add_argument("--stride", type=int, help="output stride; the model's if not given")
    parser.add_argument("--others", type=Path, help="a folder of pictures that are no streets")
    parser.add_argument("--write", metavar="NAME", help="keep the scores as this column")
    asked = parser.parse_args()
    network, facts = open_network(asked.model)
    found = {}
    with prepared(network, asked.stride):
        for split in asked.split:
            found[split], unsure = measure(network, facts["classes"], asked.data, split)
            for what, scores in found[split].items():
                show(f"{what}, {split}", scores)
            if asked.others:
                show_unsure(f"streets of {split}", unsure)
        if asked.write:
            write(asked.write, found)
        if asked.others:
            paths = sorted(asked.others.iterdir())[:OTHERS]
            pictures = (np.asarray(read_image(path)) for path in paths)
            show_unsure("others", [below(segment(network, p, Views())[1]) for p in pictures])


def measure(
    network: Network, known: tuple[str, ...], path: Path, split: str
) -> tuple[dict[str, Any], list[Any]]:
    """Returns the scores of a split by set and number of classes, and shares of unsure pixels."""
    data = open_dataset(path, split)
    counts: dict[str, list[Any]] = {}
    unsure = []
    for index, name in enumerate(data.names):
        image, target = data[index]
        labels, probabilities = segment(network, image, Views(), where=name)
        unsure.append(below(probabilities))
        source = Path(name).name.partition("_")[0]
        truth, merged = merging(data.classes)[target], merging(known)[labels]
        eleven = confusion_matrix(truth, merged, len(MERGED))
        counts.setdefault(f"{source}, {len(MERGED)} classes", []).append(eleven)
        if known == data.classes and source == "cityscapes":
            nineteen = confusion_matrix(target, labels, len(known))
            counts.setdefault(f"{source}, {len(known)} classes", []).append(nineteen)
    return {what: scores_of(matrices) for what, matrices in counts.items()}, unsure


def scores_of(counts: list[Any]) -> dict[str, Any]:
    """Returns the mean IoU of confusion matrices of pictures, its interval, and every class."""
    per_picture = np.stack([[np.diagonal(c), c.sum(1), c.sum(0)] for c in counts])
    low, high = interval(mean_iou_resamples(per_picture))
    total = np.sum(counts, axis=0)
    classes = tuple(MERGED) if len(total) == len(MERGED) else CITYSCAPES.classes
    return {
        "pictures": len(counts),
        "mean_iou": round(mean_iou(total), 5),
        "interval": [round(low, 5), round(high, 5)],
        "class_iou": dict(zip(classes, class_iou(total).round(5).tolist(), strict=True)),
    }


def show_unsure(kind: str, shares: list[Any]) -> None:
    """Prints how many pixels have no class of at least each probability."""
    means = zip(THRESHOLDS, np.mean(shares, axis=0), strict=True)
    listed = ", ".join(f"{100 * share:.1f} % below {threshold}" for threshold, share in means)
    print(f"{len(shares)} {kind}: {listed}")


def below(probabilities: Any) -> list[float]:
    """Returns the share of pixels (h, w, K) whose likeliest class is below each threshold."""
    confidence = probabilities.max(-1)
    return [float((confidence < threshold).mean()) for threshold in THRESHOLDS]


def merging(classes: Sequence[str]) -> Any:
    """Returns the merged class by label value, (256,); 255 is unlabelled."""
    values = np.full(256, 255, np.uint8)
    if tuple(classes) == CAMVID.classes:
        values[: len(classes)] = range(len(classes))
        return values
    for index, (_, parts) in enumerate(MERGED.items()):
        for part in parts:
            values[list(classes).index(part)] = index
    return values


def show(what: str, scores: dict[str, Any]) -> None:
    """Prints the mean IoU with its interval, and every class, the weakest first."""
    low, high = scores["interval"]
    mean = scores["mean_iou"]
    print(f"{what}, {scores['pictures']} pictures: mean IoU {mean:.4f} ({low:.4f} to {high:.4f})")
    weakest = sorted(scores["class_iou"].items(), key=lambda row: row[1])
    print("  " + ", ".join(f"{name} {score:.3f}" for name, score in weakest), flush=True)


def write(name: str, found: dict[str, Any]) -> None:
    """Keeps scores among those of other models."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**kept, name: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
