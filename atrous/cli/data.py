"""``atrous data``: checks and shows a data set before training."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
from PIL import Image

from atrous.cli.options import ANY_PATH, FOLDER, Progress, threads_option
from atrous.data.contact_sheet import (
    Tile,
    pick_samples,
    sample_tiles,
    sheet,
    view_tiles,
    with_legend,
)
from atrous.data.dataset import Dataset, Sample
from atrous.data.doctor.diagnosis import Diagnosis, examine
from atrous.data.doctor.findings import Finding
from atrous.data.doctor.report import write_csv, write_html
from atrous.data.doctor.survey import survey
from atrous.data.formats.layout import Layout
from atrous.data.opening import open_dataset, recognise
from atrous.errors import AtrousError, ExitCode, printable
from atrous.images.bands import bands_of
from atrous.images.decode import atomic

_SAMPLES = 6  # of each split, in the report
_SHOWN = 3  # files of a finding named on the terminal


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Check and show labelled pictures before training."""


@data.command()
@click.argument("path", type=ANY_PATH, metavar="DATA")
@click.option(
    "--out", type=FOLDER,
    help="Folder for data_report.html and data_report.csv; none is written without it.",
)  # fmt: skip
@click.option("--split", "splits", multiple=True, help="Check only this split; repeatable.")
@click.option("--names", help="Names of the classes, with commas; `road` names 0/255 masks.")
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
@click.option("--allow-unlabelled", is_flag=True, help="Leave out pictures without annotation.")
@click.option("--force", is_flag=True, help="Read JPEG masks, although their labels are not exact.")
@click.option(
    "--jobs",
    "--workers",
    "workers",
    type=click.IntRange(1),
    help="Number of processes; by default one for each core.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check(
    path: Path,
    out: Path | None,
    splits: tuple[str, ...],
    names: str | None,
    strict: bool,
    allow_unlabelled: bool,
    force: bool,
    workers: int | None,
    as_json: bool,
) -> None:
    r"""Checks a data set for everything that would make training go wrong.

    DATA is a devkit's or data set's folder (VOC, Cityscapes, ADE20K, COCO, CamVid, LabelMe, CVAT,
    plain folders ...), a dataset YAML, or an annotation file. The command reads every picture and
    annotation, on all cores, and changes nothing in DATA. Exit code 4 if training would go wrong.

    \b
    Examples:
      atrous data check VOCdevkit/VOC2012 --out report
      atrous data check mine.yaml --split train --split val --strict
      atrous data check masks_of_roads --names road --json
    """
    layout = recognise(path, names=names.split(",") if names else ())
    if force:
        layout = layout.allowing_lossy()
    _check_outside(out, layout.root)
    progress = Progress(0, "check")

    def show(done: int, total: int) -> None:
        progress.total = total
        progress.count(done)

    surveyed = survey(layout, splits, workers=workers, on_progress=show)
    diagnosis = examine(surveyed, allow_unlabelled=allow_unlabelled, strict=strict)
    if out is not None:
        write_csv(diagnosis, out / "data_report.csv")
        write_html(diagnosis, _samples(layout, diagnosis), out / "data_report.html")
    if as_json:
        click.echo(json.dumps(diagnosis.as_json(), indent=1))
    else:
        _print(diagnosis, out)
    if not diagnosis.healthy:
        raise SystemExit(ExitCode.DATA)


def _check_outside(out: Path | None, root: Path) -> None:
    if out is not None and root.is_dir() and out.resolve().is_relative_to(root.resolve()):
        raise AtrousError(
            "E-OUT-IN-DATA",
            "the report would be written into the data",
            where=out,
            fix="choose a folder outside of the data with --out",
        )


def _samples(layout: Layout, diagnosis: Diagnosis) -> dict[str, list[Tile]]:
    tiles = {}
    for split in diagnosis.survey.splits:
        dataset, _ = layout.open(split)
        tiles[split] = sample_tiles(dataset, pick_samples(dataset, _SAMPLES, seed=0))
    return tiles


def _print(diagnosis: Diagnosis, out: Path | None) -> None:
    found = diagnosis.survey
    click.echo(
        f"{printable(found.root)}: {found.kind}, {len(found.table.classes)} classes, "
        f"{len(found.measurements)} pictures"
    )
    for split, indices in found.splits.items():
        click.echo(f"  {split}: {len(indices)}, {diagnosis.void_share(split):.1%} unlabelled")
    _print_shares(diagnosis)
    for finding in diagnosis.findings:
        _print_finding(finding)
    click.echo(f"crop size {diagnosis.crop_size}")
    if out is not None:
        click.echo(f"report in {printable(out / 'data_report.html')}")
    errors = diagnosis.count("error")
    click.echo("ready to train on" if not errors else f"training would go wrong: {errors} errors")


def _print_shares(diagnosis: Diagnosis) -> None:
    shares = {split: diagnosis.shares(split) for split in diagnosis.survey.splits}
    classes = diagnosis.survey.table.classes
    width = max(map(len, map(printable, classes)))
    click.echo(f"{'class':<{width}}  weight  " + "  ".join(f"{split:>8}" for split in shares))
    for name, weight in zip(classes, diagnosis.class_weights, strict=True):
        cells = (
            f"{s:8.3%}" if (s := of[name]) is not None else f"{'n/a':>8}" for of in shares.values()
        )
        shown = f"{weight:7.3g}" if weight is not None else f"{'n/a':>7}"
        click.echo(f"{printable(name):<{width}} {shown}  " + "  ".join(cells))


