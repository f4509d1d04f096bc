"""``atrous submit``: predictions in the format of a benchmark's server."""

import json
from pathlib import Path
from typing import Any

import click

from atrous.cli.options import ANY_PATH, Progress, view_options
from atrous.errors import AtrousError, printable
from atrous.predict.find import find_pictures


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("paths", nargs=-1, required=True, type=ANY_PATH, metavar="PICTURES...")
@click.option(
    "--to", "benchmark", required=True, type=click.Choice(["voc", "cityscapes", "coco-stuff"])
)
@click.option("--out", required=True, type=ANY_PATH, help="The file to write.")
@click.option(
    "--names", type=ANY_PATH,
    help="A file of names, one a line (ImageSets/Segmentation/test.txt); others are left out.",
)  # fmt: skip
@view_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone.")
def submit(
    model: str,
    paths: tuple[Path, ...],
    benchmark: Any,
    out: Path,
    names: Path | None,
    output_stride: int | None,
    as_json: bool,
    **views: Any,
) -> None:
    """Writes the file for a benchmark's server: .tar.gz (VOC), .zip (Cityscapes), .json (COCO).

    PICTURES are pictures or folders of pictures; masks are not needed.

    \b
    Examples:
      atrous submit model.onnx VOC2012/JPEGImages --names VOC2012/ImageSets/Segmentation/test.txt
          --to voc --out results.tar.gz
      atrous submit runs/x leftImg8bit/test --to cityscapes --out results.zip --flip
    """  # noqa: D301  # click needs the backspace itself
    from atrous.evaluation.networks import open_network
    from atrous.evaluation.submission import predictions, write
    from atrous.evaluation.views import Views

    pictures = _named(find_pictures(paths).paths, names)
    _, facts = open_network(model)
    progress = Progress(len(pictures), model)
    results = predictions(model, pictures, Views(**views), output_stride=output_stride)
    count = write(benchmark, progress.over(results), len(facts["classes"]), out)
    if as_json:
        click.echo(json.dumps({"out": str(out), "pictures": count, "benchmark": benchmark}))
    else:
        click.echo(f"{count} pictures, in {printable(out)}")


def _named(pictures: list[Path], names: Path | None) -> list[Path]:
    """Returns the pictures that the list names, in its order; all pictures without a list."""
    if names is None:
        return pictures
    by_name = {path.stem: path for path in pictures}
    try:
        wanted = [line.split()[0] for line in names.read_text("utf-8").splitlines() if line.split()]
    except (OSError, UnicodeDecodeError) as error:
        raise AtrousError("E-FILE-READ", f"cannot be read: {error}", where=names) from None
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise AtrousError(
            "E-FILE-MISSING",
            f"{len(missing)} of {len(wanted)} listed pictures are not there, such as {missing[0]}",
            where=names,
            fix="name the folder that holds them",
        )
    return [by_name[name] for name in wanted]
