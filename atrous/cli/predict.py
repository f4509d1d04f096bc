"""``atrous predict``: pictures in, masks out."""

import json
import re
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from atrous.cli.collected import annotations_of, own_file, write_collected
from atrous.cli.options import (
    ANY_PATH,
    ANY_PLACE,
    PICTURES,
    Progress,
    amount,
    device_option,
    precision_option,
    threads_option,
)
from atrous.errors import AtrousError, ExitCode, printable

if TYPE_CHECKING:
    from atrous.predict.batch import Outcome
    from atrous.predict.find import Found

_TOOLS = ("labelme", "cvat", "coco", "yolo", "label-studio")
_NOTES = 5  # kinds of decisions that the summary names


def _shard(context: click.Context, option: click.Parameter, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{text!r} is no share such as 1/4 (the first of four)")
    return int(match[1]), int(match[2])


@click.command()
@click.argument("paths", nargs=-1, required=True, type=PICTURES, metavar="PATHS...")
@click.option("--model", metavar="MODEL", help="A model file or built-in name [default: voc].")
@click.option(
    "--out",
    type=ANY_PLACE,
    default=Path("masks"),
    show_default=True,
    help="Folder of the output, an address in a store, or a tar file NAME.tar.",
)
@threads_option
@click.option(
    "--memory",
    default="2GB",
    show_default=True,
    callback=amount,
    help="Memory of the process; pictures that need more are seen in overlapping tiles.",
)
@precision_option
@device_option
@click.option(
    "--unknown", "unknown_below", type=click.FloatRange(0, 1), default=0.0, metavar="P",
    help="Label 255 (65535 above 255 classes) where no class has this probability.",
)  # fmt: skip
@click.option(
    "--probability", "probabilities", multiple=True, metavar="CLASS",
    help="Write the probability of a class too, as b.CLASS.png; may be repeated.",
)  # fmt: skip
@click.option(
    "--cutout", "cutouts", multiple=True, metavar="CLASS",
    help="Cut a class out of the picture, as b.CLASS.cutout.png; may be repeated.",
)  # fmt: skip
@click.option("--no-overlay", is_flag=True, help="Write no overlay.")
@click.option("--no-legend", is_flag=True, help="Draw no legend below the overlay.")
@click.option(
    "--coco", type=ANY_PATH, metavar="FILE.json",
    help="Write the outlines of all regions as polygons, in COCO's format.",
)  # fmt: skip
@click.option(
    "--index", type=ANY_PLACE, metavar="FILE.parquet",
    help="Write a table of all records and errors, for pandas, DuckDB and others.",
)  # fmt: skip
@click.option(
    "--polygons", type=ANY_PATH, metavar="FILE",
    help="Write the regions of georeferenced pictures as polygons in map units: .geojson or .gpkg.",
)  # fmt: skip
@click.option(
    "--annotate", type=click.Choice(_TOOLS),
    help="Write annotations that a labelling tool imports, into a folder of this name in --out.",
)  # fmt: skip
@click.option(
    "--tolerance", type=click.FloatRange(0), metavar="PIXELS",
    help="Of --annotate: how far polygons may be from the outlines; 0: exact [default: 1].",
)  # fmt: skip
@click.option(
    "--every", type=click.IntRange(1), default=1, show_default=True, metavar="N",
    help="Of videos: segment every N-th frame; the overlay holds these.",
)  # fmt: skip
@click.option(
    "--stabilise", is_flag=True,
    help="Of videos: labels of a mean over frames, begun anew at cuts; they flicker less.",
)  # fmt: skip
@click.option(
    "--label-frames", is_flag=True,
    help="Of videos: write the labels of each frame, as b.labels/000000.labels.png.",
)  # fmt: skip
@click.option("--keep-exif", is_flag=True, help="Keep the picture's EXIF in the overlay.")
@click.option(
    "--shard", callback=_shard, default="1/1", metavar="I/N",
    help="Do the I-th of N shares of the pictures; N processes or machines do them all.",
)  # fmt: skip
@click.option(
    "--jobs", type=click.IntRange(1), metavar="N",
    help="Worker processes, which share the threads; --memory is of each [default: 1]. With Ray: "
    "actors [default: one for each processor, on a cluster all but one].",
)  # fmt: skip
@click.option("--engine", type=click.Choice(["ray"]), help="Work on Ray instead of processes.")
@click.option(
    "--address", help="A running Ray cluster [default: one on this machine, for this call]."
)
@click.option(
    "--on-error", type=click.Choice(["continue", "stop"]), default="continue", show_default=True,
    help="What to do after a picture that cannot be read.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Redo pictures that are finished already.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON per picture.")
@click.pass_obj
def predict(
    debug: bool | None,
    /,
    paths: tuple[Path | str, ...],
    out: Path,
    probabilities: tuple[str, ...],
    cutouts: tuple[str, ...],
    no_overlay: bool,
    no_legend: bool,
    coco: Path | None,
    index: Path | None,
    polygons: Path | None,
    annotate: str | None,
    tolerance: float | None,
    every: int,
    stabilise: bool,
    label_frames: bool,
    keep_exif: bool,
    shard: tuple[int, int],
    jobs: int | None,
    engine: Literal["ray"] | None,
    address: str | None,
    on_error: str,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Segments pictures and videos: a mask, an overlay and the share of each class.

    PATHS are pictures, videos, folders of them, patterns such as 'a/**/*.jpg', addresses
    https://..., pages of a TIFF stack x.tif#3, or - for a picture on standard input. For a picture
    a/b.jpg the output folder gets b.labels.png (class indices with a palette), b.overlay.jpg (to
    look at) and b.json. A picture found in a named folder keeps its
    path below that folder. A picture that cannot be read is reported and the others go on (exit
    code 3). Finished output of the same picture, model and options is kept, so an interrupted run
    can simply be started again. No other file is ever replaced.

    A georeferenced picture (extra geo) gets b.labels.tif, which lies where the picture lies.

    A picture too large for --memory is seen in tiles whose logits are joined, and its overlay is
    reduced. A TIFF may have any size, other pictures up to 100 megapixels.

    A video clip.mp4, read by the program ffmpeg, gives clip.overlay.mp4 with its sound,
    clip.frames.jsonl (a line for each frame) and clip.json.

    \b
    Examples:
      atrous predict photo.jpg
      atrous predict clip.mp4 --stabilise
      atrous predict street.jpg --model street
      atrous predict holiday/ --model model.onnx --out masks --json
      atrous predict 'holiday/*.jpg' --probability dog --unknown 0.5 --coco regions.json
      atrous predict cat.jpg --cutout cat --no-overlay
      atrous predict new/ --model runs/first --annotate labelme
      atrous predict huge/ --jobs 8
      atrous predict huge/ --engine ray --address 10.0.0.1:6379
      atrous predict huge/ --shard 2/8
      atrous predict city.tif --model model.onnx --memory 4GB --polygons city.geojson
    """
    from atrous.predict.batch import Extras
    from atrous.predict.find import of_first_channel
    from atrous.predict.index import indexed
    from atrous.predict.many import segmented, streams_for
    from atrous.predict.polygons import check_file
    from atrous.predict.predictor import Predictor
    from atrous.predict.video import VideoOptions

    needs_files = bool(coco or polygons or annotate)
    out = _out(out, shard, needs_files=needs_files)
    found = _found(paths, out, only_pictures=bool(needs_files or probabilities or cutouts))
    coco, index, polygons = (
        own_file(file, shard, found.paths) for file in (coco, index, check_file(polygons))
    )
    streams = streams_for(
        found.pictures[shard[0] - 1 :: shard[1]], options["threads"], jobs, engine
    )
    predictor = Predictor(**options, streams=streams)
    found = of_first_channel(found, predictor.bands)
    annotations = annotations_of(
        annotate, tolerance, pictures=found.pictures, out=out, overwrite=overwrite, shard=shard
    )
    mine = found.pictures[shard[0] - 1 :: shard[1]]
    report = _Report([picture.shown for picture in mine], as_json=as_json, debug=bool(debug))
    finished: list[Outcome] = []
    extras = Extras(
        probabilities, cutouts, not no_overlay, not (no_legend or no_overlay), keep_exif,
        VideoOptions(every, stabilise, label_frames),
    )  # fmt: skip
    outcomes = segmented(
        predictor, options, found.pictures, out, jobs=jobs, engine=engine, address=address,
        overwrite=overwrite, extras=extras, shard=shard, on_frame=report.frame,
    )  # fmt: skip
    for outcome in indexed(_alone_on_stdout(outcomes), index):
        report.add(outcome)
        if outcome.record is not None:
            finished += [outcome] if needs_files else []
        elif on_error == "stop":
            break
    write_collected(finished, predictor.classes, coco, polygons, annotations, err=as_json)
    report.end(predictor.precision, out, found.left_out)
    if report.failed:
        raise SystemExit(ExitCode.SOME_FAILED)


def _out(out: Path, shard: tuple[int, int], *, needs_files: bool) -> Path:
    """Returns the folder of the output, or the share's own tar file."""
    from atrous.predict.tar_out import is_tar

    if not is_tar(out):
        return out
    if needs_files:
        raise AtrousError(
            "E-OUT", "--coco, --polygons and --annotate read label files, and a tar file hides "
            "them", where=out, fix="name a folder with --out",
        )  # fmt: skip
    return own_file(out, shard, ()) or out


def _found(paths: Sequence[Path | str], out: Path, *, only_pictures: bool) -> "Found":
    """Returns the pictures and, unless an option is of pictures alone, the videos of a call."""
    from atrous.predict.find import AS_FRAMES, find_pictures, refuse_videos

    found = find_pictures(paths, out, videos=not only_pictures)
    if only_pictures:
        options = "--coco, --polygons, --annotate, --probability and --cutout"
        refuse_videos(found.pictures, f"{options} are not for videos", AS_FRAMES)
    return found


def _alone_on_stdout(outcomes: Iterator["Outcome"]) -> Iterator["Outcome"]:
    """Yields the outcomes; what libraries print meanwhile, as Ray does, goes to standard error."""
    with redirect_stdout(sys.stderr):
        yield from outcomes


class _Report:
    """Prints a line for each picture, and progress."""

    def __init__(self, pictures: Sequence[str], *, as_json: bool, debug: bool) -> None:
        self.as_json, self.debug = as_json, debug
        self.stdout = sys.stdout
        self.width = min(48, max((len(printable(name)) for name in pictures), default=0))
        self.headed = False
        self.progress = Progress(len(pictures), "predict")
        self.frames: dict[Path, Progress] = {}
        self.done = self.failed = 0
        self.notes: Counter[str] = Counter()

    def frame(self, path: Path, done: int, expected: int) -> None:
        """Prints how much of a video is done."""
        if path not in self.frames:
            self.frames[path] = Progress(expected, path.name, "frames")
        if done:
            self.frames[path].count(done)

    def add(self, outcome: "Outcome") -> None:
        """Prints the outcome of a picture."""
        from atrous.predict.batch import shown

        self.done += 1
        self.notes.update((outcome.record or {}).get("notes", ()))
        if self.as_json:
            click.echo(json.dumps(shown(outcome)), file=self.stdout)
        if outcome.record is None:
            self.failed += 1
            click.echo(f"error: {outcome.error}", err=True)
            if self.debug and outcome.error is not None and outcome.error.__cause__ is not None:
                traceback.print_exception(outcome.error.__cause__)
        elif not self.as_json:
            height, width = outcome.record["size"]
            spent = f"{outcome.seconds:.2f} s" if outcome.seconds else "kept"
            areas = outcome.record["areas"].items()
            shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in areas)
            if "num_frames" in outcome.record:
                count = outcome.record["num_frames"]
                shares = f"{count} frame{'s' * (count != 1)}: {shares}"
            self._row(printable(outcome.shown), f"{height} x {width}", spent, shares)
            for note in outcome.record.get("notes", ()):
                click.echo(f"note: {printable(outcome.shown)}: {printable(note)}", err=True)
        if self.progress.total > 1:
            self.progress.count(self.done)

    def _row(self, name: str, size: str, spent: str, shares: str) -> None:
        """Prints a row of a table as wide as the longest name; of a very long name, the end."""
        if not self.headed:
            self.headed = True
            self._row("picture", "height x width", "time", "share of each class")
        if len(name) > self.width:
            name = "..." + name[-(self.width - 3) :]
        row = f"{name:<{self.width}}  {size:>14}  {spent:>8}  {shares}"
        click.echo(row, file=self.stdout)

    def end(self, precision: str, out: Path, left_out: dict[str, int]) -> None:
        """Prints what was done, and the files of folders that were left out."""
        from atrous.predict.find import said

        done = f"{self.done - self.failed} of {self.progress.total} done in {precision}"
        click.echo(f"{done}, in {printable(out)}", err=self.as_json)
        if self.progress.total > 1:
            for note, count in self.notes.most_common(_NOTES):
                click.echo(f"{count} of them: {printable(note)}", err=self.as_json)
            if len(self.notes) > _NOTES:
                click.echo(
                    f"{len(self.notes) - _NOTES} more notes in the records", err=self.as_json
                )
        if left_out:
            click.echo(f"left out: {printable(said(left_out))}", err=self.as_json)
