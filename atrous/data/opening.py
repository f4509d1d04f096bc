"""Opens a data set: recognises its layout and checks that no file is missing."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from atrous.data.dataset import Dataset
from atrous.data.formats import (
    ade20k,
    camvid,
    cityscapes,
    coco,
    cvat,
    folders,
    image_folder,
    labelme,
    shards,
    ultralytics,
    voc,
)
from atrous.data.formats.layout import BACKGROUND, Layout, class_table
from atrous.data.formats.mask_classes import UNNAMED
from atrous.data.formats.pairing import Problem
from atrous.data.masks.targets import MaskReader
from atrous.data.scenes.procedural import scenes_split
from atrous.errors import AtrousError, DataError, listed, printable

_FORMATS: tuple[tuple[str, Callable[[Path], Layout | None]], ...] = (
    (ultralytics.LOOKS_FOR, ultralytics.recognise),
    (voc.LOOKS_FOR, voc.recognise),
    (cityscapes.LOOKS_FOR, cityscapes.recognise),
    (ade20k.LOOKS_FOR, ade20k.recognise),
    (camvid.LOOKS_FOR, camvid.recognise),
    (coco.LOOKS_FOR, coco.recognise),
    (cvat.LOOKS_FOR, cvat.recognise),
    (voc.LOOKS_FOR_SBD, voc.recognise_sbd),
    (shards.LOOKS_FOR, shards.recognise),
    (labelme.LOOKS_FOR, labelme.recognise),
    (folders.LOOKS_FOR, folders.recognise),
)

# Numbers of classes of data sets that are used with several.
CONVENTIONS = {"ADE20K": (150, 151, 32)}

_SHOWN = 10  # names in a message


def recognise(
    path: str | Path, *, num_classes: int | None = None, names: Sequence[str] = ()
) -> Layout:
    """Recognises the layout of a folder or file of labelled pictures.

    Args:
        path: A devkit's or data set's folder, a dataset YAML, or an annotation file.
        num_classes: Number of classes, where a data set is used with several: 150, 151 or 32
            classes of ADE20K.
        names: Names of the classes, in place of the data set's own. Where the first class is
            "background", it may be left out: ``["road"]`` names the foreground of 0/255 masks.

    Raises:
        AtrousError: Nothing is recognised, with what was looked for; or the data set has another
            number of classes.
    """
    root = Path(path)
    if not root.exists():
        raise AtrousError("E-FILE-MISSING", "no such file or folder", where=root)
    layout = next(filter(None, (find(root) for _, find in _FORMATS)), None)
    if layout is None:
        raise _unrecognised(root)
    if layout.kind == "ADE20K" and num_classes is not None:
        layout = ade20k.with_classes(layout, num_classes) or layout
    if num_classes not in (None, len(layout.table.classes)):
        raise DataError(
            "E-DATA-CLASSES",
            f"the data has {len(layout.table.classes)} classes, and {num_classes} were asked for",
            where=root,
            fix="use a model of these classes, or map the classes in a dataset YAML",
        )
    return named(layout, names) if names else layout


def named(layout: Layout, names: Sequence[str]) -> Layout:
    """Returns a data set with other names of its classes.

    Args:
        layout: A recognised data set.
        names: One name for each class; or one less, if the first class is "background". Where no
            file names the classes, there may be more names than values in the masks.

    Raises:
        AtrousError: Another number of names, or a name twice.
    """
    table, reader = layout.table, layout.read_target
    known = len(table.classes)
    names = [name.strip() for name in names]
    if len(names) == known - 1 and table.classes[0] == BACKGROUND:
        names = [BACKGROUND, *names]
    nobody_named_them = table.name in UNNAMED and isinstance(reader, MaskReader)
    if len(names) != known and not (nobody_named_them and len(names) > known):
        raise DataError(
            "E-DATA-CLASSES",
            f"{len(names)} names for {known} classes: {', '.join(map(printable, table.classes))}",
            where=layout.root,
            fix="give one name for each class",
        )
    palette = table.palette if len(names) == known else ()
    renamed = class_table("names", names, palette, where=layout.root)
    if isinstance(reader, MaskReader):
        reader = replace(reader, num_classes=len(names))
    return replace(layout, table=renamed, read_target=reader)


def open_dataset(
    path: str | Path,
    split: str = "val",
    *,
    num_classes: int | None = None,
    names: Sequence[str] = (),
    allow_unlabelled: bool = False,
    allow_lossy: bool = False,
) -> Dataset:
    """Opens a split of a data set of any known layout.

    Args:
        path: A devkit's or data set's folder, a dataset YAML, an annotation file, or "scenes": the
            data of `atrous train scenes`.
        split: "train", "val", ... A data set without splits gets train and val by the names of its
            pictures, and all.
        num_classes: As for `recognise`.
        names: As for `recognise`.
        allow_unlabelled: Leave out pictures without annotation, and annotations without picture,
            instead of raising an error.
        allow_lossy: Read JPEG masks although their labels cannot be trusted.

    Raises:
        AtrousError: The layout is unknown, the split is missing or empty, or files have no partner.
    """
    if str(path) == "scenes" and not Path(path).exists() and not names:
        return scenes_split(split)
    layout = recognise(path, num_classes=num_classes, names=names)
    if allow_lossy:
        layout = layout.allowing_lossy()
    dataset, problems = layout.open(split)
    check_problems(problems, Path(path), allow_unlabelled=allow_unlabelled)
    if not len(dataset):
        raise DataError(
            "E-DATA-EMPTY",
            f"the split {split!r} has no samples",
            where=path,
            fix="put pictures and annotations into the folders of this layout",
        )
    return dataset


def check_problems(problems: Sequence[Problem], root: Path, *, allow_unlabelled: bool) -> None:
    """Raises `AtrousError` for files without a partner, or with several; names the first ten."""
    if allow_unlabelled:
        problems = [p for p in problems if p.code == "E-DATA-TWICE"]
    if not problems:
        return
    counts = Counter(problem.code for problem in problems)
    kinds = ", ".join(f"{what}: {counts[code]}" for code, what in _PROBLEMS.items() if counts[code])
    names = "\n".join(f"    {printable(p.where)}: {printable(p.what)}" for p in problems[:_SHOWN])
    more = f"\n    and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    unclear = counts["E-DATA-TWICE"] > 0
    raise DataError(
        "E-DATA-TWICE" if unclear else "E-DATA-PAIRS",
        f"{kinds}\n{names}{more}",
        where=root,
        fix="rename the files so that each annotation belongs to one picture"
        if unclear
        else "add the missing files or remove these (atrous data check lists all); in Python, "
        "allow_unlabelled=True leaves these out",
    )


_PROBLEMS = {
    "E-DATA-UNLABELLED": "pictures without annotation",
    "E-DATA-NO-PICTURE": "annotations without picture",
    "E-DATA-TWICE": "unclear names",
}


def _unrecognised(root: Path) -> AtrousError:
    looked_for = "\n".join(f"    - {looks_for}" for looks_for, _ in _FORMATS)
    if root.is_dir():
        found = listed(sorted(p.name + "/" * p.is_dir() for p in root.iterdir()))
        what = f"no data set is recognised here; it holds {found}"
    else:
        what = "not a file of a known data set"
    if image_folder.looks_like_image_folder(root):
        what += "; the folder holds classified pictures (atrous train imagenet_xception65)"
    return DataError(
        "E-DATA-LAYOUT",
        f"{what}. Looked for:\n{looked_for}",
        where=root,
        fix="give the folder that holds one of these layouts, or describe your folders in a "
        "dataset YAML (docs/data.md)",
    )
