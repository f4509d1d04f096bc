"""Pictures from addresses that the user types: http and https alone, with limits.

Nothing else in the runtime half reaches the network. The server and the page never do.
"""

import os
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from atrous.errors import AtrousError, InputError
from atrous.images.stores import PACKAGES as STORES

if TYPE_CHECKING:  # the modules are slow to import, and few calls need them
    from http.client import HTTPResponse
    from urllib.request import OpenerDirector

MAX_BYTES = 256 << 20  # the largest picture that is fetched
SECONDS = 120.0  # the longest time for a whole picture
_SILENCE = 20.0  # seconds without a byte
_REDIRECTS = 5
_CHUNK = 1 << 16


def is_web_address(text: object) -> bool:
    """Returns whether a text is an address, and neither a path nor the address of a store."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text) if isinstance(text, str) else None
    return match is not None and match[1] not in STORES


def without_query(address: str) -> str:
    """Returns an address without what follows the path, which may be a secret of the user.

    >>> without_query("https://example.org/a/b.jpg?key=1")
    'https://example.org/a/b.jpg'
    """
    return re.split(r"[?#]", address, maxsplit=1)[0]


def file_name(address: str) -> str:
    """Returns a file name made of the last part of an address.

    >>> file_name("https://example.org/a/my%20photo.jpg?size=large")
    'my photo.jpg'
    >>> file_name("https://example.org")
    'example.org'
    """
    parts = urlsplit(address)
    last = unquote(parts.path).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    name = re.sub(r"[^\w .+()-]", "_", last).lstrip(". ")
    return name[-200:] or str(parts.hostname)


def check_address(address: str) -> None:
    """Makes sure that an address may be fetched.

    Raises:
        AtrousError: ``E-DOWNLOAD-URL``: another scheme, no host, or a password in the address.
    """
    parts = urlsplit(address)
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise AtrousError(
            "E-DOWNLOAD-URL",
            "only http:// and https:// addresses without a user name are fetched",
            where=without_query(address),
            fix="save the file and name it",
        )


def offline() -> bool:
    """Returns whether ``ATROUS_OFFLINE`` forbids the network."""
    return os.environ.get("ATROUS_OFFLINE", "") not in ("", "0")


def opener(redirects: int = 10) -> "OpenerDirector":
    """Returns an opener for http and https alone; urllib's own also opens files and FTP.

    Args:
        redirects: How often a server may send the request elsewhere.
    """
    import urllib.request

    follow = type("Follow", (urllib.request.HTTPRedirectHandler,), {"max_redirections": redirects})
    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        follow(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        director.add_handler(handler)
    return director


def fetch_picture(address: str) -> bytes:
    """Returns the bytes behind an address. They decide what it is, not the server's word.

    Raises:
        AtrousError: ``E-DOWNLOAD-...``: URL, OFFLINE, REFUSED (by the server, or too many
            redirects), SIZE, TIME or FAILED.
    """
    import http.client
    import urllib.error
    import urllib.request

    check_address(address)
    if offline():
        raise _failure("OFFLINE", "ATROUS_OFFLINE forbids the network", address)
    headers = {"User-Agent": "atrous", "Accept-Encoding": "identity", "Accept": "image/*, */*"}
    try:
        request = urllib.request.Request(address, headers=headers)
        with opener(_REDIRECTS).open(request, timeout=_SILENCE) as response:
            return _body(response, address)
    except urllib.error.HTTPError as error:
        with suppress(Exception):
            error.close()
        reason = str(error.reason).strip().splitlines()[0]
        raise _failure("REFUSED", f"the server answered {error.code} {reason}", address) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, AtrousError):
            raise
        cause = getattr(error, "reason", None) or error
        if isinstance(cause, TimeoutError):
            raise _failure("TIME", f"nothing came for {_SILENCE:.0f} s", address) from None
        raise _failure("FAILED", f"{cause}" or type(cause).__name__, address) from None


def _body(response: "HTTPResponse", address: str) -> bytes:
    too_large = f"more than {MAX_BYTES >> 20} MB, the most that is fetched"
    if (response.length or 0) > MAX_BYTES:
        raise _failure("SIZE", too_large, address)
    promised, end = response.length, time.monotonic() + SECONDS
    content = bytearray()
    while chunk := response.read1(_CHUNK):
        content += chunk
        if len(content) > MAX_BYTES:
            raise _failure("SIZE", too_large, address)
        if time.monotonic() > end:
            raise _failure("TIME", f"not finished in {SECONDS:.0f} s", address)
    if promised is not None and len(content) < promised:
        what = f"the server sent {len(content)} bytes of {promised}"
        raise _failure("FAILED", what, address)
    return bytes(content)


def _failure(code: str, what: str, address: str) -> AtrousError:
    return InputError(
        f"E-DOWNLOAD-{code}",
        what,
        where=without_query(address),
        fix="" if code == "OFFLINE" else "check the address in a browser, or save the file there",
    )
