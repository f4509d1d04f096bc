"""A recognised data set: its classes, its splits, and how to read a target."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from atrous.classes import ClassTable, Color, pascal_palette, unlabelled
from atrous.data.dataset import FileDataset, Item, ReadTarget
from atrous.data.formats.pairing import Listing, Problem, relative, split_name
from atrous.data.masks.targets import MaskReader
from atrous.errors import AtrousError, DataError, printable, unknown_name
from atrous.images.bands import PLAIN, Bands
from atrous.images.raster import Raster, has_rasterio
from atrous.images.tars import Member, opened

BACKGROUND = "background"
PART = 2048  # pixels of a side
_VOID = frozenset(("void", "unlabelled", "unlabeled", "ignore", "__ignore__"))


@dataclass(frozen=True)
class Layout:
    """A recognised data set.

    Args:
        kind: Name of the format, for messages.
        root: Its folder or file.
        table: Its classes.
        read_target: Reads an item's target.
        splits: Lists the samples of each split.
        folder: The folder that names of pictures are relative to; by default the folder of `root`.
        bands: Channels of pictures that are not RGB; their files decide the type.
    """

    kind: str
    root: Path
    table: ClassTable
    read_target: ReadTarget
    splits: Mapping[str, Callable[[], Listing]]
    folder: Path | None = None
    bands: Bands | None = None

    def open(self, split: str) -> tuple[FileDataset, tuple[Problem, ...]]:
        """Returns the samples of a split, and the files that could not become samples.

        Raises:
            AtrousError: There is no such split, or its list cannot be read.
        """
        lister = self.splits.get(split) or self.splits.get(split_name(split))
        if lister is None:
            error = unknown_name("split", split, self.splits)
            error.where = str(self.root)
            raise error
        listed, problems = lister()
        folder = self.folder or (self.root if self.root.is_dir() else self.root.parent)
        items: dict[Path | Member, Item] = {}
        twice = []
        for item in listed:
            if item.image in items:
                what = "the picture has several annotations in this split"
                twice.append(Problem("E-DATA-TWICE", what, item.image))
            name = relative(item.image, folder)
            items[item.image] = item._replace(name=name, key=item.name)
        samples, bands = tuple(items.values()), self.bands or PLAIN
        if self.bands and samples:
            bands = replace(bands, dtype=Raster(opened(samples[0].image), bands.sources).dtype)
            if isinstance(self.read_target, MaskReader):  # shapes are drawn at a picture's size
                samples = tuple(part for item in samples for part in parts_of(item, bands))
        dataset = FileDataset(
            samples, self.read_target, self.table.classes, self.table.palette, bands
        )
        return dataset, (*problems, *twice)

    def allowing_lossy(self) -> "Layout":
        """Returns the layout that reads JPEG masks although their labels cannot be trusted."""
        if not isinstance(self.read_target, MaskReader):
            return self
        return replace(self, read_target=replace(self.read_target, allow_lossy=True))


def parts_of(item: Item, bands: Bands) -> list[Item]:
    """Cuts a scene that rasterio reads by windows into samples of at most `PART` a side.

    A picture that is no larger, or cannot be read by windows, stays one sample.
    """
    try:
        height, width = Raster(opened(item.image), bands.sources).size
    except AtrousError:
        return [item]  # whoever reads the sample reports it
    if max(height, width) <= PART or not has_rasterio():
        return [item]
    rows, columns = (
        [(n * side // count, (n + 1) * side // count) for n in range(count)]
        for side, count in ((height, -(-height // PART)), (width, -(-width // PART)))
    )
    return [
        item._replace(
            name=f"{item.name}#{top},{left}", window=(top, left, bottom - top, right - left)
        )
        for top, bottom in rows
        for left, right in columns
    ]


def is_background(name: str) -> bool:
    """Says whether a tool's class means everything else: "background", "_background_" ..."""
    return name.strip("_ ").casefold() == BACKGROUND


def is_void(name: str) -> bool:
    """Says whether a tool's class means unlabelled: "void", "__ignore__" ..."""
    return name.casefold() in _VOID


def shape_classes(
    labels: Sequence[str], *, background: bool = True
) -> tuple[list[str], dict[str, int]]:
    """Returns the classes of a tool's labels, and the value of each label in targets.

    Labels that mean background share one class. Labels that mean unlabelled are no classes.

    Args:
        labels: Names of the tool, in order.
        background: Whether a class "background" comes first, if no label means it.
    """
    plain = {label: BACKGROUND if is_background(label) else label for label in labels}
    classes = list(dict.fromkeys(plain[label] for label in labels if not is_void(label)))
    if background and BACKGROUND not in classes:
        classes.insert(0, BACKGROUND)
    ignored = unlabelled(len(classes))
    return classes, {
        label: ignored if is_void(label) else classes.index(name) for label, name in plain.items()
    }


def class_table(
    name: str, classes: Sequence[str], palette: Sequence[Color] = (), *, where: object
) -> ClassTable:
    """Returns a table of classes, with the PASCAL colours if none are given.

    Raises:
        AtrousError: No classes, a name that occurs twice, or another number of colours.
    """
    twice = sorted({c for c in classes if classes.count(c) > 1})
    problem = ""
    if not classes:
        problem = "no class names"
    elif twice:
        problem = f"class names that occur twice: {', '.join(map(printable, twice))}"
    elif palette and len(palette) != len(classes):
        problem = f"{len(palette)} colours for {len(classes)} classes"
    if problem:
        raise DataError(
            "E-DATA-CLASSES",
            problem,
            where=where,
            fix="give every class a name of its own, and a colour to all classes or to none",
        )
    return ClassTable(name, tuple(classes), tuple(palette) or pascal_palette(len(classes)))
