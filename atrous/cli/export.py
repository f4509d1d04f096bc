"""``atrous export``: writes a model to one file that runs without torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from atrous.cli.options import ANY_PATH
from atrous.errors import AtrousError, printable
from atrous.images.bands import Bands


@click.command()
@click.argument("model")
@click.option("--out", type=ANY_PATH, required=True, metavar="FILE.onnx", help="The file to write.")
@click.option(
    "--size", type=(click.IntRange(1), click.IntRange(1)), metavar="H W",
    help="Fix height and width [default: any].",
)  # fmt: skip
@click.option("--fp16", is_flag=True, help="Store weights in 16 bits: half the size.")
@click.option("--int8", is_flag=True, help="Quantise weights and activations to 8 bits.")
@click.option(
    "--calibration", multiple=True, type=ANY_PATH, metavar="PATH",
    help="Pictures, or folders of them, to quantise with, and to measure the labels that change "
    "in int8 or bf16; may be repeated.",
)  # fmt: skip
@click.option(
    "--budget", type=click.FloatRange(0, 100), default=1, show_default=True, metavar="PERCENT",
    help="Largest share of pixels that quantising may label otherwise; 100 allows any.",
)  # fmt: skip
@click.option("--labels", is_flag=True, help="Put labels (H, W) into the file, beside the logits.")
@click.option("--json", "as_json", is_flag=True, help="Print what the file says about itself.")
def export(
    model: str,
    out: Path,
    size: tuple[int, int] | None,
    fp16: bool,
    int8: bool,
    calibration: tuple[Path, ...],
    budget: float,
    labels: bool,
    as_json: bool,
) -> None:
    r"""Writes a model to one file that runs without torch.

    The file maps RGB bytes to logits and holds classes, colours and provenance. The command runs
    the file and compares it with the model before the file gets its name.

    With --calibration alone, the command measures how many labels stay the same in bfloat16 and
    writes the share into the file. 'atrous predict' uses bfloat16 for files with at least 99.5 %,
    on processors that have units for it.

    With --int8, every other calibration picture sets ranges and biases. The remaining pictures
    measure how many labels change; layers that cost too much accuracy stay in float. A model that
    changes more labels than --budget allows is not written.

    With --labels, the file also gives the class of every pixel, as 'atrous predict' finds it, for
    programs that should do nothing after the network. Whole logits then take memory: four bytes a
    class and pixel, a few times over.

    \b
    Examples:
      atrous export model.tflite --out model.onnx
      atrous export model.tflite --out model.onnx --size 513 513
      atrous export model.tflite --out model.onnx --calibration pictures/
      atrous export model.tflite --out small.onnx --int8 --calibration pictures/
    """
    from atrous.engines.open import load_model

    if out.suffix != ".onnx":
        raise AtrousError("E-OUT", "the name must end in .onnx", where=out)
    if int8 and not calibration:
        raise AtrousError("E-OPTIONS", "--int8 needs --calibration")
    if int8 and fp16:
        raise AtrousError("E-OPTIONS", "--int8 and --fp16 exclude each other")
    loaded = load_model(model)
    pictures = _read(calibration, loaded.bands) if calibration else []
    if int8:
        from atrous.export.int8 import quantize

        allowed = None if budget == 100 else budget / 100
        report = quantize(loaded, out, pictures, budget=allowed, size=size, labels=labels)
        click.echo(report.table(), err=as_json)
        header = report.header
    else:
        from atrous.export.export import export as write

        header = write(loaded, out, size=size, half=fp16, pictures=pictures, labels=labels)
    if as_json:
        click.echo(json.dumps(vars(header)))
    else:
        click.echo(
            f"{printable(out)}: {header.backbone}, {len(header.classes)} classes, "
            f"{header.precision}, {out.stat().st_size / 1e6:.1f} MB"
        )


def _read(paths: Sequence[Path], bands: Bands) -> list[Any]:
    """Returns the pictures of paths as arrays (H, W, C)."""
    import numpy as np

    from atrous.images.decode import read_image
    from atrous.images.raster import read_raster
    from atrous.predict.find import find_pictures, of_first_channel

    found = of_first_channel(find_pictures(paths), bands).paths
    if bands.plain:
        return [np.asarray(read_image(path)) for path in found]
    return [read_raster(path, bands) for path in found]
