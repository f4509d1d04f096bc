"""The paper's Fig. 5a at our scale: mean IoU within w pixels of borders, with and without decoder.

    python benchmarks/ablation_trimap.py measure street --runs RUNS    # from finished runs
    python benchmarks/ablation_trimap.py draw                          # docs/figures/trimap_*.png

`measure` needs the rows `decoder` and `bilinear` of `ablations.py` for the same seeds, and the
counts of each picture that these leave in RUNS. It writes results/ablation_trimap_BASE.json: the
difference in every band from 1 to 40 pixels, over all seeds at once, with its paired interval.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from ablation_tables import RESULTS, paired, read, trimap_of

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
TITLES = {
    "street": "CamVid val, 480 x 360, 101 pictures",
    "cityscapes": "Cityscapes (small), 512 x 256, 300 pictures of val",
}
ROWS = (("decoder", "tab:blue"), ("bilinear", "tab:orange"))


def measure(base: str, runs: Path) -> dict[str, Any]:
    """Returns the differences of a base by width of the band, over the seeds both rows have."""
    found = read()
    seeds = sorted(set(found[base, "bilinear"]) & set(found[base, "decoder"]))
    first, second = (
        np.sum([np.load(runs / f"{base}-{row}-{seed}.bands.npy") for seed in seeds], axis=0)
        for row in ("bilinear", "decoder")
    )
    gains = [paired([first[:, w]], [second[:, w]]) for w in range(first.shape[1])]
    return {
        "base": base,
        "command": f"python benchmarks/ablation_trimap.py measure {base} --runs RUNS",
        "seeds": seeds,
        "pictures": len(first),
        "difference": [gain.mean_iou for gain in gains],
        "low": [gain.low for gain in gains],
        "high": [gain.high for gain in gains],
    }


def draw(base: str) -> None:
    """Draws both networks of a base: each seed as a thin line, their mean as a thick one."""
    found, gains = read(), trimap_of(base)
    widths = np.arange(1, len(gains["difference"]) + 1)
    figure, axes = plt.subplots(figsize=(6.4, 4.4), dpi=120, layout="constrained")
    for row, color in ROWS:
        curves = [found[base, row][seed]["trimap"] for seed in gains["seeds"]]
        curves = 100 * np.array(curves)
        for curve in curves:
            axes.plot(widths, curve, color=color, linewidth=0.6, alpha=0.7)
        name = {"decoder": "with decoder", "bilinear": "bilinear upsampling"}[row]
        axes.plot(widths, curves.mean(0), color=color, linewidth=2, label=name)
    low, high = (100 * gains[end][0] for end in ("low", "high"))
    axes.annotate(
        f"at 1 pixel: {100 * gains['difference'][0]:+.1f} points\n({low:+.1f} to {high:+.1f})",
        (0.04, 0.95),
        xycoords="axes fraction",
        va="top",
    )
    axes.set_xlabel("width of the band around borders, pixels")
    axes.set_ylabel("mean IoU in the band, %")
    axes.set_title(TITLES[base], fontsize=11)
    axes.set_xlim(0, widths[-1])
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(figure_of(base), metadata={"Software": None, "Source": digest(base)})
    plt.close(figure)


def figure_of(base: str) -> Path:
    """Returns where the figure of a base is."""
    return FIGURES / f"trimap_{base}.png"


def digest(base: str) -> str:
    """Returns the SHA-256 of what a figure shows; the figure's file holds it."""
    curves = {
        row: {seed: result["trimap"] for seed, result in by_seed.items()}
        for (of, row), by_seed in read().items()
        if of == base and row in dict(ROWS)
    }
    shown = json.dumps([curves, trimap_of(base)], sort_keys=True)
    return hashlib.sha256(shown.encode()).hexdigest()


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    measuring = actions.add_parser("measure")
    measuring.add_argument("bases", nargs="+", choices=TITLES)
    measuring.add_argument("--runs", type=Path, required=True)
    actions.add_parser("draw")
    asked = parser.parse_args()
    if asked.action == "measure":
        for base in asked.bases:
            content = json.dumps(measure(base, asked.runs), separators=(",", ":"))
            (RESULTS.parent / f"ablation_trimap_{base}.json").write_text(content + "\n")
        return
    for base in TITLES:
        if trimap_of(base):
            draw(base)


if __name__ == "__main__":
    main()
