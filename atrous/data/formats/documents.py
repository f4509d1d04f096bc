"""JSON and XML annotation files: read safely, and once for each process."""

import json
from collections.abc import Callable
from functools import lru_cache, wraps
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from atrous.errors import AtrousError, DataError, needing

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

T = TypeVar("T")


def invalid(what: str, where: object, fix: str = "export the annotations again") -> AtrousError:
    """Returns the error for an annotation file that cannot be used."""
    return DataError("E-DATA-ANNOTATION", what, where=where, fix=fix)


def once_per_file(parse: Callable[[Path], T], *, files: int = 8) -> Callable[[Path], T]:
    """Keeps the results of `parse` for the last few files, as long as the files are unchanged.

    A file may annotate a whole split, and a reader needs it for every picture.

    Args:
        parse: Reads a file.
        files: How many results are kept.
    """

    @lru_cache(maxsize=files)
    def parsed(path: Path, modified: int, size: int) -> T:
        return parse(path)

    @wraps(parse)
    def of_version(path: Path) -> T:
        try:
            status = path.stat()
        except OSError as error:
            raise invalid(f"cannot be read: {error.strerror}", path) from None
        return parsed(path, status.st_mtime_ns, status.st_size)

    return of_version


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        AtrousError: The file cannot be read, is not JSON, or is not an object.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise invalid(f"not a JSON file: {error}", path) from None
    if not isinstance(content, dict):
        raise invalid("not a JSON object", path)
    return content


def holds_keys(path: Path, *keys: str) -> bool:
    """Returns whether a JSON file holds all of some keys, without parsing the file.

    The whole file is searched: an encoded picture or a million annotations may precede a key.
    """
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            return all(content.find(f'"{key}"'.encode()) >= 0 for key in keys)
    except (OSError, ValueError):  # ValueError: an empty file
        return False


def read_xml(path: Path) -> "Element":
    """Reads an XML file, without entities and external references.

    Raises:
        AtrousError: The file cannot be read, is not XML, or defines entities.
    """
    with needing("reading XML", "data"):
        # The standard parser expands nested entities without limit; defusedxml refuses entities.
        from defusedxml import DefusedXmlException, ElementTree
    try:
        root: Element = ElementTree.parse(path).getroot()
    except (OSError, ValueError, ElementTree.ParseError, DefusedXmlException) as error:
        raise invalid(f"not a plain XML file: {error}", path) from None
    return root


def check_size(stated: tuple[Any, Any], size: tuple[int, int], name: str, where: object) -> None:
    """Raises DataError unless a file states the (height, width) that its picture has."""
    if stated != size:
        raise invalid(f"{name} is {stated} there and {size} itself (height, width)", where)


def read_field(content: Any, key: Any, kind: Callable[[Any], T], where: object, what: str) -> T:
    """Returns ``kind(content[key])``; `what` names the content in messages.

    Raises:
        AtrousError: The key is absent, or the value is of another kind.
    """
    try:
        return kind(content[key])
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        raise invalid(f"{what}: {key!r} is missing or of the wrong kind", where) from None
