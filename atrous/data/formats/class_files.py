"""Files beside the masks that name the classes and their colours."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from atrous.classes import ClassTable, Color, color_of
from atrous.data.formats.layout import BACKGROUND, class_table, is_void
from atrous.data.formats.pairing import read_list
from atrous.data.masks.colors import ColorTable, color_table
from atrous.data.masks.targets import MaskReader
from atrous.errors import AtrousError, DataError

NAMES = (
    "classes.json",
    "labelmap.txt",
    "class_dict.csv",
    "_classes.csv",
    "classes.txt",
    "class_names.txt",  # labelme2voc
    "labels.txt",  # PaddleSeg
    "label_names.txt",
    "codes.txt",  # fastai
)


@dataclass(frozen=True)
class ClassFile:
    """Classes, and how masks store the classes."""

    table: ClassTable
    mapping: Mapping[int, int | None] = field(default_factory=dict)  # value in masks -> index
    colors: ColorTable = ()  # colour in masks -> value

    def reader(self) -> MaskReader:
        """Returns the reader of such masks."""
        return MaskReader(len(self.table.classes), self.mapping, self.colors)


def find_class_file(*folders: Path) -> ClassFile | None:
    """Reads the first class file of some folders, in the order of `NAMES`."""
    for folder in folders:
        files = {path.name.lower(): path for path in folder.glob("*.*") if path.is_file()}
        for name in NAMES:
            if name in files:
                return read_class_file(files[name])
    return None


def read_class_file(path: Path) -> ClassFile:
    """Reads a class file. The name of the file tells its form.

    ``classes.json``: ``{"classes": [...], "palette": [[r, g, b], ...], "void": value or list}``,
    the palette with or without a colour for void. ``labelmap.txt`` (CVAT): ``name:r,g,b::`` a line.
    ``class_dict.csv``: a header and ``name,r,g,b``. ``_classes.csv`` (Roboflow): a header and
    ``value, name``. Other text files: a name a line.

    Raises:
        AtrousError: It cannot be read, or a name occurs twice.
    """
    try:
        return _READERS.get(path.name.lower(), _names)(path)
    except AtrousError:
        raise
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            "E-DATA-CLASSES",
            f"the file does not have the form that its name stands for: {error}",
            where=path,
            fix="see the forms in docs/data.md",
        ) from None


def _json(path: Path) -> ClassFile:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    names = [_plain(str(name)) for name in content["classes"]]
    palette = [color_of(entry) for entry in content.get("palette", ())]
    void = content.get("void", [])
    mapping = dict.fromkeys([_value(v) for v in (void if isinstance(void, list) else [void])])
    table = class_table("classes.json", names, palette[: len(names)], where=path)
    return ClassFile(table, mapping, color_table(palette))


def _label_map(path: Path) -> ClassFile:
    rows = [line.split(":") for line in read_list(path) if not line.startswith("#")]
    colored = [(row[0], color_of(row[1].split(","))) for row in rows]
    return _of_colors(colored, path)


def _class_dict(path: Path) -> ClassFile:
    return _of_colors([(row[0].strip(), color_of(row[1:4])) for row in _table(path)], path)


def _table(path: Path) -> list[list[str]]:
    """Returns the rows below the header of a CSV file."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [row for row in list(csv.reader(file))[1:] if row]


def _plain(name: str) -> str:
    """Returns a class's name; LabelMe's "_background_" is written as everywhere else."""
    return BACKGROUND if name == "_background_" else name


def _of_colors(rows: Sequence[tuple[str, Color]], path: Path) -> ClassFile:
    """Returns the classes in the order of rows; names that mean unlabelled get the last values."""
    classes = [row for row in rows if not is_void(row[0])]
    void = [row for row in rows if is_void(row[0])]
    table = class_table(
        path.name, [_plain(name) for name, _ in classes], [c for _, c in classes], where=path
    )
    mapping = dict.fromkeys(range(len(classes), len(rows)))
    return ClassFile(table, mapping, color_table(color for _, color in (*classes, *void)))


def _values(path: Path) -> ClassFile:
    rows = sorted((_value(row[0]), row[1].strip()) for row in _table(path))
    named = [(value, name) for value, name in rows if not is_void(name)]
    mapping = dict.fromkeys(value for value, _ in rows)
    mapping |= {value: index for index, (value, _) in enumerate(named)}
    names = [_plain(name) for _, name in named]
    return ClassFile(class_table(path.name, names, where=path), mapping)


def _names(path: Path) -> ClassFile:
    names = [_plain(line) for line in read_list(path) if not is_void(line)]
    return ClassFile(class_table(path.name, names, where=path))


def _value(entry: object) -> int:
    value = int(str(entry))
    if not 0 <= value <= 65535:
        raise ValueError(f"value {value} is not of 0..65535")
    return value


_READERS = {
    "classes.json": _json,
    "labelmap.txt": _label_map,
    "class_dict.csv": _class_dict,
    "_classes.csv": _values,
}
