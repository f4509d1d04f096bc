"""Writes the output of many pictures into one tar file: a shard of WebDataset.

The members of a picture follow each other and share one key; its JSON is the last. A picture is in
the tar file when its JSON is whole. What a killed call left behind the last whole JSON is cut off.
"""

import glob
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from atrous.errors import AtrousError
from atrous.images.lock import locked
from atrous.images.stores import is_address
from atrous.images.tars import Member
from atrous.predict.batch import Outcome, as_ours, check_folder
from atrous.predict.find import Picture, refuse_videos
from atrous.predict.records import MARK, files_of, moved, taken

_BLOCK = 512
_END = bytes(2 * _BLOCK)  # ends a tar file


def is_tar(out: Path) -> bool:
    """Returns whether output goes into a tar file."""
    return out.suffix == ".tar" and (is_address(out) or not out.is_dir())


def segment_into_tar(
    segment: Callable[[Sequence[Picture], Path], Generator[Outcome, None, None]],
    pictures: Sequence[Picture],
    out: Path,
    *,
    engine: str | None = None,
) -> Iterator[Outcome]:
    """Segments pictures into a folder beside the tar file, and moves each picture's files into it.

    Finished pictures in the tar file are kept. One that was made by another model, with other
    options or from another picture is reported: a tar file only grows.

    Args:
        segment: Segments pictures into a folder.
        pictures: From `find_pictures`.
        out: The tar file, which may be there.
        engine: ``ray`` is refused.

    Raises:
        AtrousError: The file is no tar file of this function, another call writes it, the disk is
            full, or a tar file cannot hold what is asked for.
    """
    _check(pictures, out, engine)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _opened(out) as file:
        finished, end = _walked(file, out)
        pictures = [_keyed(picture, finished) for picture in pictures]
        for left in out.parent.glob(f".{glob.escape(out.name)}.*.tmp"):  # by a killed call
            shutil.rmtree(left, ignore_errors=True)
        try:
            file.truncate(end)
            with (
                TemporaryDirectory(".tmp", f".{out.name}.", out.parent) as folder,
                closing(segment(pictures, Path(folder))) as outcomes,
            ):
                for outcome in outcomes:
                    picture, record = pictures[outcome.place - 1], None
                    if outcome.record is not None:
                        record = moved(outcome.record, (out / picture.stem).parent)
                        if picture.packed is None:
                            end = _append(file, end, picture.stem, Path(folder), record)
                    yield replace(outcome, record=record)
        except OSError as error:
            raise as_ours(error, str(out)) from error
        finally:
            with suppress(OSError):
                file.truncate(end)
                file.seek(end)
                file.write(_END)


def _check(pictures: Sequence[Picture], out: Path, engine: str | None) -> None:
    if is_address(out):
        raise AtrousError(
            "E-OUT", "a tar file in a store cannot grow", where=out,
            fix="write it to a disk and copy it, or name a folder with --out",
        )  # fmt: skip
    if engine is not None:
        raise AtrousError(
            "E-JOBS", f"{engine} does not write tar files", where=out,
            fix="use --jobs, or name a folder with --out",
        )  # fmt: skip
    refuse_videos(pictures, "videos are not written to a tar file", "name a folder with --out")
    check_folder(out.parent)


def _opened(out: Path) -> io.FileIO:
    """Opens the tar file for this call alone; a new one is empty."""
    try:
        out.touch()
        file = out.open("r+b", buffering=0)
    except OSError as error:
        raise as_ours(error, str(out)) from error
    if not locked(file):
        file.close()
        fix = "wait for it, or choose another --out"
        raise taken("another call writes to this tar file", out, fix)
    return file


def _keyed(picture: Picture, finished: dict[str, Member]) -> Picture:
    """Returns the picture with its key as the stem, and its record in the tar file.

    WebDataset ends a key at the first dot of the file's name, so dots in it are written as %2E.
    """
    stem = PurePosixPath(picture.stem)
    key = str(stem.with_name(stem.name.replace("%", "%25").replace(".", "%2E")))
    return replace(picture, stem=key, packed=finished.get(f"{key}.json"))


def _walked(file: io.FileIO, out: Path) -> tuple[dict[str, Member], int]:
    """Returns the whole JSONs in a tar file by their names, and where the last of them ends."""
    finished: dict[str, Member] = {}
    end, ours, size = 0, False, out.stat().st_size
    not_ours = taken("this file is no tar file of atrous predict", out)
    if size == 0:
        return finished, end
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (info := archive.next()) is not None:
                # A million pictures have millions of members.
                archive.members.clear()  # type: ignore[attr-defined]
                if info.uname != MARK:
                    raise not_ours
                ours, after = True, info.offset_data + info.size
                if after <= size and info.name.endswith(".json"):
                    finished[info.name] = Member(info.name, out, info.offset_data, info.size)
                    end = after + -after % _BLOCK
    except tarfile.TarError:  # cut off
        if not ours:
            raise not_ours from None
    return finished, end


def _append(file: io.FileIO, end: int, key: str, folder: Path, record: dict[str, Any]) -> int:
    """Moves the files of a picture behind the end of the tar file; returns the new end."""
    file.seek(end)
    parent = (folder / key).parent
    summary = f"{PurePosixPath(key).name}.json"
    for name in (*sorted(files_of(record)), summary):
        content = (parent / name).read_bytes()
        if name == summary:  # its paths are those in the tar file
            content = (json.dumps(record, indent=1) + "\n").encode()
        info = tarfile.TarInfo(str(PurePosixPath(key).with_name(name)))
        info.size, info.uname = len(content), MARK
        left = memoryview(info.tobuf() + content + bytes(-len(content) % _BLOCK))
        while left:  # a disk that gets full takes a part
            left = left[file.write(left) :]
        (parent / name).unlink()
    return file.tell()
