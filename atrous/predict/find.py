"""Finds the pictures of a call and chooses the names of their output."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from atrous.errors import AtrousError
from atrous.images.bands import Bands
from atrous.images.decode import SUFFIXES
from atrous.images.pages import pages_named, split_page, without_suffix
from atrous.images.stores import absolute, is_address, place, stored
from atrous.images.tars import Member, is_mask, samples_in
from atrous.images.video import SUFFIXES as VIDEO_SUFFIXES
from atrous.images.video import missing_program
from atrous.images.web import check_address, file_name, is_web_address, without_query
from atrous.predict.records import identity, is_output

STDIN = Path("-")  # a picture on standard input

_EARLIER = "earlier output of atrous predict"
_OUTSIDE = "whose name leads out of the folder"
# Kinds of files that people take for pictures, and that are not read.
_NOT_READ = {
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".exr", ".hdr"), "not read: save it as PNG"),
    **dict.fromkeys(VIDEO_SUFFIXES, "a video"),
    **dict.fromkeys((".svg", ".eps", ".ai", ".psd", ".xcf"), "not a photograph"),
    **dict.fromkeys((".pdf", ".doc", ".docx", ".odt", ".ppt", ".pptx"), "a document"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf"), "a camera's raw"),
    **dict.fromkeys((".zip", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"), "an archive: "
                    "unpack it first"),
    ".tar": "an archive: name it itself",
    **dict.fromkeys((".dcm", ".nii", ".npy"), "not read: save it as TIFF"),
    ".json": "a record or annotations",
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture of a call.

    Attributes:
        path: The file as it was named or found; ``-`` is standard input.
        stem: Start of the names of the output, below the output folder.
        content: The bytes of standard input; None for files.
        version: Of an object in a store, as its listing says: an unchanged one is not read again.
        made: Names of the picture's output that a store holds; None: look.
        address: Where the picture is fetched from; empty for files.
        member: Where the picture lies in a tar file; None for others.
        packed: Where its record lies in the tar file of the output; None: not there.
    """

    path: Path
    stem: str
    content: bytes | None = None
    version: str = ""
    made: frozenset[str] | None = None
    address: str = ""
    member: Member | None = None
    packed: Member | None = None

    @property
    def name(self) -> str:
        """The stem with the picture's suffix, unique in a call."""
        suffix = self.path.suffix
        return self.stem if self.stem.endswith(suffix) else self.stem + suffix

    @property
    def is_file(self) -> bool:
        """Whether the picture is a file, and not an address, standard input or part of a tar."""
        return self.content is None and not self.address and self.member is None

    @property
    def shown(self) -> str:
        """The picture as the user named it; of an address no query, which may be a secret."""
        return without_query(self.address) if self.address else str(self.path)

    @property
    def identity(self) -> str:
        """A hash that tells this picture from all others; see `records.identity`."""
        return identity(self.path, self.address.encode() or self.content)

    @property
    def is_video(self) -> bool:
        """Whether the file is named as a video."""
        return self.is_file and self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class Found:
    """The pictures of a call, and counts of the files that were left out.

    Attributes:
        pictures: In the order they were named, those of a folder sorted by path.
        left_out: Reason -> number of files.
    """

    pictures: list[Picture]
    left_out: dict[str, int]

    @property
    def paths(self) -> list[Path]:
        """The files of the pictures."""
        return [picture.path for picture in self.pictures]


def find_pictures(
    paths: Iterable[str | Path], out: Path | None = None, *, videos: bool = False
) -> Found:
    """Returns the named files, and the pictures in the named folders, each once, in order.

    A name that is no file may be a pattern (``*.jpg``, ``**/*.png``): shells leave patterns alone
    that are quoted or match nothing. A named tar file gives the pictures in it. ``-`` is a picture
    on standard input, ``x.tif#3`` a page of a stack, ``x.tif#2-9`` several, ``https://...`` a
    picture that is fetched. Folders are searched with the folders in them. Earlier output is left
    out: files with a record beside them, and everything in `out`, unless the searched folder is
    `out` or lies in `out`.

    Args:
        paths: Files, folders, patterns, addresses, ``-``.
        out: Folder of the output.
        videos: Whether videos in folders are wanted too; not without ffmpeg.

    Raises:
        AtrousError: A folder without pictures, a pattern without matches, names of nothing, or
            nothing but earlier output.
    """
    search = _Search(out, videos=videos)
    for path in paths:
        if is_web_address(path):
            search.add_address(str(path))
        else:
            search.add(place(path))
    pictures = list(search.found.values())
    if not pictures:
        raise _no_pictures("", search.left_out)
    if not any(p.version or not p.is_file or split_page(p.path)[0].exists() for p in pictures):
        raise AtrousError("E-FILE-MISSING", "no such file or folder", where=pictures[0].path)
    return Found(with_unique_stems(pictures), dict(search.left_out))


