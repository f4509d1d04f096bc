"""What a server is told when it starts, checked before anything else happens."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from atrous.engines import built_in
from atrous.engines.protocol import Precision
from atrous.errors import AtrousError, printable, unknown_name

SHORTEST_TOKEN = 16  # characters
HEADER_SECONDS = 10.0  # for a request line and its headers, and for an idle connection
BODY_SECONDS = 15.0  # for a whole body
BYTES_IN_FLIGHT = 256_000_000  # of all bodies that are being read, wait, or are worked on


@dataclass(frozen=True)
class Settings:
    """Limits and addresses of a server.

    Attributes:
        models: Paths or names, as `atrous.Predictor` takes them; empty: the default model.
        host: Address to listen on.
        port: Port to listen on; 0: any free one.
        workers: Processes of each model; None: see `processes`.
        threads: Threads of each process; None: see `processes`.
        token: What clients send as ``Authorization: Bearer``; empty: none is needed.
        insecure: Whether to listen off loopback without a token.
        max_bytes: Of a body.
        max_pixels: Of a picture.
        queue: Jobs that may wait, of each model; None: 64, or four for each worker if that is more.
        deadline: Seconds from a whole body to its answer.
        memory: Bytes a worker process may take; larger pictures are seen in tiles.
        allow_hosts: Names clients may call the server by, beside `host` and those of loopback.
        precision: Arithmetic of the networks, as `atrous.Predictor` takes it.
        downloadable: Whether anybody who reaches the server may download the model files. Built-in
            models always are downloadable.
        body_seconds: For a whole body to arrive.
        header_seconds: For the headers to arrive, and that an idle connection is kept.
        bytes_in_flight: Of all bodies together.

    Raises:
        AtrousError: Values that cannot be, a token that is too short, or an address off loopback
            without a token.
    """

    models: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int | None = None
    threads: int | None = None
    token: str = ""
    insecure: bool = False
    max_bytes: int = 20_000_000
    max_pixels: int = 33_000_000
    queue: int | None = None
    deadline: float = 30.0
    memory: int = 2_000_000_000
    allow_hosts: tuple[str, ...] = ()
    precision: Precision = "auto"
    downloadable: bool = False
    body_seconds: float = BODY_SECONDS
    header_seconds: float = HEADER_SECONDS
    bytes_in_flight: int = BYTES_IN_FLIGHT

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "deadline", "memory", "bytes_in_flight"):
            if not getattr(self, name) > 0:
                raise AtrousError("E-OPTIONS", f"{name} must be positive: {getattr(self, name)}")
        for name in ("workers", "threads", "queue"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise AtrousError("E-OPTIONS", f"{name} must be at least 1, not {value}")
        if self.precision not in get_args(Precision):
            raise unknown_name("precision", self.precision, get_args(Precision))
        if not 0 <= self.port < 65536:
            raise AtrousError("E-OPTIONS", f"port must be in 0..65535, not {self.port}")
        _check_token(self.token)
        if not (is_loopback(self.host) or self.token or self.insecure):
            raise AtrousError(
                "E-SERVE-OPEN",
                f"{self.host} can be reached from other machines, and no token protects it",
                fix="give --token-file FILE, or --insecure if something else keeps strangers away",
            )

    def processes(self, processors: int) -> tuple[int, int]:
        """Returns how many workers each model has, and how many threads each worker.

        At least two workers: one lives while the other is replaced. Threads share out the
        processors; above eight processors, workers of four threads answer sooner.
        """
        workers = self.workers or max(2, processors // 4)
        return workers, self.threads or max(1, processors // workers)

    def queue_bound(self, workers: int) -> int:
        """Returns how many jobs may wait: fewer than four for each worker refuse good clients."""
        return self.queue or max(64, 4 * workers)

    def named_models(self) -> dict[str, str]:
        """Returns the models by the names clients use: a path's stem, or a built-in name.

        Raises:
            AtrousError: Two models of one name.
        """
        named: dict[str, str] = {}
        for model in self.models or (built_in.DEFAULT,):
            name = re.sub(r"[^\w.-]", "_", Path(model).stem, flags=re.ASCII)
            if name in named:
                raise AtrousError(
                    "E-OPTIONS",
                    f"two models would be called {name!r}: {named[name]} and {model}",
                    fix="rename one of the files",
                )
            named[name] = model
        return named


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Returns whether an address is reached from this machine alone."""
    address = _address(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def read_token(path: Path) -> str:
    """Reads the token from a file, without the blanks around it.

    Raises:
        AtrousError: No such file, not text, or no token in it.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise AtrousError("E-TOKEN-FILE", f"cannot be read: {reason}", where=path) from None
    if not token:
        raise AtrousError("E-TOKEN-FILE", "no token in it", where=path, fix=_MAKE_TOKEN)
    return token


_MAKE_TOKEN = "make one: python -c 'import secrets; print(secrets.token_urlsafe(32))' > FILE"


def _check_token(token: str) -> None:
    if not token:
        return
    if len(token) < SHORTEST_TOKEN:
        raise AtrousError(
            "E-TOKEN-FILE",
            f"a token of {len(token)} characters can be guessed; {SHORTEST_TOKEN} at least",
            fix=_MAKE_TOKEN,
        )
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise AtrousError(
            "E-TOKEN-FILE", "a token is one line of printable ASCII without blanks", fix=_MAKE_TOKEN
        )


def host_of(header: str) -> str:
    """Returns the name in a Host header, in lower case, without its port.

    >>> host_of("Example.org:8000"), host_of("[::1]:80")
    ('example.org', '::1')
    """
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    name, colon, port = text.rpartition(":")
    return name if colon and port.isdigit() else text


def is_address(host: str) -> bool:
    """Returns whether a host is written as an address: no name can be rebound to it."""
    return _address(host) is not None


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """Returns the names by which the server may be called; addresses always may."""
    names: Sequence[str] = (settings.host, "localhost", *settings.allow_hosts)
    return frozenset(printable(name).strip("[]").lower() for name in names)
