"""WebDataset: pictures and masks in tar files that are not unpacked.

Files of the same name up to the first dot belong together: ``0001.jpg`` and ``0001.mask.png``. Each
tar file is walked once, when the set is opened, to find where its members begin. A sample is then
two reads, so that the shards may lie on any mounted store.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from atrous.classes import ClassTable, Color
from atrous.data.dataset import Sample, check_sample, combined_digest, file_digest
from atrous.data.formats.class_files import ClassFile, find_class_file
from atrous.data.formats.layout import find_split
from atrous.data.formats.pairing import Problem, relative, split_name
from atrous.data.masks.targets import MaskReader
from atrous.errors import DataError
from atrous.images.decode import read_image
from atrous.images.tars import Member, is_mask, samples_in

LOOKS_FOR = "WebDataset: train-000000.tar ... or train/*.tar, and classes.json or classes.txt"

_SPLIT = re.compile(r"(train|val|test)[a-z]*(?=[-_.\d]|$)")


class Pair(NamedTuple):
    """A sample within a tar file."""

    name: str
    image: Member
    mask: Member


@dataclass(frozen=True)
class ShardDataset:
    """Labelled pictures in tar files (a `Dataset`)."""

    pairs: tuple[Pair, ...]
    read_mask: MaskReader
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    root: Path = Path()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Each picture's path in its tar file, after the tar file's own path."""
        return tuple(f"{relative(p.image.shard, self.root)}/{p.image.name}" for p in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Reads one sample.

        Raises:
            AtrousError: As `FileDataset`.
        """
        _, picture, mask = self.pairs[index]
        image = np.asarray(read_image(picture.read()))  # (H, W, 3)
        target = self.read_mask.target(self.read_mask.read(mask.read()), mask.where)
        sample = Sample(image, target)
        check_sample(
            sample,
            len(self.classes),
            picture=Path(picture.where),
            annotation=Path(mask.where),
        )
        return sample

    def fingerprint(self) -> str:
        """Hashes names, classes, places and sizes, and up to 64 KiB at either end of each shard."""
        parts = [name.encode() for name in self.classes]
        parts += [repr(pair).encode("utf-8", "surrogateescape") for pair in self.pairs]
        parts += [file_digest(shard) for shard in sorted({pair.image.shard for pair in self.pairs})]
        return combined_digest(parts)


@dataclass(frozen=True)
class ShardLayout:
    """A recognised folder of tar files."""

    root: Path
    table: ClassTable
    read_target: MaskReader
    splits: Mapping[str, tuple[Path, ...]]
    kind: str = "WebDataset shards"

    def open(self, split: str) -> tuple[ShardDataset, tuple[Problem, ...]]:
        """Walks the shards of a split.

        Raises:
            AtrousError: There is no such split, or a shard is no tar file.
        """
        pairs: list[Pair] = []
        problems: list[Problem] = []
        for shard in find_split(self.splits, split, self.root):
            found, missing = _pairs(shard)
            pairs += found
            problems += missing
        classes, palette = self.table.classes, self.table.palette
        dataset = ShardDataset(tuple(pairs), self.read_target, classes, palette, self.root)
        return dataset, tuple(problems)

    def allowing_lossy(self) -> "ShardLayout":
        """Returns the layout that reads JPEG masks although their labels cannot be trusted."""
        return replace(self, read_target=replace(self.read_target, allow_lossy=True))


def recognise(path: Path) -> ShardLayout | None:
    """Returns the layout of a folder of shards, or of one shard."""
    shards = [path] if path.is_file() else sorted((*path.glob("*.tar"), *path.glob("*/*.tar")))
    shards = [shard for shard in shards if shard.suffix == ".tar" and shard.is_file()]
    if not shards:
        return None
    root = path.parent if path.is_file() else path
    found = find_class_file(root, root.parent)
    if found is None:
        raise DataError(
            "E-DATA-CLASSES",
            "tar shards need a class file",
            where=root,
            fix="put classes.txt (one name on each line) or classes.json beside the shards",
        )
    splits: dict[str, tuple[Path, ...]] = {}
    for shard in shards:
        match = _SPLIT.match(shard.name) or _SPLIT.match(shard.parent.name)
        split = split_name(match[0]) if match else "all"
        splits[split] = (*splits.get(split, ()), shard)
    return ShardLayout(root, found.table, _reader(found), splits)


def _reader(found: ClassFile) -> MaskReader:
    return MaskReader(len(found.table.classes), found.mapping, found.colors)


def _pairs(shard: Path) -> tuple[list[Pair], list[Problem]]:
    pairs, problems = [], []
    for name, members in samples_in(shard).items():
        masks = [member for member in members if is_mask(member, members)]
        pictures = [member for member in members if member not in masks]
        if len(masks) == len(pictures) == 1:
            pairs.append(Pair(f"{shard.stem}/{name}", pictures[0], masks[0]))
        else:
            code = "E-DATA-TWICE" if len(pictures) > 1 or len(masks) > 1 else "E-DATA-UNLABELLED"
            code = code if pictures else "E-DATA-NO-PICTURE"
            what = f"{name} has {len(pictures)} pictures and {len(masks)} masks"
            problems.append(Problem(code, what, shard))
    return pairs, problems