def _print_finding(finding: Finding) -> None:
    click.echo(f"{finding.level}: {printable(finding.what)} [{finding.code}]")
    for where in finding.where[:_SHOWN]:
        click.echo(f"    {printable(where)}")
    if len(finding.where) > _SHOWN:
        click.echo(f"    and {len(finding.where) - _SHOWN} more")
    if finding.fix:
        click.echo(f"  fix: {printable(finding.fix)}")
    for line in finding.proposal.split("\n") if finding.proposal else ():
        click.echo(f"    {printable(line)}")


@data.command()
@click.argument("path", type=ANY_PATH, metavar="DATA")
@click.option("--split", default="val", show_default=True, help="Split to show.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("data.png"),
    show_default=True, help="The picture to write.",
)  # fmt: skip
@click.option(
    "--count", type=click.IntRange(1), default=8, show_default=True, help="Number of samples."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the choice of samples."
)
@click.option("--augment", is_flag=True, help="Show views under the paper's augmentation.")
@click.option(
    "--crop-size", type=click.IntRange(1), default=513, show_default=True,
    help="Side of the augmented crops.",
)  # fmt: skip
def show(
    path: Path, split: str, out: Path, count: int, seed: int, augment: bool, crop_size: int
) -> None:
    r"""Draws a contact sheet: pictures with their annotations over them.

    Unlabelled pixels are darkened. With --augment, each row shows a sample and augmented views of
    it.

    \b
    Examples:
      atrous data show VOCdevkit/VOC2012 --split train --out voc.png
      atrous data show mine.yaml --augment --crop-size 321
    """
    dataset = open_dataset(path, split, allow_unlabelled=True)
    _check_outside(out, path)
    indices = pick_samples(dataset, count, seed)
    if augment:
        page = _augmented_sheet(dataset, indices, crop_size, seed)
    else:
        page = sheet(sample_tiles(dataset, indices), columns=4)
    page = with_legend(page, dataset, indices)
    with atomic(out) as temporary:
        page.save(temporary)
    click.echo(f"{len(indices)} of {len(dataset)} samples of {split} in {printable(out)}")


_VIEWS = 3


def _augmented_sheet(
    dataset: Dataset, indices: Sequence[int], crop_size: int, seed: int
) -> Image.Image:
    from atrous.data.normalisation import measured
    from atrous.data.transforms import Augmentation, for_channels, sample_generator

    augmentation = Augmentation(crop_size=(crop_size, crop_size))
    bands = bands_of(dataset)
    if not bands.is_rgb:
        bands = bands if bands.mean else replace(bands, mean=measured(dataset)[0])
        augmentation = for_channels(augmentation, bands)

    def view(index: int, number: int) -> Sample:
        return augmentation(dataset, index, sample_generator(seed, number, index))

    rows = [view_tiles(dataset, index, _VIEWS, view) for index in indices]
    return sheet([tile for row in rows for tile in row], columns=1 + _VIEWS)


@data.command("next")
@click.argument("paths", nargs=-1, required=True, type=ANY_PATH, metavar="NEW...")
@click.option("--model", metavar="MODEL", help="A model file, run or built-in name.")
@click.option(
    "--count", type=click.IntRange(1), default=20, show_default=True, help="How many pictures."
)
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON per picture.")
def next_pictures(
    paths: tuple[Path, ...], model: str | None, count: int, threads: int | None, as_json: bool
) -> None:
    r"""Lists the pictures most worth labelling next, the best first.

    NEW are pictures without labels, folders of them, or patterns. The model sees each. Pictures of
    which it is unsure come first, and of pictures that look alike to it, one. Prints a path per
    line; --json adds uncertainty (1 less the confidence of predict --json) and difference from
    the most similar picture above it, both 0..1. A picture that cannot be read is reported and the
    others go on (exit code 3).

    \b
    Examples:
      atrous data next photos --model runs/first --count 20
      atrous data next photos --model model.onnx --json
      atrous data next photos --model runs/first > next.txt
    """
    from atrous.predict.find import find_pictures
    from atrous.predict.next import Seen, choose, look
    from atrous.predict.predictor import Predictor

    found = find_pictures(paths)
    predictor = Predictor(model, threads=threads)
    seen: list[Seen] = []
    read: list[Path] = []
    for picture in Progress(len(found.pictures), "look").over(found.pictures):
        try:
            seen.append(look(predictor, picture.content or picture.path))
            read.append(picture.path)
        except AtrousError as error:
            click.echo(f"error: {error}", err=True)
    for each in choose(seen, count):
        difference = None if each.difference is None else round(each.difference, 4)
        line = {"input": str(read[each.place]), "uncertainty": round(each.uncertainty, 4)}
        shown = json.dumps({**line, "difference": difference})
        click.echo(shown if as_json else printable(read[each.place]))
    if len(read) < len(found.pictures):
        raise SystemExit(ExitCode.SOME_FAILED)
