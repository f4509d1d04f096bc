"""What recognising a data set on disk gives: its classes, its splits, and how to read a target."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from atrous.classes import ClassTable, Color, pascal_palette
from atrous.data.dataset import FileDataset, Item, ReadTarget
from atrous.data.masks.targets import MaskReader
from atrous.errors import AtrousError, ExitCode, printable, unknown_name
from atrous.images.decode import SUFFIXES

T = TypeVar("T")

_ALIASES = {
    "training": "train",
    "valid": "val",
    "validation": "val",
    "testing": "test",
    "train_aug": "trainaug",
}


class Problem(NamedTuple):
    """A file that has no partner, or one too many."""

    code: str  # E-DATA-UNLABELLED, E-DATA-NO-PICTURE or E-DATA-TWICE
    what: str
    where: Path


class Listing(NamedTuple):
    """The samples of a split, and the files that are in the way of more."""

    items: tuple[Item, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Layout:
    """A recognised data set.

    Args:
        kind: What it was recognised as, for messages.
        root: Its folder or file.
        table: Its classes.
        read_target: Reads an item's target.
        splits: Lists the samples of each split.
    """

    kind: str
    root: Path
    table: ClassTable
    read_target: ReadTarget
    splits: Mapping[str, Callable[[], Listing]]

    def open(self, split: str) -> tuple[FileDataset, tuple[Problem, ...]]:
        """Returns the samples of a split, and what is in the way of more.

        Raises:
            AtrousError: There is no such split, or its list cannot be read.
        """
        items, problems = find_split(self.splits, split, self.root)()
        classes, palette = self.table.classes, self.table.palette
        return FileDataset(items, self.read_target, classes, palette), problems

    def allowing_lossy(self) -> "Layout":
        """Returns the layout that reads JPEG masks although their labels cannot be trusted."""
        if not isinstance(self.read_target, MaskReader):
            return self
        return replace(self, read_target=replace(self.read_target, allow_lossy=True))


def split_name(name: str) -> str:
    """Returns the name a split goes by here: "valid" and "validation" are "val", and so on."""
    lower = name.lower().replace("-", "_")
    return _ALIASES.get(lower, lower)


def find_split(splits: Mapping[str, T], split: str, root: Path) -> T:
    """Returns what is filed under a split's name or another spelling of it.

    Raises:
        AtrousError: There is no such split.
    """
    for name in (split, split_name(split)):
        if name in splits:
            return splits[name]
    error = unknown_name("split", split, splits)
    error.where = str(root)
    raise error


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
        raise AtrousError(
            "E-DATA-CLASSES",
            problem,
            where=where,
            fix="give each class one name of its own, and each or none a colour",
            exit_code=ExitCode.DATA,
        )
    return ClassTable(name, tuple(classes), tuple(palette) or pascal_palette(len(classes)))


def key_of(name: str) -> str:
    """Returns the key of a picture an annotation file names: its path without suffix.

    >>> key_of("./street/0001.jpg")
    'street/0001'
    """
    return os.path.splitext(PurePosixPath(name).as_posix())[0]  # noqa: PTH122


class Found(NamedTuple):
    """Files of a folder by key: the path within the folder, without suffix and common ending."""

    files: dict[str, Path]
    problems: tuple[Problem, ...]


def find_files(
    folder: Path, suffixes: Sequence[str] | frozenset[str] = SUFFIXES, *, ending: str = ""
) -> Found:
    """Finds files by suffix in a folder and those within it, in sorted order.

    Args:
        folder: Where to look; hidden files are passed over.
        suffixes: In lower case, with the dot.
        ending: What the names end with before the suffix, and the keys do not.
    """
    files: dict[str, Path] = {}
    problems = []
    for name in sorted(walk(folder)):  # strings: there may be a hundred thousand of them
        key, suffix = os.path.splitext(name)  # noqa: PTH122
        if suffix.lower() not in suffixes or not key.endswith(ending):
            continue
        key = key[: len(key) - len(ending)].replace(os.sep, "/")
        path = folder / name
        if key in files:
            same = f"{files[key].name} has the same name but for suffix"
            problems.append(Problem("E-DATA-TWICE", same, path))
        files.setdefault(key, path)
    return Found(files, tuple(problems))


def walk(folder: Path) -> Iterator[str]:
    """Yields the paths of files within a folder, without the hidden ones."""
    top = os.path.join(folder, "")  # noqa: PTH118  # paths stay strings here
    walked = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(parent)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in walked:  # a link back to a folder above
            folders.clear()
            continue
        walked.add((status.st_dev, status.st_ino))
        # A folder called x.jpg is somebody's broken picture; reading it will say so.
        odd = [name for name in folders if os.path.splitext(name)[1].lower() in SUFFIXES]  # noqa: PTH122
        folders[:] = [name for name in folders if name[0] != "." and name not in odd]
        inside = os.path.join(parent, "").removeprefix(top)  # noqa: PTH118
        yield from (inside + name for name in (*names, *odd) if name[0] != ".")


def pair(pictures: Found, masks: Found) -> Listing:
    """Pairs pictures and masks of equal keys, and reports the rest."""
    items = [Item(key, path, masks.files.get(key)) for key, path in pictures.files.items()]
    by_case = {key.casefold(): path for key, path in masks.files.items()}
    problems = [*pictures.problems, *masks.problems]
    for name, path, mask in items:
        if mask is None:
            near = by_case.get(name.casefold())
            hint = f"; {near.name} differs in upper and lower case" if near else ""
            problems.append(Problem("E-DATA-UNLABELLED", f"no mask for it{hint}", path))
    problems += [
        Problem("E-DATA-NO-PICTURE", "no picture for it", path)
        for key, path in masks.files.items()
        if key not in pictures.files
    ]
    return Listing(tuple(item for item in items if item.annotation), tuple(problems))


def pick(names: Sequence[str], pictures: Found, masks: Found, where: Path) -> Listing:
    """Pairs the pictures and masks a list names, and reports what is missing."""
    items, problems = [], []
    for name in dict.fromkeys(names):
        picture, mask = pictures.files.get(name), masks.files.get(name)
        if picture is None:
            problems.append(Problem("E-DATA-NO-PICTURE", f"no picture {name}", where))
        elif mask is None:
            problems.append(Problem("E-DATA-UNLABELLED", "no mask for it", picture))
        else:
            items.append(Item(name, picture, mask))
    return Listing(tuple(items), tuple(problems))


def read_list(path: Path) -> list[str]:
    """Returns the lines of a list of files, as the names are on disk."""
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    return [line.strip() for line in text.split("\n") if line.strip()]


def split_by_name(everything: Callable[[], Listing]) -> dict[str, Callable[[], Listing]]:
    """Returns splits for a data set that has none: a fifth of the samples is val, by name.

    Which samples depends on their names only, so that it is the same everywhere.
    """
    return {
        "train": _Part(everything, val=False),
        "val": _Part(everything, val=True),
        "all": everything,
    }


@dataclass(frozen=True)
class _Part:
    everything: Callable[[], Listing]
    val: bool

    def __call__(self) -> Listing:
        items, problems = self.everything()
        ranked = sorted(items, key=lambda item: hashlib.sha256(os.fsencode(item.name)).digest())
        val = {item.name for item in ranked[: (len(items) + 4) // 5]}
        return Listing(tuple(i for i in items if (i.name in val) == self.val), problems)
