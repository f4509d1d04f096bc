"""Fetches one file over HTTP: resumes where it stopped, and retries if the failure may pass."""

import errno
import hashlib
import http.client
import logging
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from atrous.errors import AtrousError, ResourceError
from atrous.images.web import opener

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each retry; the download fails after the last
_LONGEST_PAUSE = 60.0  # seconds; a longer Retry-After of the server is cut to this
_MAX_SIZE = 8 << 30  # bytes, if neither the caller nor the server says how long the file is
_RETRIED = frozenset((408, 429, 500, 502, 503, 504))
_NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


@dataclass(frozen=True)
class Wanted:
    """A file to fetch: its place and its hash.

    Args:
        target: Final path. The download grows beside it, as ``<name>.part``.
        algorithm: Name of the hash in hashlib.
        digest: The hash in lower-case hexadecimal.
        size: Bytes, if known.
    """

    target: Path
    algorithm: str
    digest: str
    size: int | None

    @property
    def part(self) -> Path:
        """Path of the unfinished download."""
        return self.target.with_name(self.target.name + ".part")

    def matches(self, path: Path) -> bool:
        """Returns whether a file exists and has the right hash."""
        return path.is_file() and file_digest(path, self.algorithm) == self.digest

    def failure(
        self, code: str, what: str, url: str, fix: str = "check the address"
    ) -> AtrousError:
        """Returns the error of a failed download. It says how to get the file by hand."""
        return ResourceError(
            f"E-DOWNLOAD-{code}",
            what,
            where=url,
            fix=f"{fix}, or get the file another way, put it at {self.target} and run this again",
        )


class _PassingError(Exception):
    """A failure that may pass, with the pause that the server asks for in seconds."""

    def __init__(self, reason: object, pause: float = 0) -> None:
        super().__init__(str(reason))
        self.pause = pause


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Returns the hash of a whole file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def transfer(url: str, wanted: Wanted) -> None:
    """Downloads ``wanted.part`` to its end. The caller must check its hash.

    Raises:
        AtrousError: ``E-DOWNLOAD-...`` if the address is wrong, or the server refuses, sends
            another file or keeps failing; the part is kept. ``E-DISK-FULL``; the part is removed.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise wanted.failure("URL", "only http:// and https:// are fetched", url)
    for pause in (*_PAUSES, None):
        try:
            _fetch_rest(url, wanted)
            return
        except _PassingError as reason:
            if wanted.matches(wanted.part):  # complete: the server announced a wrong length
                return
            if pause is None:
                tries = f"given up after {len(_PAUSES) + 1} tries: {reason}"
                raise wanted.failure("FAILED", tries, url) from None
            pause = max(pause, min(reason.pause, _LONGEST_PAUSE))
            _LOG.warning("%s: %s; trying again in %.0f s", url, reason, pause)
            time.sleep(pause)


def _fetch_rest(url: str, wanted: Wanted) -> None:
    """Appends the missing bytes to the part; starts over if the server cannot resume."""
    have = wanted.part.stat().st_size if wanted.part.is_file() else 0
    headers = {"User-Agent": "atrous", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        request = urllib.request.Request(url, headers=headers)
        with opener().open(request, timeout=_TIMEOUT) as response:
            resumes = response.status == 206 and _range_start(response) == have
            _receive(response, url, wanted, have if resumes else 0)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error, url, wanted) from None
    except http.client.HTTPException as error:
        raise _PassingError(f"the answer broke off: {error!r}") from None
    except OSError as error:
        raise _system_failure(error, url, wanted) from None


def _receive(response: http.client.HTTPResponse, url: str, wanted: Wanted, start: int) -> None:
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise wanted.failure("HTML", "the server sent a web page instead of the file", url)
    promised = None if response.length is None else start + response.length
    if wanted.size is not None and promised not in (None, wanted.size):
        raise wanted.failure("SIZE", f"the server offers {promised} bytes of {wanted.size}", url)
    limit = wanted.size or promised or _MAX_SIZE
    if limit < _MAX_SIZE and limit - start > _free_space(wanted):
        raise _disk_full(wanted, f"{limit - start} more bytes")
    with wanted.part.open("ab") as file:
        file.truncate(start)
        file.seek(start)  # so that tell() counts from the start of the file
        while chunk := response.read1(_CHUNK):
            if file.tell() + len(chunk) > limit:
                raise wanted.failure("SIZE", f"the server sends more than {limit} bytes", url)
            file.write(chunk)
        if promised is not None and file.tell() < promised:
            raise _PassingError(f"the server sent {file.tell()} bytes of {promised}")


def _range_start(response: http.client.HTTPResponse) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _refusal(error: urllib.error.HTTPError, url: str, wanted: Wanted) -> Exception:
    answer = f"the server answered {error.code} {error.reason}"
    if error.code == 416:  # range not satisfiable: the part is as long as the file, or longer
        if not wanted.matches(wanted.part):
            wanted.part.unlink(missing_ok=True)
        return _PassingError(answer)
    if error.code in _RETRIED:
        after = error.headers.get("Retry-After", "")
        return _PassingError(answer, float(after) if after.isdigit() else 0)
    return wanted.failure("REFUSED", answer, url)


def _system_failure(error: OSError, url: str, wanted: Wanted) -> Exception:
    if error.errno in _NO_SPACE:
        return _disk_full(wanted, f"{wanted.size} bytes" if wanted.size else "more bytes")
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    # An unknown scheme or host, or a missing permission, does not pass by itself.
    if isinstance(cause, (str, socket.gaierror, PermissionError)):
        return wanted.failure("FAILED", str(cause), url)
    return _PassingError(str(cause) or type(cause).__name__)


def _free_space(wanted: Wanted) -> int:
    return shutil.disk_usage(wanted.target.parent).free


def _disk_full(wanted: Wanted, needed: str) -> AtrousError:
    wanted.part.unlink(missing_ok=True)
    return ResourceError(
        "E-DISK-FULL",
        f"{wanted.target.name} needs {needed}, {_free_space(wanted)} are free",
        where=wanted.target.parent,
        fix="free some space, or set ATROUS_CACHE to a folder on a larger disk",
    )
