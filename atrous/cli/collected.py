"""What ``atrous predict`` writes once for all pictures: regions, polygons, annotations."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atrous.errors import AtrousError, printable

if TYPE_CHECKING:
    from atrous.predict.batch import Outcome
    from atrous.predict.pre_annotations import PreAnnotations


def own_file(file: Path | None, shard: tuple[int, int], pictures: Sequence[Path]) -> Path | None:
    """Returns a file for all pictures: each shard has its own, and it is none of the pictures."""
    if file is None:
        return None
    if file.resolve() in {path.resolve() for path in pictures}:
        raise AtrousError("E-OUT", "an option names one of the pictures as a file", where=file)
    if shard[1] > 1:
        return file.with_name(f"{file.stem}.{shard[0]}-of-{shard[1]}{file.suffix}")
    return file


def write_collected(
    outcomes: list["Outcome"],
    classes: Sequence[str],
    coco: Path | None,
    polygons: Path | None,
    annotations: "PreAnnotations | None",
    *,
    err: bool,
) -> None:
    """Writes regions, polygons and annotations of pictures without an error, and prints how many.

    Args:
        outcomes: Of the pictures.
        classes: Names in the order of the label values.
        coco: The file of the regions; None: none is wanted.
        polygons: That of the polygons.
        annotations: From `annotations_of`.
        err: Whether to print to standard error.
    """
    from atrous.predict.coco import write_coco
    from atrous.predict.polygons import labels_on_ground, write_polygons

    outcomes.sort(key=lambda outcome: outcome.place)
    if coco is not None:
        count = write_coco(coco, outcomes, classes)
        click.echo(f"{count} regions in {printable(coco)}", err=err)
    if polygons is not None:
        count = write_polygons(polygons, outcomes, classes)
        click.echo(f"{count} polygons in {printable(polygons)}", err=err)
        if count := sum(not labels_on_ground(outcome) for outcome in outcomes):
            click.echo(f"{count} pictures have no georeference: no polygons of them", err=True)
    if annotations is not None:
        done = annotations.write(outcomes, classes)
        where = printable(done.target)
        click.echo(f"annotations of {done.written} pictures in {where}", err=err)
        if done.kept:
            click.echo(
                f"annotations of {done.kept} pictures were there and are kept, for they may be "
                "corrected; --overwrite writes them anew",
                err=err,
            )
        click.echo(f"to import them: {annotations.how_to_import(where)}", err=err)


def annotations_of(
    kind: str | None, tolerance: float | None, **options: Any
) -> "PreAnnotations | None":
    """Returns what collects the annotations of a call, if they are wanted."""
    from atrous.predict.annotate import TOLERANCE
    from atrous.predict.pre_annotations import PreAnnotations

    if kind is None:
        if tolerance is not None:
            raise click.UsageError("--tolerance is of --annotate, which is not given")
        return None
    return PreAnnotations(kind, tolerance=TOLERANCE if tolerance is None else tolerance, **options)
