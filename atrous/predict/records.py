"""Records tell which picture an output file belongs to.

The JSON of a picture is written last and lists the files beside it, with the picture, the model and
the options that they were made from. Every picture that is written also holds a mark, because a
killed call leaves files without a JSON. Record and mark decide whether output is finished, whether
it may be replaced, and whether a file is a picture or earlier output.
"""

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping, Set
from pathlib import Path
from typing import Any

from PIL import Image

from atrous.errors import AtrousError
from atrous.images.pages import split_page
from atrous.images.stores import absolute, fetch, is_address, place
from atrous.images.tars import Member
from atrous.images.video import SUFFIXES, ends_of

_GDAL_METADATA = 42112  # GDAL's TIFF tag: its metadata, as XML
MARK = "atrous"  # key of the text in a PNG, start of the comment of a JPEG


def identity(path: Path, content: bytes | None = None) -> str:
    """Returns a hash of the absolute path of a picture, or of its content on standard input.

    Masks are shared, and the path of a picture may be private: so the hash is stored, not the path.
    """
    where = os.fsencode(absolute(path))
    return hashlib.sha256(where if content is None else content).hexdigest()[:32]


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_record(path: Path | Member) -> dict[str, Any] | None:
    """Returns the record in a JSON file or member; None if the file is missing or not a record.

    Raises:
        AtrousError: A store cannot be reached, or refuses.
    """
    try:
        if isinstance(path, Member):
            content = path.read().getvalue()
        else:
            content = fetch(path).read() if is_address(path) else path.read_bytes()
        record = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, AtrousError) and error.code != "E-FILE-MISSING":
            raise
        return None
    ours = isinstance(record, dict) and {"input", "made_from", "labels", "size"} <= record.keys()
    return record if ours and isinstance(record["made_from"], dict) else None


def files_of(record: Mapping[str, Any]) -> set[str]:
    """Returns the names, without folders, of the files that a record lists."""
    files = [record.get("labels"), record.get("overlay"), record.get("frames")]
    for several in ("probabilities", "cutouts"):
        files += (record.get(several) or {}).values()
    return {Path(str(file)).name for file in files if file}


def finished(
    summary: Path,
    made_from: Mapping[str, Any],
    there: Set[str] | None = None,
    packed: Member | None = None,
) -> dict[str, Any] | None:
    """Returns the record if all its files are there and were made from the same; else None.

    The paths in the record are brought up to date, because the folder may have been moved.

    Args:
        summary: The JSON.
        made_from: The picture, the model and the options.
        there: Names of the files that are there; None: look.
        packed: The JSON in a tar file, which holds all files before it.
    """
    record = read_record(packed or summary)
    if record is None:
        return None
    recorded = {k: v for k, v in record["made_from"].items() if k != "at"}
    if recorded != {k: v for k, v in made_from.items() if k != "at"}:
        return None
    files = set() if packed else files_of(record)
    if not (all((summary.parent / n).exists() for n in files) if there is None else files <= there):
        return None
    return moved(record, summary.parent)


def moved(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns a record with the paths that its files have in another folder."""

    def there(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: there(path) for name, path in value.items()}
        return value and str(folder / Path(value).name)

    files = ("labels", "overlay", "frames", "probabilities", "cutouts")
    return {key: there(value) if key in files else value for key, value in record.items()}


def check_free(path: Path, at: str, files: Collection[Path], summary: Path) -> None:
    """Makes sure that writing a picture's output replaces nothing but that picture's output.

    Args:
        path: The picture.
        at: The `identity` of the picture.
        files: The files that would be written beside the JSON.
        summary: The JSON.

    Raises:
        AtrousError: One of the files belongs to another picture, or is not output at all.
    """
    record = read_record(summary)
    if record is None and summary.exists():
        raise _would_replace(path, summary, "")
    if record is not None and not _is_of(record, path, at):
        raise _would_replace(path, summary, str(record["input"]))
    vouched = files_of(record) if record else set()
    for file in files:
        if file.exists() and file.name not in vouched and mark_of(file) != at:
            raise _would_replace(path, file, "another picture" if mark_of(file) else "")


def _is_of(record: Mapping[str, Any], path: Path, at: str) -> bool:
    """Returns whether a record is of this picture, or of one that was moved to this path."""
    made_from = record["made_from"]
    if made_from.get("at") == at:
        return True
    (file, page), (other, other_page) = split_page(path), split_page(place(str(record["input"])))
    if page != other_page or not file.is_file() or made_from.get("picture") != digest_of(file):
        return False
    if is_address(file) or is_address(other):  # another address, or it would have been `at`
        return not other.is_file()
    return not other.is_file() or other.samefile(file)


def _would_replace(path: Path, file: Path, other: str) -> AtrousError:
    whose = f"the output of {other}" if other else "not output of atrous predict"
    return taken(f"its output would replace {file}, which is {whose}", path)


def taken(
    what: str, where: object, fix: str = "choose another --out, or move that file"
) -> AtrousError:
    """Returns the error of output whose place is taken."""
    return AtrousError("E-OUT-TAKEN", what, where=where, fix=fix)


def is_output(path: Path, beside: Collection[str] | None = None) -> bool:
    """Returns whether a file is output: STEM.SOMETHING.png or .jpg, with a record or a mark.

    Args:
        path: The file.
        beside: Names of the files in its folder, where they are known.
    """
    parts = path.name.split(".")
    if len(parts) < 3:
        return False
    for length in range(len(parts) - 2, 0, -1):
        name = ".".join(parts[:length]) + ".json"
        if beside is None or name in beside:
            record = read_record(path.with_name(name))
            if record is not None and path.name in files_of(record):
                return True
    if is_address(path):  # a mark would be a request for each picture
        return False
    return path.suffix in (".png", ".jpg", ".tif", *SUFFIXES) and bool(mark_of(path))


def mark_of(path: Path) -> str:
    """Returns the identity of the picture that a file was made from; empty for other files.

    A folder of label pictures has the mark of its first picture.
    """
    source = fetch(path) if is_address(path) else path
    if source is path and path.is_dir():
        path = source = min(path.iterdir(), default=path)
    if path.suffix in (".jsonl", *SUFFIXES):
        found = re.search(rb"\b%s\W{1,4}([0-9a-f]{32})" % MARK.encode(), ends_of(path))
        return found[1].decode() if found else ""
    try:
        with Image.open(source, formats=("PNG", "JPEG", "TIFF")) as image:
            text = image.info.get(MARK, "")
            tags = str(getattr(image, "tag_v2", {}).get(_GDAL_METADATA, ""))
            if marked := re.search(rf'<Item name="{MARK}">(\w+)</Item>', tags):
                text = marked[1]
            comment = bytes(image.info.get("comment", b"")).decode("ascii", "replace")
    except (OSError, SyntaxError, ValueError, TypeError):
        return ""
    return str(text) or (comment.partition(" ")[2] if comment.startswith(f"{MARK} ") else "")
