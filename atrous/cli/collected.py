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


class Collected:
    """Collects what is written once for all pictures: regions, polygons, annotations."""

    def __init__(
        self,
        classes: Sequence[str],
        coco: Path | None,
        polygons: Path | None,
        annotations: "PreAnnotations | None",
    ) -> None:
        from atrous.predict.coco import CocoRegions
        from atrous.predict.polygons import GroundPolygons

        self.classes, self.annotations = classes, annotations
        self.regions = (coco, CocoRegions(classes)) if coco else None
        self.ground = (polygons, GroundPolygons(classes)) if polygons else None

    def add(self, outcome: "Outcome") -> None:
        """Adds a picture that was segmented."""
        for pair in (self.regions, self.ground):
            if pair is not None:
                pair[1].add(outcome)
        if self.annotations is not None:
            self.annotations.add(outcome)

    def write(self, *, err: bool) -> None:
        """Writes the files and prints what they hold."""
        for pair, kind in ((self.regions, "regions"), (self.ground, "polygons")):
            if pair is not None:
                click.echo(f"{pair[1].write(pair[0])} {kind} in {printable(pair[0])}", err=err)
        if self.ground is not None and (count := self.ground[1].without_place):
            click.echo(f"{count} pictures have no georeference: no polygons of them", err=True)
        if self.annotations is not None:
            _write_annotations(self.annotations, self.classes, err=err)


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


def _write_annotations(annotations: "PreAnnotations", classes: Sequence[str], *, err: bool) -> None:
    """Writes the annotations and prints where they are and how a tool takes them."""
    done = annotations.write(classes)
    where = printable(done.target)
    click.echo(f"annotations of {done.written} pictures in {where}", err=err)
    if done.kept:
        click.echo(
            f"annotations of {done.kept} pictures were there and are kept, for they may be "
            "corrected; --overwrite writes them anew",
            err=err,
        )
    click.echo(f"to import them: {annotations.how_to_import(where)}", err=err)
