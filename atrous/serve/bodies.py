"""Reading bodies and sending answers: within limits of bytes, of time, and of bytes of all."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any, Self

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from atrous.errors import AtrousError
from atrous.serve.refusals import Busy

_PART = 1 << 18  # bytes of an answer that are sent at a time


class ClientGone(Exception):  # noqa: N818 (nobody's error)
    """The client closed the connection: there is nobody to answer."""


class Budget:
    """Bytes that all bodies and answers together may take.

    Attributes:
        held: Bytes of bodies that are being read, wait, or are worked on, and of answers that
            clients have not taken yet.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0


class Share:
    """What one request takes of the budget; the end of a block gives it back."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self.held = budget, 0

    def __enter__(self) -> Self:
        """Begins the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Gives everything back."""
        self.give_back()

    def take(self, count: int) -> None:
        """Takes bytes.

        Raises:
            Busy: There are not so many left.
        """
        if self._budget.held + count > self._budget.most:
            raise Busy("too many bytes are being sent at a time")
        self._budget.held += count
        self.held += count

    def give_back(self) -> None:
        """Gives back all that was taken."""
        self._budget.held -= self.held
        self.held = 0


async def read_body(
    receive: Receive, declared: str | None, *, most: int, seconds: float, share: Share
) -> bytes:
    """Reads a body.

    Args:
        receive: From ASGI.
        declared: What Content-Length says.
        most: Bytes it may have.
        seconds: It may take.
        share: Of the budget; it holds the body's bytes when this returns.

    Raises:
        AtrousError: Too long (if declared, before a byte is read), too slow, empty.
        Busy: Too many bytes in flight.
        ClientGone: There is nobody to answer.
    """
    if declared is not None and declared.isdigit() and int(declared) > most:
        raise _too_long(most)
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                if share.held + len(part) > most:
                    raise _too_long(most)
                share.take(len(part))
                parts.append(part)
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise AtrousError(
            "E-BODY-TIMEOUT",
            f"the body did not arrive within {seconds:g} s",
            fix="send it faster, or send less",
        ) from None
    if not share.held:
        raise AtrousError("E-BODY-EMPTY", "the body is empty", fix="send a picture as the body")
    return b"".join(parts)


def json_answer(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Returns a value as an answer, which no cache keeps."""
    body = json.dumps(value).encode() + b"\n"
    return Response(
        body, status, {"cache-control": "no-store", **(headers or {})}, "application/json"
    )


class HeldAnswer(Response):
    """An answer whose bytes count until the client has taken them.

    It is sent in parts, each when the system has taken the one before: what is left in this
    process is never much more than what a client is still to take.

    Args:
        share: Holds the bytes of the body; given back when they are gone.
        seconds: The client may take.
    """

    def __init__(self, *arguments: Any, share: Share, seconds: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._share, self._seconds = share, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it; a client that is too slow gets a part, and the connection is closed."""
        with self._share, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                start = {"type": "http.response.start", "status": self.status_code}
                await send({**start, "headers": self.raw_headers})
                body = memoryview(self.body)
                for at in range(0, len(body), _PART):
                    part = bytes(body[at : at + _PART])
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b""})


async def drain(receive: Receive, most: int, seconds: float) -> None:
    """Reads on for a moment: a connection closed on unread bytes loses the answer."""
    try:
        async with asyncio.timeout(seconds):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _too_long(most: int) -> AtrousError:
    return AtrousError(
        "E-BODY-BYTES",
        f"the body is longer than {most / 1e6:g} MB",
        fix="send a smaller picture; the server's limit is --max-bytes",
    )
