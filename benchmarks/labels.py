"""Coarse logits to labels: ours against torch's interpolate + argmax and interpolate + max.

python benchmarks/labels.py VOC_FOLDER MODEL.onnx [--pictures N]

The logits are those of real pictures, 129 x 129 x 21: the pictures are resized to 513 x 513 and
MODEL decodes at stride 4; of more than 21 classes the first 21 are taken. All val pictures are
used unless fewer are asked for, and the share of cells that had to be interpolated is printed.
Labels of all three are compared: ours and torch's may differ only where torch's own arithmetic
rounds differently.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measuring import interleave, machine, save
from PIL import Image

from atrous.engines.machine import usable_processors
from atrous.engines.openvino import ExportedEngine
from atrous.predict.upsample import labels, plain_labels, undecided_share

SIZE = (513, 513)
CLASSES = 21


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("voc", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--pictures", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(usable_processors())
    engine = ExportedEngine(arguments.model)
    names = next(arguments.voc.rglob("Segmentation/val.txt")).read_text().split()
    medians: dict[str, list[float]] = {}
    shares, differing, unequal = [], 0, 0
    for name in names[: arguments.pictures]:
        path = next(arguments.voc.rglob(f"JPEGImages/{name}.jpg"))
        picture = Image.open(path).convert("RGB").resize(SIZE[::-1])
        coarse = np.ascontiguousarray(engine.coarse_logits(np.asarray(picture))[..., :CLASSES])
        planes = torch.from_numpy(coarse).permute(2, 0, 1)[None].contiguous()
        times = interleave(candidates(coarse, planes), rounds=1, warm_up=0, untimed=1)
        for candidate, time in times.items():
            medians.setdefault(candidate, []).append(time["median_ms"])
        shares.append(undecided_share(coarse))
        found = labels(coarse, 4, SIZE)
        unequal += int((found != plain_labels(coarse, 4, SIZE)).sum())
        differing += int((found != upsampled(planes).argmax(1)[0].numpy()).sum())
    times = {name: float(np.median(values)) for name, values in medians.items()}
    ours = times["ours"]
    save(
        "labels",
        {
            "what": "129 x 129 x 21 coarse logits to 513 x 513 labels, median over pictures",
            "pictures": len(shares),
            "milliseconds": {name: round(value, 2) for name, value in times.items()},
            "ratios": {n: round(value / ours, 1) for n, value in times.items() if n != "ours"},
            "undecided_cells": {
                "median": round(float(np.median(shares)), 4),
                "largest": round(max(shares), 4),
            },
            "pixels_unlike_plain": unequal,
            "pixels_unlike_torch": differing,
            "machine": machine("numpy", "torch"),
        },
    )


def candidates(coarse: np.ndarray, planes: torch.Tensor):
    return {
        "ours": lambda: labels(coarse, 4, SIZE),
        "torch interpolate + argmax": lambda: upsampled(planes).argmax(1),
        "torch interpolate + max": lambda: upsampled(planes).max(1)[1],
    }


def upsampled(planes: torch.Tensor) -> torch.Tensor:
    return F.interpolate(planes, SIZE, mode="bilinear", align_corners=True)


if __name__ == "__main__":
    main()
