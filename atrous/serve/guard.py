"""Stands before every request: checks who asks and from where, adds headers to every answer."""

import hashlib
import hmac
from collections.abc import Callable, MutableMapping
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atrous.errors import AtrousError
from atrous.serve import bodies, refusals
from atrous.serve.settings import Settings, allowed_hosts, host_of, is_address

# What needs the token. The page and what it reads do not: it runs models in the visitor's browser,
# and asks for the token when a picture is to be sent.
_PROTECTED = ("/v1/segment", "/v2", "/metrics")
_PROBES = ("/v2/health/live", "/v2/health/ready")

_DRAINED = 65_536  # bytes of a body that is not wanted, read so that the answer is not lost
_DRAIN_SECONDS = 1.0

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; media-src 'self' blob:; "
    "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
]


class Guard:
    """Wraps an application.

    Args:
        app: What answers.
        settings: Token and names.
        draining: Whether the server is going, so that no connection is kept.
    """

    def __init__(self, app: ASGIApp, settings: Settings, draining: Callable[[], bool]) -> None:
        self._app, self._draining = app, draining
        self._hosts = allowed_hosts(settings)
        self._token = _digest(settings.token.encode()) if settings.token else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            return
        exchange = _Exchange(scope, receive, send, self._draining)
        try:
            self._check(scope)
        except AtrousError as error:
            await refusal(error, scope["path"])(scope, exchange.receive, exchange.send)
            return
        await self._app(scope, exchange.receive, exchange.send)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        host = host_of(headers.get(b"host", b"").decode("latin-1"))
        if not (host in self._hosts or is_address(host)):
            raise AtrousError(
                "E-HOST",
                f"this server is not called {host!r}",
                fix="start it with --allow-host NAME to be called by another name",
            )
        _check_origin(headers)
        path = scope["path"]
        if self._token and path not in _PROBES and path.startswith(_PROTECTED):
            self._check_token(headers.get(b"authorization", b""))

    def _check_token(self, header: bytes) -> None:
        scheme, _, token = header.partition(b" ")
        # Digests have one length, so the comparison tells nothing about the token.
        if scheme.lower() != b"bearer" or not hmac.compare_digest(_digest(token), self._token):
            raise AtrousError("E-TOKEN", "no valid token", fix="send Authorization: Bearer TOKEN")


def _check_origin(headers: dict[bytes, bytes]) -> None:
    """Refuses what a page of somebody else's makes its visitors' browsers send."""
    origin = headers.get(b"origin", b"").decode("latin-1")
    authority = headers.get(b"host", b"").decode("latin-1").strip().lower()
    foreign = bool(origin) and urlsplit(origin).netloc.lower() != authority
    # Browsers without Origin in simple requests say where a request comes from. A link to the page
    # is no such request.
    navigates = headers.get(b"sec-fetch-mode") == b"navigate"
    if foreign or (headers.get(b"sec-fetch-site") == b"cross-site" and not navigates):
        raise AtrousError(
            "E-ORIGIN", "pages of other sites may not use this server", fix="use its own page"
        )


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token.strip()).digest()


class _Exchange:
    """A request and its answer: adds headers, and closes on bodies that are not read whole."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, draining: Callable[[], bool]
    ) -> None:
        self._receive, self._send, self._draining = receive, send, draining
        headers: MutableMapping[bytes, bytes] = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        self._unread = b"transfer-encoding" in headers or length != b"0"

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = list(_HEADERS)
            if self._unread or self._draining():
                extra.append((b"connection", b"close"))
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        elif self._unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await bodies.drain(self.receive, _DRAINED, _DRAIN_SECONDS)
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)


def refusal(error: AtrousError, path: str) -> Response:
    """Returns the answer that tells an error to who asked for a path."""
    status, said, headers = refusals.status_of(error), refusals.fields(error), {}
    if path.startswith("/v2"):  # the inference protocol's own word for it
        said["error"] = str(error.what)
    if isinstance(error, refusals.Busy):
        headers["retry-after"] = str(error.retry_after)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return bodies.json_answer(said, status, headers)
