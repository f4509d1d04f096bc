"""The command line: ``atrous COMMAND``. Each command is thin; what it does lives elsewhere."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from atrous import __version__, cli_train, cli_weights
from atrous.cli_evaluate import evaluate
from atrous.cli_submit import submit
from atrous.data.cli import data
from atrous.errors import AtrousError, ExitCode, missing_extra, printable

FOLDER = click.Path(file_okay=False, path_type=Path)
ANY_PATH = click.Path(path_type=Path)


class Group(click.Group):
    """Suggests the nearest command for a misspelt one, and keeps the lines of examples."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Adds a command; its docstring, a raw one, marks lines to keep with backslash and b."""
        cmd.help = cmd.help and cmd.help.replace("\\b\n", "\b\n")
        super().add_command(cmd, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command, or fails with the nearest names."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = get_close_matches(args[0], self.list_commands(ctx), n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="atrous")
def atrous() -> None:
    """DeepLabv3+: from a photograph to a mask, from labelled pictures to a model.

    Every command shows examples with --help. Add --debug to see where an error comes from.
    """


@atrous.command()
@click.argument("paths", nargs=-1, required=True, type=ANY_PATH, metavar="PATHS...")
@click.option("--model", required=True, metavar="MODEL", help="A model file.")
@click.option(
    "--out", type=FOLDER, default=Path("masks"), show_default=True, help="Folder of the output."
)
@click.option(
    "--threads", type=click.IntRange(1), help="Threads to use [default: the usable processors]."
)
@click.option("--overwrite", is_flag=True, help="Redo pictures that are finished already.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON per picture.")
def predict(
    paths: tuple[Path, ...],
    model: str,
    out: Path,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    r"""Segments pictures: a mask, an overlay and the share of each class.

    PATHS are pictures or folders of pictures. For a picture a/b.jpg the output folder gets
    b.labels.png (class indices with a palette), b.overlay.jpg (to look at) and b.json. A picture
    that cannot be read is reported and the others go on (exit code 3). Finished output of the
    same picture and model is kept, so an interrupted run can simply be started again.

    \b
    Examples:
      atrous predict photo.jpg --model model.onnx
      atrous predict holiday/ --model model.onnx --out masks --json
    """
    from atrous.batch import find_pictures, segment_files
    from atrous.predict import Predictor

    if not any(path.exists() for path in paths):
        raise AtrousError("E-FILE-MISSING", "no such file or folder", where=paths[0])
    pictures = find_pictures(paths)
    predictor = Predictor(model, threads=threads)
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


@atrous.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--size", type=(int, int), default=(513, 513), show_default=True, metavar="H W",
    help="Size of the picture the costs are for.",
)  # fmt: skip
@click.option("--classes", type=click.IntRange(1), default=21, show_default=True)
def models(as_json: bool, size: tuple[int, int], classes: int) -> None:
    r"""Lists the networks and what they cost, and the weights that others publish.

    Multiply-adds are of one picture: as they are, and as the paper counts them (with the zeros
    that TensorFlow pads atrous convolutions with). Activations are what a training step keeps
    of one picture, in float32.

    \b
    Examples:
      atrous models
      atrous models --size 1025 2049 --classes 19 --json
    """
    rows = _cost_rows(size, classes)
    if as_json:
        click.echo(json.dumps({"networks": rows, "published": cli_weights.published()}, indent=1))
        return
    click.echo(
        f"Costs for a picture of {size[0]} x {size[1]} (height x width), {classes} classes\n"
    )
    header = ("backbone", "stride", "parameters", "multiply-adds", "paper's count", "activations")
    click.echo("{:<13} {:>6} {:>11} {:>14} {:>14} {:>12}".format(*header))
    for row in rows:
        click.echo(
            f"{row['backbone']:<13} {row['output_stride']:>6} {row['parameters'] / 1e6:>9.2f} M "
            f"{row['multiply_adds'] / 1e9:>12.2f} G {row['paper_multiply_adds'] / 1e9:>12.2f} G "
            f"{row['activation_bytes'] / 1e6:>9.0f} MB"
        )
    click.echo("\nAlso: timm/NAME for any timm backbone that can be dilated.\n")
    cli_weights.show_published()


atrous.add_command(cli_weights.convert)
atrous.add_command(cli_train.train)


def _cost_rows(size: tuple[int, int], num_classes: int) -> list[dict[str, Any]]:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise missing_extra("the table of networks", error) from error
    from atrous.build import BACKBONES, create_model
    from atrous.cost import measure, parameters

    rows = []
    for backbone in BACKBONES:
        for stride in (16, 8):
            with torch.device("meta"):
                model = create_model(backbone, num_classes=num_classes, output_stride=stride)
            cost = measure(model, size)
            rows.append(
                {
                    "backbone": backbone,
                    "output_stride": stride,
                    "parameters": parameters(model),
                    "multiply_adds": cost.multiply_adds,
                    "paper_multiply_adds": cost.paper_multiply_adds,
                    "activation_bytes": cost.activation_bytes,
                }
            )
    return rows


@atrous.command()
@click.argument("model", type=ANY_PATH)
@click.option("--out", type=ANY_PATH, required=True, metavar="FILE.onnx", help="The file to write.")
@click.option(
    "--size", type=(click.IntRange(1), click.IntRange(1)), metavar="H W",
    help="Fix height and width [default: any].",
)  # fmt: skip
@click.option("--int8", is_flag=True, help="Quantise weights and activations to 8 bits.")
@click.option(
    "--calibration", multiple=True, type=ANY_PATH, metavar="PATH",
    help="Pictures, or folders of them, to quantise and to measure with; may be repeated.",
)  # fmt: skip
@click.option(
    "--budget", type=click.FloatRange(0, 100), default=0.5, show_default=True, metavar="POINTS",
    help="Largest loss of mean IoU by quantising, in points; 100 allows any.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print what the file says about itself.")
def export(
    model: Path,
    out: Path,
    size: tuple[int, int] | None,
    int8: bool,
    calibration: tuple[Path, ...],
    budget: float,
    as_json: bool,
) -> None:
    r"""Writes a model to one file that runs without torch.

    The file takes RGB bytes and holds the classes, their colours and where the weights come
    from. It is run and compared with the model before it appears under its name.

    With --int8, every other calibration picture sets the ranges, the rest measures how the labels
    change against those of the float model; layers that cost too much stay in float. A model
    that loses more than --budget is not written.

    \b
    Examples:
      atrous export model.tflite --out model.onnx
      atrous export model.tflite --out model.onnx --size 513 513
      atrous export model.tflite --out small.onnx --int8 --calibration pictures/
    """
    from atrous.sources import load_model

    if out.suffix != ".onnx":
        raise AtrousError("E-OUT", "the name must end in .onnx", where=out)
    if int8 != bool(calibration):
        raise AtrousError("E-OPTIONS", "--int8 and --calibration go together")
    loaded = load_model(model)
    try:
        if int8:
            report = _quantize(loaded, out, calibration, budget, size)
            click.echo(report.table(), err=as_json)
            header = report.header
        else:
            from atrous.export import export as write

            header = write(loaded, out, size=size)
    except ModuleNotFoundError as error:
        raise missing_extra("export", error) from error
    if as_json:
        click.echo(json.dumps(vars(header)))
    else:
        click.echo(
            f"{printable(out)}: {header.backbone}, {len(header.classes)} classes, "
            f"{header.precision}, {out.stat().st_size / 1e6:.1f} MB"
        )


def _quantize(
    model: Any, out: Path, paths: Sequence[Path], budget: float, size: tuple[int, int] | None
) -> Any:
    import numpy as np

    from atrous.batch import find_pictures
    from atrous.images import read_image
    from atrous.quantize import quantize

    pictures = [np.asarray(read_image(path)) for path in find_pictures(paths)]
    return quantize(model, out, pictures, budget=None if budget == 100 else budget / 100, size=size)


atrous.add_command(data)
atrous.add_command(evaluate)
atrous.add_command(submit)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with one of `ExitCode`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 must not end a run
        reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")
    try:
        atrous.main([w for w in words if w != "--debug"], "atrous", standalone_mode=False)
    except Exception as error:
        if debug:
            raise
        sys.exit(_report(error))


def _report(error: Exception) -> int:
    """Says what went wrong on standard error and returns the exit code."""
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, click.Abort):
        return 130
    if isinstance(error, BrokenPipeError):  # the reader of our output left: not our failure
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  # or Python complains at exit
        return 141
    if isinstance(error, AtrousError):
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    if isinstance(error, MemoryError):
        click.echo("error: out of memory", err=True)
        return ExitCode.RESOURCES
    click.echo(
        f"error: {type(error).__name__}: {error}\n"
        "  this is a bug in atrous; run again with --debug and report what it prints",
        err=True,
    )
    return ExitCode.BUG


if __name__ == "__main__":
    main()
