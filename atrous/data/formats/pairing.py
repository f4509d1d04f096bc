"""Matches pictures and annotations by whole relative paths."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from atrous.data.dataset import Item, stem
from atrous.data.masks.files import SUFFIXES as MASK_SUFFIXES
from atrous.images.decode import SUFFIXES
from atrous.images.tars import Member

# Other names of the splits. A split that has none of these names keeps its own, in lower case.
_ALIASES = {
    "training": "train",
    "valid": "val",
    "validation": "val",
    "testing": "test",
    "train_aug": "trainaug",
}
SPLITS = ("train", "trainaug", "trainval", "val", "test")

Files = dict[str, Path]  # path within a folder, with suffix and "/" -> the file


class Problem(NamedTuple):
    """A file that has no partner, or more than one."""

    code: str  # E-DATA-UNLABELLED, E-DATA-NO-PICTURE or E-DATA-TWICE
    what: str
    where: Path | Member


class Listing(NamedTuple):
    """The samples of a split, and the files that could not become samples."""

    items: tuple[Item, ...]
    problems: tuple[Problem, ...] = ()


def split_name(name: str) -> str:
    """Returns the common name of a split: "valid" and "Validation" are "val", and so on."""
    lower = name.lower().replace("-", "_")
    return _ALIASES.get(lower, lower)


def find_files(folder: Path, suffixes: Collection[str] = SUFFIXES) -> Files:
    """Finds files by suffix in a folder and its subfolders, in sorted order.

    Args:
        folder: Where to look; hidden files are skipped.
        suffixes: In lower case, with the dot.
    """
    # Paths stay strings: a data set may have a hundred thousand files.
    return {
        name.replace(os.sep, "/"): folder / name
        for name in sorted(walk(folder))
        if os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122
    }


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
        # A folder called x.jpg is yielded as a file, so that reading it reports the mistake.
        odd = [name for name in folders if os.path.splitext(name)[1].lower() in SUFFIXES]  # noqa: PTH122
        folders[:] = [name for name in folders if name[0] != "." and name not in odd]
        inside = os.path.join(parent, "").removeprefix(top)  # noqa: PTH118
        yield from (inside + name for name in (*names, *odd) if name[0] != ".")


def relative(path: Path | Member, folder: Path) -> str:
    """Returns the path of a file relative to a folder, with "/". It may begin with ".."."""
    if isinstance(path, Member):
        return f"{relative(path.shard, folder)}/{path.name}"
    text, top = str(path), os.path.join(folder, "")  # noqa: PTH118
    if text.startswith(top):  # by far the most common case, and there may be many files
        return text[len(top) :].replace(os.sep, "/")
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return path.as_posix()


def pair(
    pictures: Files,
    masks: Files,
    *,
    picture_ending: str = "",
    mask_ending: str = "",
    report_unused: bool = True,
) -> Listing:
    """Pairs pictures and masks of equal paths, and reports the files that have no partner.

    A mask is called like its picture but for the suffix (``a.png`` for ``a.jpg``), or like the
    whole file (``a.jpg.png``). If a mask could belong to two pictures, both are reported.

    Args:
        pictures: Files of the pictures.
        masks: Files of the annotations.
        picture_ending: Ending of the pictures' names, before the suffix, which masks lack.
        mask_ending: Ending of the masks' names, before the suffix. Masks without it are ignored.
        report_unused: Whether a mask without a picture is a problem.
    """
    by_key: dict[str, list[Path]] = {}
    for name, path in masks.items():
        if (key := _key(name, mask_ending)) is not None:
            by_key.setdefault(key, []).append(path)
    keys = {n: n if n in by_key else _key(n, picture_ending) for n in pictures}
    uses = Counter(keys.values())
    by_case = {key.casefold(): found for key, found in by_key.items()}
    items, problems = [], []
    for name, key in keys.items():
        if key is None:
            continue
        path, found = pictures[name], by_key.get(key, [])
        if len(found) == uses[key] == 1:
            items.append(Item(stem(name) if key == name else key, path, found[0]))
        elif found:
            what = (
                "several pictures have the same name but for suffix"
                if uses[key] > 1
                else (f"several masks: {', '.join(mask.name for mask in found)}")
            )
            problems.append(Problem("E-DATA-TWICE", what, path))
        else:
            near = by_case.get(key.casefold())
            hint = f"; {near[0].name} differs in upper and lower case" if near else ""
            problems.append(Problem("E-DATA-UNLABELLED", f"no mask for it{hint}", path))
    if report_unused:
        problems += [
            Problem("E-DATA-NO-PICTURE", "no picture for it", path)
            for key, found in by_key.items()
            if key not in uses
            for path in found
        ]
    return Listing(tuple(items), tuple(problems))


def pair_folders(
    pictures: Path, masks: Path, *, picture_ending: str = "", mask_ending: str = ""
) -> Listing:
    """Pairs the pictures and the masks of two folders; endings as for `pair`."""
    images, annotations = find_files(pictures), find_files(masks, MASK_SUFFIXES)
    return pair(images, annotations, picture_ending=picture_ending, mask_ending=mask_ending)


def _key(name: str, ending: str) -> str | None:
    """Returns a path without suffix and ending; None if it lacks the ending."""
    key = os.path.splitext(name)[0]  # noqa: PTH122
    return key[: len(key) - len(ending)] if key.endswith(ending) else None


class Matched(NamedTuple):
    """The files that the names in an annotation file or a list mean."""

    found: dict[str, Path]
    unclear: frozenset[str]  # names that fit several files, or share one file with another name


def match(names: Collection[str], files: Mapping[str, Path], *, split: str = "") -> Matched:
    r"""Finds the file that each name means.

    Annotation tools write paths of other machines (``C:\data\a.jpg``), names without folder or
    suffix, and other upper and lower case. A name means the file of exactly that path, if there is
    such a file. Otherwise it means the file whose path ends with the name, or whose path the name
    ends with: first with the suffix, then without. If several files fit equally well, or two names
    fit one file, the names are unclear.

    Args:
        names: Names of pictures or masks.
        files: The files there are.
        split: The split the names belong to: a file within the folder of another split is
            found only by its exact path.
    """
    found = {name: files[name] for name in names if name in files}
    unclear: set[str] = set()
    taken = set(found.values())
    free = {
        name: path
        for name, path in files.items()
        if path not in taken and not _of_other_split(name, split)
    }
    for with_suffix in (True, False):
        left = [name for name in names if name not in found and name not in unclear]
        if not left:
            break
        index = _by_last(free, with_suffix=with_suffix)
        choices = {name: _candidates(name, index, with_suffix=with_suffix) for name in left}
        claims = Counter(path for paths in choices.values() for path in paths)
        for name, paths in choices.items():
            if len(paths) == 1 and claims[paths[0]] == 1:
                found[name] = paths[0]
            elif paths:
                unclear.add(name)
        free = {name: path for name, path in free.items() if path not in claims}
    return Matched(found, frozenset(unclear))


Parts = tuple[str, ...]


def _parts(name: str, *, with_suffix: bool) -> Parts:
    """Returns the folders and the name of a path, as any system writes it."""
    name = name if with_suffix else stem(name)
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _by_last(files: Files, *, with_suffix: bool) -> dict[str, list[tuple[Parts, Path]]]:
    index: dict[str, list[tuple[Parts, Path]]] = {}
    for name, path in files.items():
        parts = _parts(name, with_suffix=with_suffix)
        index.setdefault(parts[-1].casefold(), []).append((parts, path))
    return index


def _candidates(
    name: str, index: Mapping[str, list[tuple[Parts, Path]]], *, with_suffix: bool
) -> list[Path]:
    """Returns the files that fit a name best.

    A whole path fits better than the end of a path, a longer end better than a shorter end, and
    the same upper and lower case better than another.
    """
    wanted = _parts(name, with_suffix=with_suffix)
    fitting: dict[tuple[bool, int, bool], list[Path]] = {}
    for parts, path in index.get(wanted[-1].casefold(), []) if wanted else []:
        length = min(len(parts), len(wanted))
        one, other = parts[-length:], wanted[-length:]
        if [part.casefold() for part in one] == [part.casefold() for part in other]:
            fit = (len(parts) == len(wanted), length, one == other)
            fitting.setdefault(fit, []).append(path)
    return fitting[max(fitting)] if fitting else []


def _of_other_split(name: str, split: str) -> bool:
    if split not in SPLITS:
        return False
    folders = (split_name(part) for part in name.split("/")[:-1])
    return any(folder in SPLITS and folder != split for folder in folders)


def find_pictures(
    names: Collection[str],
    own: Iterable[Path],
    shared: Iterable[Path],
    *,
    split: str,
    others: Collection[str],
    conflicting: Collection[str],
) -> Matched:
    """Finds the pictures an annotation file lists for a split, in the folder that has most.

    Args:
        names: The names the file gives.
        own: Folders of this split alone; they come first.
        shared: Folders of several splits.
        split: The split.
        others: Names of the pictures of other splits, which may be in the shared folders, too.
        conflicting: Names that another split gives to another picture. In a shared folder they
            are unclear: two splits would share one picture, with an annotation each.
    """
    own = list(dict.fromkeys(own))
    files = {folder: find_files(folder) for folder in own}
    for found in files.values():
        if all(name in found for name in names):  # mostly so: the other folders are not walked
            return Matched({name: found[name] for name in names}, frozenset())
    files |= {folder: find_files(folder) for folder in shared if folder not in files}
    exact = {folder: sum(name in found for name in names) for folder, found in files.items()}
    own = [folder for folder in own if exact[folder] == max(exact.values())]
    ranked = [(exact[folder], match(names, files[folder])) for folder in own]
    if not any(matched.found for _, matched in ranked):
        for folder in dict.fromkeys(shared):
            found, unclear = match({*names, *others}, files[folder], split=split)
            sure = {n: found[n] for n in names if n in found and n not in conflicting}
            matched = Matched(sure, unclear | (found.keys() & set(conflicting)))
            ranked.append((exact[folder], matched))
    return max(
        ranked,
        key=lambda pair: (pair[0], len(pair[1].found), len(pair[1].unclear)),
        default=(0, Matched({}, frozenset())),
    )[1]


def pick_masks(names: Iterable[str], pictures: Files, masks: Files, where: Path) -> Listing:
    """Pairs the pictures a list names with their masks, in the order of the list."""
    names = list(dict.fromkeys(names))
    matched = match(names, pictures)
    keys = {path: key for key, path in pictures.items()}
    chosen = {keys[matched.found[n]]: matched.found[n] for n in names if n in matched.found}
    listing = pair(chosen, masks, report_unused=False)
    return Listing(listing.items, (*listing.problems, *missing(names, matched, where)))


def pick_described(names: Iterable[str], pictures: Matched, document: Path) -> Listing:
    """Lists the pictures that one annotation file describes under some names."""
    names = list(names)
    items = (Item(n, pictures.found[n], document) for n in names if n in pictures.found)
    return Listing(tuple(items), tuple(missing(names, pictures, document)))


def missing(names: Iterable[str], pictures: Matched, where: Path) -> Iterator[Problem]:
    """Yields a problem for each name without a picture, or with more than one."""
    for name in names:
        if name in pictures.unclear:
            what = f"{name} fits several pictures, or several names fit the same picture"
            yield Problem("E-DATA-TWICE", what, where)
        elif name not in pictures.found:
            yield Problem("E-DATA-NO-PICTURE", f"no picture {name}", where)


def read_list(path: Path) -> list[str]:
    """Returns the lines of a list of files, with names as they are on disk."""
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    return [line.strip() for line in text.split("\n") if line.strip()]
