"""``atrous predict``: pictures in, masks out."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import click

from atrous.cli.options import ANY_PATH, FOLDER
from atrous.errors import AtrousError, ExitCode, printable

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _memory(context: click.Context, option: click.Parameter, text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    if match is None:
        raise click.BadParameter(f"{text!r} is no amount of memory such as 500MB or 2GB")
    return int(float(match[1]) * _UNITS[match[2]])


@click.command()
@click.argument("paths", nargs=-1, required=True, type=ANY_PATH, metavar="PATHS...")
@click.option("--model", metavar="MODEL", help="A model file or built-in name [default: animals].")
@click.option(
    "--out", type=FOLDER, default=Path("masks"), show_default=True, help="Folder of the output."
)
@click.option(
    "--threads", type=click.IntRange(1), help="Threads to use [default: the usable processors]."
)
@click.option(
    "--memory",
    default="2GB",
    show_default=True,
    callback=_memory,
    help="What the process may take; larger pictures are seen in overlapping tiles.",
)
@click.option("--overwrite", is_flag=True, help="Redo pictures that are finished already.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON per picture.")
def predict(
    paths: tuple[Path, ...],
    model: str | None,
    out: Path,
    threads: int | None,
    memory: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    r"""Segments pictures: a mask, an overlay and the share of each class.

    PATHS are pictures or folders of pictures. For a picture a/b.jpg the output folder gets
    b.labels.png (class indices with a palette), b.overlay.jpg (to look at) and b.json. A picture
    that cannot be read is reported and the others go on (exit code 3). Finished output of the
    same picture and model is kept, so an interrupted run can simply be started again.

    A picture too large for --memory is seen in tiles whose logits are joined, and its overlay is
    reduced. A TIFF may have any size, other pictures up to 100 megapixels.

    \b
    Examples:
      atrous predict photo.jpg
      atrous predict street.jpg --model street
      atrous predict holiday/ --model model.onnx --out masks --json
      atrous predict city.tif --model model.onnx --memory 4GB
    """
    from atrous.batch import find_pictures, segment_files
    from atrous.predict import Predictor

    if not any(path.exists() for path in paths):
        raise AtrousError("E-FILE-MISSING", "no such file or folder", where=paths[0])
    pictures = find_pictures(paths)
    predictor = Predictor(model, threads=threads, memory=memory)
    rows = _Rows([printable(path) for path in pictures])
    failed = 0
    for outcome in segment_files(predictor, pictures, out, overwrite=overwrite):
        if outcome.error is not None:
            failed += 1
            click.echo(f"error: {outcome.error}", err=True)
            continue
        assert outcome.record is not None
        if as_json:
            keys = ("input", "labels", "overlay", "size", "areas")
            click.echo(json.dumps({key: outcome.record[key] for key in keys}))
        else:
            height, width = outcome.record["size"]
            spent = f"{outcome.seconds:.2f} s" if outcome.seconds else "kept"
            areas = outcome.record["areas"].items()
            shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in areas)
            rows.print(printable(outcome.path), f"{height} x {width}", spent, shares)
    if not as_json:
        click.echo(f"{len(pictures) - failed} of {len(pictures)} done, in {printable(out)}")
    if failed:
        raise SystemExit(ExitCode.SOME_FAILED)


class _Rows:
    """A table printed row by row, as wide in its first column as the longest name."""

    def __init__(self, names: Iterable[str]) -> None:
        self.width = min(48, max(map(len, names)))
        self.headed = False

    def print(self, name: str, size: str, spent: str, shares: str) -> None:
        """Prints a row; a name that is too long keeps its end."""
        if not self.headed:
            self.headed = True
            self.print("picture", "height x width", "time", "share of each class")
        if len(name) > self.width:
            name = "..." + name[-(self.width - 3) :]
        click.echo(f"{name:<{self.width}}  {size:>14}  {spent:>8}  {shares}")
