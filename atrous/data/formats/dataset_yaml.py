"""The dataset YAML of ultralytics for semantic segmentation: its keys, read and checked.

ultralytics documents path, train, val, test, names, nc, masks_dir and label_mapping. colors, and
channels, bands, normalize and preview of pictures that are not RGB, are extensions. A script under
``download`` is never run.
"""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from atrous.classes import IGNORE_INDEX, Color, color_of, unlabelled
from atrous.data.masks.colors import ColorTable
from atrous.errors import AtrousError, DataError, needing, printable
from atrous.images.bands import Bands

_SPLITS = ("train", "val", "test")
_OF_CHANNELS = ("channels", "bands", "normalize", "preview")
_KEYS = ("path", *_SPLITS, "names", "nc", "masks_dir", "label_mapping", "colors",
         *_OF_CHANNELS)  # fmt: skip
_IGNORE = "ignore_label"
_NULL = ("", "~", "null", "Null", "NULL")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetYaml:
    """A checked dataset YAML."""

    path: Path
    root: Path
    splits: Mapping[str, tuple[str, ...]]  # folders and lists of pictures, as written
    names: tuple[str, ...]
    masks_dir: str | None
    mapping: Mapping[int, int | None]  # value in masks -> class index
    colors: ColorTable  # colour in masks -> value
    bands: Bands | None  # of pictures that are not RGB; the type comes from their files

    def sources(self, split: str) -> tuple[Path, ...]:
        """Returns the folders and lists of a split.

        Raises:
            AtrousError: A folder or list is missing. Only who asks for a split needs its files.
        """
        found = []
        for entry in self.splits[split]:
            source = self.root / entry
            if not source.exists() and entry.startswith("../"):
                source = self.root / entry[3:]  # as Roboflow writes it and ultralytics reads it
            if not source.exists():
                what = f"{split}: {entry!r} is not in {self.root}"
                raise _invalid(what, self.path, "correct the path")
            found.append(source)
        return tuple(found)

    def is_present(self, split: str) -> bool:
        """Says whether the folders and lists of a split are there."""
        try:
            return bool(self.sources(split))
        except AtrousError:
            return False

    @property
    def palette(self) -> tuple[Color, ...]:
        """The classes' colours; empty unless every class has a colour."""
        by_index = {self.mapping.get(value, value): color for color, value in self.colors}
        colors = [by_index.get(index) for index in range(len(self.names))]
        return tuple(color for color in colors if color) if all(colors) else ()


def read_dataset_yaml(path: Path) -> DatasetYaml:
    """Reads and checks a dataset YAML.

    Raises:
        AtrousError: Not YAML, a misspelt key, or a value that contradicts another.
    """
    content = _load(path)
    for key in content:
        near = get_close_matches(str(key), _KEYS, n=1, cutoff=0.75)
        if key not in _KEYS and near:
            raise _invalid(f"unknown key {key!r}", path, f"did you mean {near[0]!r}?")
        if key not in _KEYS:
            log.info("%s: the key %r means nothing here", path, key)
    names = _names(content, path)
    root = _root(content, path)
    masks_dir = _given(content, "masks_dir")
    if masks_dir is not None and (not isinstance(masks_dir, str) or "\0" in masks_dir):
        raise _invalid(f"masks_dir {masks_dir!r} is no folder's name", path)
    if masks_dir is None and (root / "masks").is_dir():
        masks_dir = "masks"  # as ultralytics does
    return DatasetYaml(
        path=path,
        root=root,
        splits={s: _entries(content[s]) for s in _SPLITS if _given(content, s)},
        names=names,
        masks_dir=masks_dir,
        mapping=_mapping(content, len(names), path),
        colors=_colors(content, names, path),
        bands=read_channels({key: _given(content, key) for key in _OF_CHANNELS}, path),
    )


def _load(path: Path) -> dict[Any, Any]:
    with needing("reading YAML", "data"):
        import yaml

    try:
        with path.open("rb") as file:
            # Every value stays the text it is: YAML 1.1 would read a class "no" as false.
            loader = yaml.BaseLoader(file)
            node = loader.get_single_node()
            content = loader.construct_document(node) if node else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise _invalid(f"not a YAML file: {error}", path) from None
    if not isinstance(content, dict):
        raise _invalid("not a mapping of keys", path)
    if b"!!python" in path.read_bytes():
        raise _invalid(
            "it holds tags of Python objects; a dataset YAML needs only text, lists and mappings",
            path,
        )
    for mapping in (node, *(value for _, value in node.value)):
        if isinstance(mapping, yaml.MappingNode):
            _check_unique([key.value for key, _ in mapping.value], path)
    return content


def _check_unique(keys: list[Any], path: Path) -> None:
    """Refuses a key that occurs twice: YAML would silently keep the last value."""
    for key in keys:
        if keys.count(key) > 1:
            raise _invalid(f"the key {key!r} occurs twice", path, "remove one of the two entries")


