#!/usr/bin/env python3
"""Scores a model of street scenes on what `scripts/street_data.py` made: 19 classes, and 11 merged.

python scripts/street_scores.py runs/street --data street_data [--split test] [--stride 8]

Cityscapes' pictures are scored in its 19 classes; both sets in CamVid's eleven, into which the 19
are merged after the network has chosen one for each pixel. A model of CamVid's own classes is
scored in the eleven alone.

With --others, a folder of pictures that are no streets, it also says how many of their pixels and
of the streets' have no class of at least some probability: what `--unknown` makes unknown.
"""

import argparse
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
    """Prints the scores of one split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run folder, a model file or a built-in name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--stride", type=int, help="output stride; the model's if not given")
    parser.add_argument("--others", type=Path, help="a folder of pictures that are no streets")
    asked = parser.parse_args()
    network, facts = open_network(asked.model)
    with prepared(network, asked.stride):
        unsure = show_scores(network, facts["classes"], asked.data, asked.split)
        if asked.others:
            show_unsure("streets", unsure)
            paths = sorted(asked.others.iterdir())[:OTHERS]
            pictures = (np.asarray(read_image(path)) for path in paths)
            show_unsure("others", [below(segment(network, p, Views())[1]) for p in pictures])


def show_scores(network: Network, known: tuple[str, ...], path: Path, split: str) -> list[Any]:
    """Prints the scores of a split, and returns each picture's shares of unsure pixels."""
    data = open_dataset(path, split)
    counts: dict[str, list[Any]] = {"cityscapes": [], "camvid": []}
    unsure = []
    for index, name in enumerate(data.names):
        image, target = data[index]
        labels, probabilities = segment(network, image, Views(), where=name)
        unsure.append(below(probabilities))
        truth, merged = merging(data.classes)[target], merging(known)[labels]
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
            show(source, split, classes, [pair[which] for pair in counts[source]])
    return unsure


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
