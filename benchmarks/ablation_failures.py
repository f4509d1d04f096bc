"""Draws where the networks of `ablations.py` fail, as label maps: the paper's Fig. 6, last row.

    python benchmarks/ablation_failures.py animals --runs RUNS

The held-out pictures with the lowest mean IoU of the row `decoder`, seed 0, by its committed
result: each with its true labels, those of `decoder` and those of `bilinear`, side by side.
Unlabelled pixels are white. Writes docs/figures/ablation_failures_BASE.png and prints what is on
it.
"""

import argparse
import json
from pathlib import Path

import ablations
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import atrous
from atrous.data.dataset import Sample
from atrous.evaluation.evaluator import Outcome
from atrous.evaluation.metrics import iou
from atrous.predict.overlay import brightened

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
PICTURES, HEIGHT, GAP = 6, 128, 4


def scores(base: str, row: str) -> NDArray[np.float64]:
    """Returns the mean IoU of each held-out picture."""
    content = json.loads((ablations.RESULTS / f"{base}-{row}-0.json").read_text())
    return np.array([np.nanmean(iou(*np.array(counts))) for counts in content["per_picture"]])


def outcomes(base: str, row: str, samples: list[Sample], runs: Path) -> list[Outcome]:
    """Returns what a row says of some pictures."""
    found: list[Outcome] = []
    model = atrous.load(ablations.trained(base, row, 0, runs))
    atrous.evaluate(model, samples, trimap=None, on_picture=found.append)  # type: ignore[arg-type]
    return found


def drawn(labels: NDArray[np.uint8], outcome: Outcome) -> Image.Image:
    """Returns a label map in colours, `HEIGHT` pixels high; unlabelled pixels are white."""
    colors = np.full((256, 3), 255, np.uint8)
    colors[: len(outcome.palette)] = brightened(outcome.palette)
    height, width = labels.shape
    picture = Image.fromarray(colors[np.where(outcome.target == 255, 255, labels)])
    return picture.resize((round(width * HEIGHT / height), HEIGHT), Image.Resampling.NEAREST)


def described(labels: NDArray[np.uint8], outcome: Outcome, classes: tuple[str, ...]) -> str:
    """Returns the classes of a label map with their shares of the labelled pixels."""
    counts = np.bincount(labels[outcome.target != 255], minlength=len(classes))
    shares = counts / max(1, counts.sum())
    return ", ".join(f"{classes[c]} {shares[c]:.0%}" for c in np.argsort(-shares) if shares[c])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", choices=("scenes", "animals"))
    parser.add_argument("--runs", type=Path, required=True)
    asked = parser.parse_args()
    data = ablations.data_of(asked.base, 0)[2]
    by_row = {row: scores(asked.base, row) for row in ("decoder", "bilinear")}
    worst = np.argsort(by_row["decoder"])[:PICTURES].tolist()
    samples = [data[index] for index in worst]
    results = [outcomes(asked.base, row, samples, asked.runs) for row in by_row]
    lines = []
    for index, one, two in zip(worst, *results, strict=True):
        print(f"{data.names[index]}: {', '.join(f'{by_row[row][index]:.3f}' for row in by_row)}")
        maps = (one.target, one.labels, two.labels)
        print(*(f"  {described(labels, one, data.classes)}" for labels in maps), sep="\n")
        lines.append([drawn(labels, one) for labels in maps])
    width = max(sum(part.width + GAP for part in line) for line in lines)
    sheet = Image.new("RGB", (width, len(lines) * (HEIGHT + GAP)), "white")
    for row, line in enumerate(lines):
        x = 0
        for part in line:
            sheet.paste(part, (x, row * (HEIGHT + GAP)))
            x += part.width + GAP
    sheet.quantize(64).save(FIGURES / f"ablation_failures_{asked.base}.png", optimize=True)


if __name__ == "__main__":
    main()
