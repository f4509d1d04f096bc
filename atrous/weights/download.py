"""Downloads files into a cache that processes share, and checks the hash of each whole file.

A file without a known hash is never fetched. A file gets its final name only after its hash has
been checked. ``ATROUS_CACHE`` names the cache folder. ``ATROUS_OFFLINE=1`` forbids the network.
``ATROUS_WEIGHTS_URL`` lists mirrors, separated by spaces, that are tried first.
"""

import logging
import os
import re
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from atrous.engines.machine import cache_folder
from atrous.errors import AtrousError
from atrous.images.web import offline
from atrous.weights.transfer import Wanted, file_digest, transfer

_LOG = logging.getLogger(__name__)
_HASH_LENGTHS = {"sha256": 64, "sha384": 96}


def fetch(url: str, digest: str, *, size: int | None = None) -> Path:
    """Returns the file behind a URL: from the cache, or downloaded into it.

    Args:
        url: ``http://`` or ``https://``.
        digest: ``sha256:<64 hex digits>`` (or ``sha384:``) of the whole file.
        size: Bytes, if known.

    Raises:
        AtrousError: ``E-DOWNLOAD-...`` or ``E-DISK-FULL``. The message says where to put the file
            by hand.
    """
    algorithm, digits = parse_digest(digest)
    wanted = Wanted(cache_folder() / digits[:16] / _file_name(url), algorithm, digits, size)
    if wanted.target.is_file():
        if not wanted.matches(wanted.target):  # a wrong file put there by hand, or damage
            raise _wrong_hash(wanted.target, url, wanted)
        return wanted.target
    if offline():
        why = "not in the cache, and ATROUS_OFFLINE forbids the network"
        raise wanted.failure("OFFLINE", why, url, "unset ATROUS_OFFLINE")
    wanted.target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(wanted.target):
        if not wanted.target.is_file():  # the process that held the lock may have fetched it
            _download(url, wanted)
    return wanted.target


def parse_digest(digest: str) -> tuple[str, str]:
    """Splits ``sha256:<hex>``, or the bare digits of a SHA-256, into algorithm and digits.

    >>> parse_digest("AB" * 32)[0]
    'sha256'
    """
    algorithm, _, digits = digest.rpartition(":")
    algorithm, digits = algorithm or "sha256", digits.lower()
    if len(digits) != _HASH_LENGTHS.get(algorithm) or not re.fullmatch("[0-9a-f]+", digits):
        raise AtrousError(
            "E-DOWNLOAD-NO-HASH",
            f"{digest!r} is not a full SHA-256",
            fix="give all 64 hexadecimal digits, as sha256sum prints them",
        )
    return algorithm, digits


def _file_name(url: str) -> str:
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        raise AtrousError(
            "E-DOWNLOAD-URL", f"the address does not end in a file name: {name!r}", where=url
        )
    return name


def _locked(target: Path) -> AbstractContextManager[object]:
    """Takes a lock of the operating system, which is released even if this process is killed."""
    lock = FileLock(target.with_name(target.name + ".lock"))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        _LOG.warning("%s: waiting for another process that is downloading it", target.name)
        return lock.acquire()


def _download(url: str, wanted: Wanted) -> None:
    """Tries the mirrors and then the URL itself, until one sends the right bytes."""
    mirrors = os.environ.get("ATROUS_WEIGHTS_URL", "").split()
    urls = [f"{mirror.rstrip('/')}/{wanted.target.name}" for mirror in mirrors] + [url]
    for source in urls:
        try:
            _download_from(source, wanted)
            return
        except AtrousError as error:
            if source == urls[-1] or error.code == "E-DISK-FULL":
                raise
            _LOG.warning("%s", error)


def _download_from(url: str, wanted: Wanted) -> None:
    while True:
        resumed = wanted.part.is_file()
        transfer(url, wanted)
        if wanted.matches(wanted.part):
            wanted.part.replace(wanted.target)
            return
        error = _wrong_hash(wanted.part, url, wanted)
        wanted.part.unlink()
        if not resumed:  # else try once more: the part may have been of another file
            raise error


def _wrong_hash(path: Path, url: str, wanted: Wanted) -> AtrousError:
    found = file_digest(path, wanted.algorithm)
    what = f"{path.name} has {wanted.algorithm} {found}, expected {wanted.digest}"
    return wanted.failure("HASH", what, url, "the file is damaged or another one: delete it")
