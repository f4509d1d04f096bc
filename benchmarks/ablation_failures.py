"""Draws where the networks of `ablations.py` fail, as label maps: the paper's Fig. 6, last row.

    python benchmarks/ablation_failures.py animals --runs RUNS

The pictures of lowest mean IoU of the row `decoder`, seed 0, each with its true labels, those of
`decoder` and those of `bilinear`, side by side. Unlabelled pixels are white. Writes
docs/figures/ablation_failures_BASE.png and prints what is on it.
"""

import argparse
from pathlib import Path

import ablations
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import atrous
from atrous.evaluation.evaluator import Outcome
from atrous.metrics import iou
from atrous.visualize import brightened

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
ROWS, HEIGHT, GAP = 6, 128, 4


def outcomes(base: str, row: str, runs: Path) -> tuple[list[Outcome], NDArray[np.float64]]:
    """Returns each held-out picture's result, without the picture, and its mean IoU."""
    found: list[Outcome] = []
    model = atrous.load(ablations.trained(base, row, 0, runs))
    scores = atrous.evaluate(
        model,
        ablations.data_of(base, 0)[2],
        classes=ablations.BASES[base].classes,
        trimap=None,
        on_picture=lambda outcome: found.append(outcome._replace(image=np.empty(0, np.uint8))),
    )
    return found, np.array([np.nanmean(iou(*counts)) for counts in scores.per_picture])


def drawn(labels: NDArray[np.uint8], outcome: Outcome) -> Image.Image:
    """Returns a label map in colours, `HEIGHT` pixels high; unlabelled pixels are white."""
    colors = np.full((256, 3), 255, np.uint8)
    colors[: len(outcome.palette)] = brightened(outcome.palette)
    height, width = labels.shape
    picture = Image.fromarray(colors[np.where(outcome.target == 255, 255, labels)])
    return picture.resize((round(width * HEIGHT / height), HEIGHT), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", choices=("scenes", "animals"))
    parser.add_argument("--runs", type=Path, required=True)
    asked = parser.parse_args()
    decoder, scores = outcomes(asked.base, "decoder", asked.runs)
    bilinear, others = outcomes(asked.base, "bilinear", asked.runs)
    classes = ablations.data_of(asked.base, 0)[2].classes
    lines = []
    for index in np.argsort(scores)[:ROWS]:
        one, two = decoder[index], bilinear[index]
        lines.append([drawn(one.target, one), drawn(one.labels, one), drawn(two.labels, two)])
        seen = [
            ", ".join(f"{classes[c]} {share:.0%}" for c, share in _shares(labels, one.target))
            for labels in (one.target, one.labels, two.labels)
        ]
        print(f"{one.name}: {scores[index]:.3f}, {others[index]:.3f}\n  " + "\n  ".join(seen))
    width = max(sum(part.width + GAP for part in line) for line in lines)
    sheet = Image.new("RGB", (width, len(lines) * (HEIGHT + GAP)), "white")
    for row, line in enumerate(lines):
        x = 0
        for part in line:
            sheet.paste(part, (x, row * (HEIGHT + GAP)))
            x += part.width + GAP
    sheet.quantize(64).save(FIGURES / f"ablation_failures_{asked.base}.png", optimize=True)


def _shares(labels: NDArray[np.uint8], target: NDArray[np.uint8]) -> list[tuple[int, float]]:
    counts = np.bincount(labels[target != 255], minlength=1)
    shares = counts / max(1, counts.sum())
    return [(int(c), float(shares[c])) for c in np.argsort(-shares) if shares[c] >= 0.005]


if __name__ == "__main__":
    main()