AS_FRAMES = "leave the option out, or save single frames: ffmpeg -i IN %06d.png"


def refuse_videos(pictures: Iterable[Picture], what: str, fix: str) -> None:
    """Raises if one of the pictures is a video, where none can be."""
    for picture in pictures:
        if picture.is_video:
            raise AtrousError("E-VIDEO-OPTION", what, where=picture.path, fix=fix)


def of_first_channel(found: Found, bands: Bands) -> Found:
    """Leaves out the files of a model's other channels: that of the first stands for a picture."""
    first, *others = (source.removeprefix("{stem}") for source in bands.sources or ("",))
    if not bands.sources or bands.sources[0].isdigit():
        return found
    kept = [
        picture
        for picture in found.pictures
        if picture.path.name.endswith(first) or not picture.path.name.endswith(tuple(others))
    ]
    count = len(found.pictures) - len(kept)
    left_out = {**found.left_out, **({"of other channels": count} if count else {})}
    return Found(kept, left_out)


class _Search:
    """Collects pictures.

    Attributes:
        found: Pictures by absolute path.
        left_out: Reason -> number of files.
    """

    def __init__(self, out: Path | None, *, videos: bool) -> None:
        self.found: dict[str, Picture] = {}
        self.left_out: Counter[str] = Counter()
        self._out = out
        self._wanted, self._not_read = SUFFIXES, dict(_NOT_READ)
        if videos and (missing := missing_program()):
            self._not_read |= dict.fromkeys(VIDEO_SUFFIXES, f"a video; needs the program {missing}")
        elif videos:
            self._wanted |= VIDEO_SUFFIXES

    def add(self, path: Path) -> None:
        """Adds the pictures that a name stands for."""
        if path == STDIN and not path.exists():
            self.found["-"] = Picture(path, "stdin", sys.stdin.buffer.read())
        elif is_address(path):
            self._add_stored(path)
        elif path.is_dir():
            inside = sorted(self._inside(path))
            if not inside:
                raise _no_pictures(path, self.left_out)
            for file in inside:
                self._add_file(file, file.relative_to(path).with_suffix("").as_posix())
        else:
            for file in _named(path):
                self._add_named(file)

    def _add_named(self, file: Path) -> None:
        if self._out and file.suffix == ".tar" and absolute(file) == absolute(self._out):
            self.left_out[_EARLIER] += 1
        elif file.suffix == ".tar" and file.is_file():
            self._add_tar(file)
        elif file.is_file() and is_output(file):
            self.left_out[_EARLIER] += 1
        else:
            self._add_file(file, without_suffix(file).name)

    def add_address(self, address: str) -> None:
        """Adds a picture that is fetched when its turn comes."""
        check_address(address)
        path = Path(file_name(address))
        self.found.setdefault(address, Picture(path, path.stem, address=address))

    def _add_file(self, file: Path, stem: str, version: str = "") -> None:
        self.found.setdefault(absolute(file), Picture(file, stem, version=version))

    def _add_tar(self, shard: Path) -> None:
        """Adds the pictures of a tar file, without the masks of labelled ones."""
        for members in samples_in(shard).values():
            for member in members:
                parts = PurePosixPath(member.name).parts
                if ".." in parts or parts[0] == "/":  # its output would leave the folder
                    self.left_out[_OUTSIDE] += 1
                elif not is_mask(member, members):
                    path = shard / member.name
                    stem = PurePosixPath(shard.stem, member.name).with_suffix("").as_posix()
                    self.found.setdefault(absolute(path), Picture(path, stem, member=member))

    def _add_stored(self, address: Path) -> None:
        """Adds the objects that an address stands for: one, a folder's, or those of a pattern."""
        top, out = str(address).rstrip("/") + "/", f"{self._out}/"
        outside = () if top.startswith(out) else (out,)  # as in `_inside`
        objects = stored(address)
        for name, version in sorted(objects.items()):
            file = PurePosixPath(name)
            below = PurePosixPath(name.removeprefix(top) if name.startswith(top) else file.name)
            if file.suffix == ".tar" and not name.startswith(top):  # named, or by a pattern
                self._add_tar(place(name))
            elif reason := _why_not_stored(name, objects.keys()):
                self.left_out[reason] += file.suffix != ".json"
            elif name.startswith(outside):
                self.left_out[f"in the output folder {self._out}"] += 1
            else:
                self._add_file(place(name), below.with_suffix("").as_posix(), version)
        if not objects and address.suffix.lower() in SUFFIXES:
            self._add_file(address, address.stem)  # reported when it is read
        elif not self.found:
            raise _no_pictures(address, self.left_out)

    def _inside(self, folder: Path) -> Iterator[Path]:
        """Yields the pictures in a folder and the folders in it; counts the other files."""
        skipped = self._out.resolve() if self._out else None
        if skipped and folder.resolve().is_relative_to(skipped):
            skipped = None  # pictures and output share the folder; records tell them apart
        for top, folders, files in os.walk(folder, onerror=self._unread):
            here, beside = Path(top), set(files)
            if skipped and here.resolve() == skipped:
                folders.clear()
                self.left_out[f"in the output folder {self._out}"] += len(files)
                continue
            for name in list(folders):
                if name.startswith(".") or (here / name).is_symlink():
                    folders.remove(name)
                    reason = "hidden folders" if name.startswith(".") else "links to folders"
                    self.left_out[reason] += 1
            for file in map(here.joinpath, files):
                if reason := self._why_not(file, beside):
                    self.left_out[reason] += 1
                else:
                    yield file

    def _unread(self, error: OSError) -> None:
        self.left_out["folders that cannot be read"] += 1

    def _why_not(self, file: Path, beside: set[str]) -> str:
        """Returns why a file in a folder is not to be segmented; empty if it is."""
        suffix = file.suffix.lower()
        if file.name.startswith("."):
            return "hidden files"
        if suffix not in self._wanted:
            return f"{suffix or file.name} ({self._not_read.get(suffix, 'no picture')})"
        if is_output(file, beside):
            return _EARLIER
        return "" if file.is_file() else "broken links and devices"