def _names(content: Mapping[Any, Any], path: Path) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict):
        by_id = {_integer(key): name for key, name in names.items()}
        missing = [index for index in range(len(names)) if index not in by_id]
        if missing:
            raise _invalid(
                f"names has {len(names)} classes, but none with id {missing}",
                path,
                "number the classes from 0 without gaps; label_mapping maps other ids to classes",
            )
        names = [by_id[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise _invalid("names must be a list, or a mapping of id to name", path)
    if not all(isinstance(name, str) for name in names):
        raise _invalid("names holds something other than names", path)
    count = content.get("nc", str(len(names)))
    if _integer(count) != len(names):
        raise _invalid(
            f"nc is {count}, and names has {len(names)} classes", path, "drop nc, or correct names"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _invalid(f"class names that occur twice: {', '.join(map(printable, twice))}", path)
    return tuple(names)


def _integer(text: Any) -> int | None:
    return int(text) if isinstance(text, str) and re.fullmatch(r"[-+]?\d{1,9}", text) else None


def _given(content: Mapping[Any, Any], key: str) -> Any:
    """Returns the value of a key; None if the key is absent or null."""
    value = content.get(key)
    return None if isinstance(value, str) and value in _NULL else value


def _root(content: Mapping[Any, Any], path: Path) -> Path:
    """Returns the folder that paths are relative to. It is itself relative to the YAML file."""
    given = Path(str(_given(content, "path") or ".").replace("\\", "/"))
    for root in (path.parent / given, given):
        if root.is_dir():
            return root
    raise _invalid(f"path {str(given)!r} is not a folder", path, "give it relative to this file")


def _entries(value: Any) -> tuple[str, ...]:
    entries = value if isinstance(value, list) else [value]
    return tuple(str(entry).replace("\\", "/") for entry in entries)


def _mapping(content: Mapping[Any, Any], num_classes: int, path: Path) -> dict[int, int | None]:
    given = _given(content, "label_mapping") or {}
    if not isinstance(given, dict):
        raise _invalid("label_mapping is not a mapping of value to class", path)
    mapping: dict[int, int | None] = {}
    void = (*_NULL, _IGNORE, str(IGNORE_INDEX), str(unlabelled(num_classes)))
    for key, name in given.items():
        value, index = _integer(key), None if name in void else _integer(name)
        if value is None or (index is None and name not in void):
            raise _invalid(f"label_mapping: {key!r}: {name!r} is not of numbers", path)
        if value > 65535 or not (index is None or 0 <= index < num_classes):
            raise _invalid(
                f"label_mapping: {value}: {index}, and names has {num_classes} classes",
                path,
                f"map to 0..{num_classes - 1}, or to {_IGNORE}",
            )
        if value >= 0:  # Cityscapes lists -1, which no file can hold
            mapping[value] = index
    return mapping


def _colors(content: Mapping[Any, Any], names: tuple[str, ...], path: Path) -> ColorTable:
    given = _given(content, "colors") or {}
    if not isinstance(given, (list, dict)):
        raise _invalid("colors is neither a list nor a mapping of class to colour", path)
    pairs = enumerate(given) if isinstance(given, list) else given.items()
    values: dict[object, int] = {name: value for value, name in enumerate(names)}
    values[_IGNORE] = unlabelled(len(names))
    table = []
    for key, color in pairs:
        try:
            channels = color if isinstance(color, list) else ()
            table.append((color_of(channels), int(values.get(key, key))))
        except (TypeError, ValueError):
            what = f"colors: {key!r}: {color!r} is no class and colour of 0..255"
            raise _invalid(what, path) from None
    return tuple(table)


def read_channels(given: Mapping[str, Any], path: Path) -> Bands | None:
    """Returns the channels that a YAML describes; None if it describes none.

    Raises:
        AtrousError: Keys without ``channels``, or values that contradict it.
    """
    names = _words(given["channels"], "channels", path)
    if not names:
        if any(given.values()):
            raise _invalid("bands, normalize and preview need channels", path, _CHANNELS)
        return None
    sources = _words(given["bands"], "bands", path)
    numbered = all(source.isdigit() and int(source) for source in sources)
    in_files = all(source.startswith("{stem}") for source in sources)
    preview = _words(given["preview"], "preview", path)
    problem = ""
    if len({*names}) < len(names):
        problem = "channels of equal names"
    elif len(sources) not in (0, len(names)) or not (numbered or in_files):
        problem = "bands must hold, for each channel, a number from 1 or a file '{stem}...'"
    elif preview and (len(preview) != 3 or not {*preview} <= {*names}):
        problem = "preview must name three of the channels"
    if problem:
        raise _invalid(problem, path, _CHANNELS)
    mean, std = _normalisation(given["normalize"], len(names), path)
    return Bands(names, "uint8", sources, preview, mean, std)


_CHANNELS = "such as channels: [red, green, blue, nir], bands: [3, 2, 1, 4]"
_PAIRS = (("mean", "std"), ("low", "high"))


def _words(value: Any, key: str, path: Path) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise _invalid(f"{key} must be a list", path, _CHANNELS)
    return tuple(value)


def _normalisation(
    given: Any, count: int, path: Path
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and deviation. Percentiles low and high become -1 and 1."""
    if given is None:
        return (), ()
    for pair in _PAIRS:
        if isinstance(given, dict) and set(given) == set(pair):
            try:
                first, second = (tuple(map(float, given[key])) for key in pair)
            except (TypeError, ValueError):
                break
            if pair == ("low", "high"):
                limits = list(zip(first, second, strict=False))
                first = tuple((low + high) / 2 for low, high in limits)
                second = tuple((high - low) / 2 for low, high in limits)
            finite = all(map(math.isfinite, (*first, *second)))
            if len(first) == len(second) == count and finite and min(second) > 0:
                return first, second
    raise _invalid(
        f"normalize must hold {count} numbers each of mean and std above 0, or of low and high",
        path,
        "leave it out: training measures it, and `atrous data check` prints the line",
    )


def _invalid(what: str, path: Path, fix: str = "docs/data.md shows the keys") -> AtrousError:
    return DataError("E-DATA-YAML", what, where=path, fix=fix)
