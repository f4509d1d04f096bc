"""WebDataset: pictures and masks in tar files that are not unpacked.

Files of the same name up to the first dot belong together: ``0001.jpg`` and ``0001.mask.png``. Each
tar file is walked once, when the set is opened, to find where its members begin. A sample is then
two reads, so that the shards may lie on any mounted store.
"""

import re
from functools import partial
from pathlib import Path

from atrous.data.dataset import Item
from atrous.data.formats.class_files import find_class_file
from atrous.data.formats.layout import Layout
from atrous.data.formats.pairing import Listing, Problem, split_name
from atrous.errors import DataError
from atrous.images.tars import is_mask, samples_in

LOOKS_FOR = "WebDataset: train-000000.tar ... or train/*.tar, and classes.json or classes.txt"

_SPLIT = re.compile(r"(train|val|test)[a-z]*(?=[-_.\d]|$)")


def recognise(path: Path) -> Layout | None:
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
    parts: dict[str, list[Path]] = {}
    for shard in shards:
        match = _SPLIT.match(shard.name) or _SPLIT.match(shard.parent.name)
        parts.setdefault(split_name(match[0]) if match else "all", []).append(shard)
    splits = {split: partial(_listed, tuple(part)) for split, part in parts.items()}
    return Layout("WebDataset shards", root, found.table, found.reader(), splits)


def _listed(shards: tuple[Path, ...]) -> Listing:
    """Walks the shards of a split."""
    items, problems = [], []
    for shard in shards:
        for name, members in samples_in(shard).items():
            masks = [member for member in members if is_mask(member, members)]
            pictures = [member for member in members if member not in masks]
            if len(masks) == len(pictures) == 1:
                items.append(Item(f"{shard.stem}/{name}", pictures[0], masks[0]))
                continue
            code = "E-DATA-TWICE" if len(pictures) > 1 or len(masks) > 1 else "E-DATA-UNLABELLED"
            code = code if pictures else "E-DATA-NO-PICTURE"
            what = f"{name} has {len(pictures)} pictures and {len(masks)} masks"
            problems.append(Problem(code, what, shard))
    return Listing(tuple(items), tuple(problems))
