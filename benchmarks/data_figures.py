"""The table, the plot and the label maps of a data set in docs/data.md.

Prints the share of each class as a Markdown table; draws the shares as bars, and the labels of some
samples of val without their pictures, which may not be passed on.

    python benchmarks/data_figures.py ../shared/data/camvid --out docs/figures
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from atrous.data.contact_sheet import Tile, fit, pick_samples, sheet, with_legend
from atrous.data.doctor.diagnosis import Diagnosis, examine
from atrous.data.doctor.survey import survey
from atrous.data.opening import open_dataset, recognise
from atrous.predict.overlay import display_colors

_ROW, _NAME, _CHART, _TEXT = 20, 110, 420, 14  # pixels


def table(diagnosis: Diagnosis) -> str:
    splits = list(diagnosis.survey.splits)
    lines = [
        "| class | " + " | ".join(f"{s}, pixels | {s}, pictures" for s in splits) + " | weight |",
        "|---|" + "---:|---:|" * len(splits) + "---:|",
    ]
    for k, name in enumerate(diagnosis.survey.table.classes):
        cells = []
        for split in splits:
            share = diagnosis.shares(split)[name]
            cells += ["n/a" if share is None else f"{share:.2%}", str(diagnosis.pictures[split][k])]
        weight = diagnosis.class_weights[k]
        cells.append("n/a" if weight is None else f"{weight:.3g}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    void = " | ".join(f"{diagnosis.void_share(split):.2%} | " for split in splits)
    return "\n".join([*lines, f"| unlabelled | {void} | |"])


def bars(diagnosis: Diagnosis) -> Image.Image:
    """Draws each class's share of the pixels, a bar a split, on a logarithmic axis."""
    splits = list(diagnosis.survey.splits)
    classes = diagnosis.survey.table.classes
    tints = display_colors(tuple(diagnosis.survey.table.palette)).tolist()
    step = _ROW * len(splits) + 6
    page = Image.new("RGB", (_NAME + _CHART + 90, step * len(classes) + 3 * _ROW), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(_TEXT)
    for exponent in range(-5, 1):  # 0.001 % to 100 %
        x = _NAME + (exponent + 5) / 5 * _CHART
        draw.line((x, 0, x, page.height - 2.2 * _ROW), fill=(225, 225, 225))
        draw.text(
            (x, page.height - 2.1 * _ROW), f"{10.0 ** (exponent + 2):g} %", "black", font, "ma"
        )
    for k, name in enumerate(classes):
        draw.text((_NAME - 6, k * step + step / 2 + 2), name, "black", font, "rm")
        for row, split in enumerate(splits):
            share = diagnosis.shares(split)[name]
            top = k * step + row * _ROW + 6
            length = (np.log10(max(share or 0, 1e-5)) + 5) / 5 * _CHART
            if share:
                box = (_NAME, top, _NAME + length, top + _ROW - 6)
                draw.rectangle(box, fill=tuple(tints[k]), outline=(90, 90, 90))
            shown = f"{split} n/a" if share is None else split
            draw.text(
                (_NAME + length + 6, top + 7), shown, "black", ImageFont.load_default(11), "lm"
            )
    draw.text((_NAME, page.height - 1.1 * _ROW), "share of the labelled pixels", "black", font)
    return page


def label_maps(root: Path, count: int) -> Image.Image:
    dataset = open_dataset(root, "val")
    indices = pick_samples(dataset, count, seed=0)
    colors = np.full((256, 3), 255, np.uint8)  # unlabelled is white
    colors[: len(dataset.classes)] = display_colors(tuple(dataset.palette))
    tiles = [
        Tile(fit(Image.fromarray(colors[dataset[i].target])), dataset.names[i]) for i in indices
    ]
    return with_legend(sheet(tiles, columns=4), dataset, indices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = arguments.data.resolve().name
    diagnosis = examine(survey(recognise(arguments.data)))
    print(table(diagnosis))
    for finding in diagnosis.findings:
        print(f"\n{finding.level} {finding.code}: {finding.what}")
    print(f"\ncrop size {diagnosis.crop_size}")
    bars(diagnosis).save(arguments.out / f"{name}_shares.png", optimize=True)
    label_maps(arguments.data, arguments.count).quantize(64).save(
        arguments.out / f"{name}_labels.png", optimize=True
    )


if __name__ == "__main__":
    main()