def _why_not_stored(name: str, names: Collection[str]) -> str:
    """Returns why an object in a store is not a picture to segment; empty if it is one."""
    folder, _, file = name.rpartition("/")
    suffix = PurePosixPath(file).suffix.lower()
    if ".." in PurePosixPath(folder).parts:
        return _OUTSIDE
    if suffix not in SUFFIXES:
        return f"{suffix or file} ({_NOT_READ.get(suffix, 'no picture')})"
    # Output is STEM.SOMETHING.png beside STEM.json, which is read for such names only.
    parts = file.split(".")
    starts = (".".join(parts[:length]) + ".json" for length in range(1, len(parts) - 1))
    beside = [start for start in starts if f"{folder}/{start}" in names]
    return _EARLIER if beside and is_output(place(name), beside) else ""


def _named(path: Path) -> list[Path]:
    if path.exists() or not glob.has_magic(str(path)):
        return pages_named(path)
    # Path.glob refuses absolute patterns.
    matches = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207
    if not matches:
        raise AtrousError("E-NO-PICTURES", "no file matches this pattern", where=path)
    return [match for match in matches if match.is_file()]


def _no_pictures(folder: object, left_out: Counter[str]) -> AtrousError:
    there = f"; left out: {said(left_out)}" if left_out else ""
    return AtrousError(
        "E-NO-PICTURES",
        f"no pictures in this folder{there}" if folder else f"no pictures{there}",
        where=folder,
        fix=f"looked for {' '.join(sorted(SUFFIXES))}",
    )


def said(left_out: dict[str, int]) -> str:
    """Returns the files that were left out, as text."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))


def with_unique_stems(pictures: Sequence[Picture]) -> list[Picture]:
    """Returns the pictures with longer stems where several would have one stem.

    The longer stem is the path below the common folder of all pictures. If that is not unique, the
    stem is the path with its suffix.

    >>> files = [Path("a/x.jpg"), Path("b/x.jpg"), Path("b/y.jpg"), Path("b/y.png")]
    >>> [p.stem for p in with_unique_stems([Picture(file, file.stem) for file in files])]
    ['a/x', 'b/x', 'b/y.jpg', 'b/y.png']
    """
    whole = [Path(absolute(picture.path)) for picture in pictures]
    common = Path(os.path.commonpath([path.parent for path in whole]))
    below = [path.relative_to(common) for path in whole]
    longer = [
        (picture.stem, without_suffix(path).as_posix(), path.as_posix())
        for picture, path in zip(pictures, below, strict=True)
    ]
    lengths = [0] * len(pictures)
    while True:
        stems = [names[length] for names, length in zip(longer, lengths, strict=True)]
        counts = Counter(map(os.path.normcase, stems))
        again = [
            index
            for index, stem in enumerate(stems)
            if counts[os.path.normcase(stem)] > 1 and lengths[index] < 2
        ]
        if not again:
            return [replace(p, stem=stem) for p, stem in zip(pictures, stems, strict=True)]
        for index in again:
            lengths[index] += 1
