#!/usr/bin/env python3
"""Scores a model of street scenes on what `scripts/street_data.py` made: 19 classes, and 11 merged.

python scripts/street_scores.py runs/street --data street_data [--split test] [--stride 8]

Cityscapes' pictures are scored in its 19 classes; both sets in CamVid's eleven, into which the 19
are merged after the network has chosen one for each pixel. A model of CamVid's own classes is
scored in the eleven alone.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atrous.classes import CAMVID, CITYSCAPES
from atrous.data.opening import open_dataset
from atrous.evaluation.metrics import class_iou, confusion_matrix, mean_iou
from atrous.evaluation.networks import open_network, prepared
from atrous.evaluation.uncertainty import interval, mean_iou_resamples
from atrous.evaluation.views import Views, segment

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
    """Prints the scores of one split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run folder, a model file or a built-in name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--stride", type=int, help="output stride; the model's if not given")
    asked = parser.parse_args()
    data = open_dataset(asked.data, asked.split)
    network, facts = open_network(asked.model)
    known = facts["classes"]
    counts: dict[str, list[Any]] = {"cityscapes": [], "camvid": []}
    with prepared(network, asked.stride):
        for index, name in enumerate(data.names):
            image, target = data[index]
            labels, _ = segment(network, image, Views((1.0,), False, None, None), where=name)
            merged = merging(known)[labels]
            truth = merging(data.classes)[target]
            pair = [confusion_matrix(truth, merged, len(MERGED))]
            if known == data.classes:
                pair.append(confusion_matrix(target, labels, len(known)))
            counts[Path(name).name.partition("_")[0]].append(pair)
    for source, classes, which in (
        ("cityscapes", CITYSCAPES.classes, 1),
        ("cityscapes", tuple(MERGED), 0),
        ("camvid", tuple(MERGED), 0),
    ):
        if all(len(pair) > which for pair in counts[source]):
            show(source, asked.split, classes, [pair[which] for pair in counts[source]])


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


def show(source: str, split: str, classes: tuple[str, ...], counts: list[Any]) -> None:
    """Prints the mean IoU with its interval, and every class, the weakest first."""
    total = np.sum(counts, axis=0)
    per_picture = np.stack([[np.diagonal(c), c.sum(1), c.sum(0)] for c in counts])
    low, high = interval(mean_iou_resamples(per_picture))
    print(
        f"{source} {split}, {len(counts)} pictures, {len(classes)} classes: mean IoU "
        f"{mean_iou(total):.4f} ({low:.4f} to {high:.4f})"
    )
    scores = class_iou(total)
    weakest = np.argsort(scores)
    print("  " + ", ".join(f"{classes[index]} {scores[index]:.3f}" for index in weakest))


if __name__ == "__main__":
    main()
