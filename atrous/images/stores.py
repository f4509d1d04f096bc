"""Files in object stores, by addresses such as ``s3://bucket/folder/a.jpg``.

universal_pathlib gives an address the methods of a path, and fsspec reaches the store with the
credentials that the store's own tools use. Nothing of both is imported before the first address.
An object is written by one request, so it is whole or absent; stores cannot rename.
"""

import glob
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from atrous.errors import AtrousError, InputError, ResourceError, missing_extra

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "hf": "huggingface_hub"}
_CONDITIONAL = ("s3", "gs")  # stores that refuse to replace an object on request
# Names of an object's version in the listings of the four stores, the first that is there.
_VERSIONS = ("ETag", "etag", "blob_id")


class Named(io.BytesIO):
    """The content of a picture file, with its name for error messages."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def is_address(path: object) -> bool:
    """Returns whether something names a file in a store: a text, or a path of `place`."""
    if not isinstance(path, str) and not hasattr(path, "storage_options"):
        return False
    scheme, mark, _ = str(path).partition("://")
    return bool(mark) and scheme in PACKAGES


def place(path: str | Path) -> Path:
    """Returns a path; that of an address has the methods of a `Path` and is none.

    Raises:
        AtrousError: The package for a store is missing.
    """
    if not is_address(path):
        return Path(path)
    if not isinstance(path, str):
        return path
    store = path.partition("://")[0]
    try:
        from upath import UPath

        # A listing that is kept would be old when another machine has written.
        opened = UPath(path, use_listings_cache=False)
        opened.fs  # noqa: B018  # imports the package of the store
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError):  # fsspec raises the parent class
            error = ModuleNotFoundError(name=PACKAGES[store])
        raise missing_extra(f"an address {store}://", error, "cloud") from None
    return cast(Path, opened)


def absolute(path: Path) -> str:
    """Returns the absolute path of a file; of an address ``/s3/bucket/a.jpg``."""
    if is_address(path):
        return "/" + str(path).replace("://", "/", 1)
    return os.path.abspath(path)  # noqa: PTH100


def stored(address: Path) -> dict[str, str]:
    """Returns the objects at or below an address, or those that match it as a pattern.

    Returns:
        Address -> version; the version is empty where the store has none.

    Raises:
        AtrousError: As `reaching`.
    """
    store: Any = address
    with reaching(address):
        if glob.has_magic(str(address)):
            found = store.fs.glob(store.path, detail=True)
        else:
            found = store.fs.find(store.path.rstrip("/"), detail=True)
            if not found:
                store.fs.ls(store.path.partition("/")[0])  # `find` passes over a missing bucket
    scheme = str(address).partition("://")[0]
    return {
        f"{scheme}://{name}": str(next((info[k] for k in _VERSIONS if k in info), "")).strip('"')
        for name, info in found.items()
        if info["type"] == "file"
    }


def fetch(path: Path) -> Named:
    """Returns the content of an object.

    Raises:
        AtrousError: As `reaching`.
    """
    store: Any = path
    with reaching(path):
        return Named(store.fs.cat_file(store.path), str(path))


def read_range(path: Path, offset: int, length: int) -> bytes:
    """Returns some bytes of a file; of an object, by one request for that range."""
    if is_address(path):
        store: Any = path
        with reaching(path):
            return bytes(store.fs.cat_file(store.path, start=offset, end=offset + length))
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def put(path: Path, data: bytes, *, new: bool) -> None:
    """Writes an object by one request.

    Args:
        path: The address.
        data: Its content.
        new: Whether to refuse to replace another; S3 and Google's store then do so even if two
            writers come at once.

    Raises:
        AtrousError: ``E-OUT-TAKEN``: somebody else wrote it first. As `reaching`.
    """
    store: Any = path
    scheme = str(path).partition("://")[0]
    with reaching(path):
        try:
            if new and scheme not in _CONDITIONAL and path.exists():
                raise FileExistsError
            options = {"mode": "create"} if new and scheme in _CONDITIONAL else {}
            store.fs.pipe_file(store.path, data, **options)
        except FileExistsError:
            raise InputError(
                "E-OUT-TAKEN",
                "another call has written this since this call began",
                where=path,
                fix="let one call write a picture, or start again to keep what is there",
            ) from None


@contextmanager
def reaching(path: Path) -> Iterator[None]:
    """Turns errors of a store into an `AtrousError`.

    Raises:
        AtrousError: ``E-STORE-ACCESS``: no or wrong credentials. ``E-FILE-MISSING``: no such
            object or bucket. ``E-STORE``: anything else, after the retries of the store's package.
    """
    try:
        yield
    except AtrousError:
        raise
    except FileNotFoundError:
        raise InputError("E-FILE-MISSING", "no such object or bucket", where=path) from None
    except Exception as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, PermissionError) or "credential" in str(error).lower():
            raise AtrousError(
                "E-STORE-ACCESS",
                f"the store refuses access: {said}",
                where=path,
                fix="give the credentials as to the store's own tool, such as AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY, and the right to list, read and write",
            ) from error
        fix = "start again later: what is finished is kept"
        raise ResourceError(
            "E-STORE", f"the store gave an error: {said}", where=path, fix=fix
        ) from error
