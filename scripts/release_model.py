#!/usr/bin/env python3
"""Makes a built-in model of a finished run: its files in atrous/trained, its card in docs/models.

python scripts/release_model.py voc runs/voc --calibrate VOC2012:train_aug \
    --measure coco_voc21:val --measure VOC2012:val --start deeplabv3_mnv2_pascal_quant.tflite

Writes NAME.onnx (weights in 16 bits) and NAME.int8.onnx, evaluates both and the float model on
every measured set, and compares them with the weights that the run started from. The card names
the weak classes first. With --mix, the released weights lie between the start's and the run's
(Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).

Two calls with the same run and data write the same bytes.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

import atrous
from atrous.data.opening import open_dataset
from atrous.evaluation.calibration import divide_logits, fit_temperature
from atrous.evaluation.scores import Scores
from atrous.export.export import export
from atrous.export.int8 import quantize
from atrous.training.config import read_config, to_json

ROOT = Path(__file__).parents[1]
TRAINED, CARDS = ROOT / "atrous" / "trained", ROOT / "docs" / "models"
CALIBRATING = 64  # training pictures, evenly spaced
LEAST_AGREEMENT, MOST_LOST = 0.99, 0.005  # of the 8-bit file, on each measured set


class Release(NamedTuple):
    """What the card says besides figures."""

    licence: str
    notes: tuple[str, ...]
    chosen_on: str  # the pictures that decided anything
    other_kinds: str  # what the model does on pictures of other kinds
    scored: Mapping[str, tuple[str, ...]] = MappingProxyType({})  # by set: the mean is over these


ANIMALS = ("background", "cat", "cow", "dog", "horse", "person", "sheep")

RELEASES = {
    "voc": Release(
        "research use: Google trained the weights (Apache-2.0) on COCO and PASCAL VOC pictures, "
        "which are Flickr's under its terms",
        (
            "made of Google's deeplabv3_mnv2_pascal (Apache-2.0), itself trained on COCO and VOC, "
            "by scripts/voc_network.py: output stride 8, a decoder that smooths; nothing was "
            "trained on top of it",
        ),
        chosen_on="stride, pooling and smoothing: half of coco_voc21 val (169 pictures) and half "
        "of the VOC animals (112). The other halves decided nothing",
        other_kinds="it knows 20 kinds of things and calls everything else background; street "
        "scenes get cars, buses and persons, and no road or sky",
        scored={"voc2012": ANIMALS},
    ),
    "street": Release(
        "personal, non-commercial research use: trained on Cityscapes and CamVid; start weights "
        "Apache-2.0",
        (
            "training pictures: Cityscapes (Cordts et al., CVPR 2016), 2,000 pictures at 512x256 "
            "with labels recovered from colours, and CamVid (Brostow, Fauqueur, Cipolla, 2009) in "
            "the pictures of SegNet's tutorial",
            "started from MLCommons' deeplabv3_mnv2_ade20k (Apache-2.0), trained by Google on "
            "ADE20K",
        ),
        chosen_on="street_data val: 150 pictures of Cityscapes, 51 of CamVid (which of four ends "
        "of the last run is shipped, and of the runs before; temperature). Nothing on street_data "
        "test",
        other_kinds="it calls every pixel something of a street. With `--unknown 0.6` 35 % of the "
        "pixels of 200 photographs of other things are unknown, and 8 % of street_data val's",
    ),
}


class Measured(NamedTuple):
    """The scores of every form of the model on one set."""

    name: str
    pictures: int
    scores: dict[str, Scores]  # by form: float, file, int8, start


def main() -> None:
    """Releases the model that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(RELEASES))
    parser.add_argument("run", type=Path, help="run folder, or a .safetensors file")
    parser.add_argument("--calibrate", required=True, metavar="DATA:SPLIT")
    parser.add_argument("--measure", action="append", required=True, metavar="DATA:SPLIT")
    parser.add_argument("--start", help="the weights that the run started from")
    parser.add_argument("--mix", type=float, default=1.0, help="share of the run's own weights")
    parser.add_argument("--mix-with", help="network of the same shape to mix with")
    parser.add_argument("--temperature", metavar="DATA:SPLIT", help="divide the logits by one")
    parser.add_argument("--stride", type=int, help="output stride to ship; the run's if not given")
    asked = parser.parse_args()
    release = RELEASES[asked.name]

    model = atrous.load(asked.run)
    notes = list(release.notes)
    if asked.mix != 1:
        mix(model, atrous.load(asked.mix_with), asked.mix)
        other = Path(asked.mix_with).name
        notes.append(f"weights: {asked.mix:g} of the run's best, the rest of {other}")
    if asked.stride:
        model.set_output_stride(asked.stride)
    if asked.temperature:
        data = opened(asked.temperature)
        temperature = fit_temperature(model, data)
        divide_logits(model, temperature)
        notes.append(
            f"logits divided by a temperature of {temperature:.3f}, which gives the least "
            f"cross-entropy on {len(data)} pictures of {described(asked.temperature)}"
        )
    model.provenance.licence, model.provenance.notes = release.licence, notes
    if model.provenance.training is not None:  # the card says on what; the file need not
        model.provenance.training = replace(model.provenance.training, mean_iou=None)

    TRAINED.mkdir(exist_ok=True)
    files = {"file": TRAINED / f"{asked.name}.onnx", "int8": TRAINED / f"{asked.name}.int8.onnx"}
    train = opened(asked.calibrate)
    samples = [train[i] for i in range(0, len(train), max(1, len(train) // CALIBRATING))]
    export(model, files["file"], half=True, pictures=[sample.image for sample in samples])
    report = quantize(
        model, files["int8"], [s.image for s in samples], targets=[s.target for s in samples],
        budget=None,  # checked below, on whole sets: rare classes are too few among these pictures
    )  # fmt: skip
    forms: dict[str, Any] = {"float": model, **{k: str(path) for k, path in files.items()}}
    if asked.start:
        forms["start"] = asked.start
    measured = [measure(forms, text, release) for text in asked.measure]
    agreement = agreements(model, files, asked.measure)
    lost = max(
        (m.scores["float"].mean_iou or 0) - (m.scores["int8"].mean_iou or 0) for m in measured
    )
    if agreement["int8"] < LEAST_AGREEMENT or lost > MOST_LOST:
        sys.exit(f"8 bits keep {agreement['int8']:.2%} of the labels and lose {lost:.2%} mean IoU")
    write_card(asked.name, asked.run, release, model, files, measured, agreement, report)


def opened(text: str) -> Any:
    """Opens DATA:SPLIT."""
    path, _, split = text.rpartition(":")
    return open_dataset(path, split)


def described(text: str) -> str:
    """Returns how DATA:SPLIT is called where paths say nothing."""
    path, _, split = text.rpartition(":")
    return f"{Path(path).name} {split}"


def measure(forms: dict[str, Any], text: str, release: Release) -> Measured:
    """Evaluates every form of the model at native size."""
    data = opened(text)
    name = Path(text.rpartition(":")[0]).name
    classes = release.scored.get(name)
    scores = {form: atrous.evaluate(m, data, classes=classes) for form, m in forms.items()}
    return Measured(described(text), len(data), scores)


def agreements(
    model: atrous.DeepLabV3Plus, files: dict[str, Path], texts: Sequence[str]
) -> dict[str, float]:
    """Returns the share of pixels of all measured sets to which each file gives the float label."""
    whole = atrous.Predictor(model)
    small = {
        "file": atrous.Predictor(files["file"], precision="fp32"),
        "int8": atrous.Predictor(files["int8"]),
    }
    equal, pixels = dict.fromkeys(files, 0), 0
    for text in texts:
        data = opened(text)
        for index in range(len(data)):
            image = data[index].image
            labels = whole(image).labels
            pixels += labels.size
            for form, predictor in small.items():
                equal[form] += int((predictor(image).labels == labels).sum())
    return {form: count / pixels for form, count in equal.items()}


def mix(model: atrous.DeepLabV3Plus, start: atrous.DeepLabV3Plus, share: float) -> None:
    """Moves a model's weights towards those it started from; `share` of its own stay."""
    before = start.state_dict()
    mixed = {
        name: torch.lerp(before[name], value, share) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(mixed)


def write_card(
    name: str,
    run: Path,
    release: Release,
    model: atrous.DeepLabV3Plus,
    files: dict[str, Path],
    measured: Sequence[Measured],
    agreement: dict[str, float],
    report: Any,
) -> None:
    """Writes docs/models/NAME.md, with the curves and numbers of the run beside it."""
    CARDS.mkdir(exist_ok=True)
    links = []
    if run.is_dir():
        shutil.copy(run / "curves.png", CARDS / f"{name}_curves.png")
        shutil.copy(run / "metrics.csv", CARDS / f"{name}_metrics.csv")
        config = read_config(run / "config.json")
        weights = config.weights and Path(config.weights).name
        named = replace(config, data=Path(config.data).name, weights=weights)
        (CARDS / f"{name}_config.json").write_text(to_json(named) + "\n")
        links = [
            "", f"![Loss and mean IoU over the run]({name}_curves.png)", "",
            f"Every number of the run: [{name}_config.json]({name}_config.json), "
            f"[{name}_metrics.csv]({name}_metrics.csv).",
        ]  # fmt: skip
    training = model.provenance.training
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    sizes = {form: path.stat().st_size / 1e6 for form, path in files.items()}
    lines = [
        f"# {name}", "",
        f"`atrous predict PICTURE --model {name}`", "",
        f"DeepLabv3+ with {model.architecture.backbone} at output stride {model.output_stride}; "
        f"{millions:.2f} million parameters. "
        f"`{name}.onnx` has {sizes['file']:.1f} MB (weights in 16 bits), `{name}.int8.onnx` "
        f"{sizes['int8']:.1f} MB.",
        f"Classes: {', '.join(model.classes)}.", "",
        "| | |", "|---|---|",
        f"| trained by | `{model.provenance.source}` |",
        f"| started from | {training.initial_weights if training else 'see the notes'} |",
        f"| terms | {release.licence} |",
        *(f"| | {note} |" for note in model.provenance.notes),
        f"| chosen on | {release.chosen_on} |",
        "", f"On pictures of other kinds: {release.other_kinds}", "",
        f"Labels equal to the float model's: {100 * agreement['file']:.2f} % in 16 bits, "
        f"{100 * agreement['int8']:.2f} % in 8 bits ({len(report.kept_float)} of {report.layers} "
        "convolutions in float), over all pictures below.",
        *(line for one in measured for line in section(one)),
        *links, "",
    ]  # fmt: skip
    (CARDS / f"{name}.md").write_text("\n".join(lines))
    print("\n".join(lines))


def section(measured: Measured) -> list[str]:
    """Returns the figures of one set as Markdown: the mean first, then classes, weak ones first."""
    forms, heads = measured.scores, {"start": "start weights", "file": "16 bits", "int8": "8 bits"}
    columns = [form for form in ("start", "float", "file", "int8") if form in forms]
    head = " | ".join(heads.get(form, form) for form in columns)

    def row(what: str, values: Sequence[float | None]) -> str:
        shown = ("n/a" if value is None else f"{value:.4f}" for value in values)
        return f"| {what} | {' | '.join(shown)} |"

    found = {form: forms[form].as_dict() for form in columns}
    rows = [
        row(what, [found[form][key] for form in columns])
        for what, key in (
            ("**mean IoU**", "mean_iou"),
            ("pixel accuracy", "pixel_accuracy"),
            ("mean boundary F-score", "mean_boundary_f"),
        )
    ]
    rows.append(row("mean IoU within 1 pixel", [found[f]["trimap"]["1"] for f in columns]))
    ious = forms["float"].class_iou
    for name in sorted((n for n in ious if ious[n] is not None), key=lambda n: ious[n] or 0):
        rows.append(row(name, [forms[form].class_iou.get(name) for form in columns]))
    low, high = forms["float"].mean_iou_interval
    over = forms["float"].protocol["mean_over"]
    which = "all classes that occur" if isinstance(over, str) else ", ".join(over)
    lines = [
        "", f"## {measured.name}, {measured.pictures} pictures at native size", "",
        f"Mean over {which}; 95 % of resampled sets of pictures: {low:.3f} to {high:.3f}.",
    ]  # fmt: skip
    if "start" in forms:
        gain = forms["float"].minus(forms["start"])
        border = forms["float"].minus_at_borders(forms["start"])
        lines.append(
            f"Float model minus start weights, paired: {100 * gain.mean_iou:+.2f} points of mean "
            f"IoU ({100 * gain.low:+.2f} to {100 * gain.high:+.2f}); within one pixel of borders "
            f"{100 * border.mean_iou:+.2f} ({100 * border.low:+.2f} to {100 * border.high:+.2f})."
        )
    return [*lines, "", f"| | {head} |", "|---|" + "---|" * len(columns), *rows]


if __name__ == "__main__":
    main()
