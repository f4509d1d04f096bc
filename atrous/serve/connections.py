"""Connections that cannot be held open for nothing: uvicorn's protocol with the timeouts it lacks.

uvicorn bounds neither the time for a request's headers nor that for reading an answer.
"""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

WRITE_SECONDS = 15.0  # in which a client takes at least `_WRITE_BYTES` of an answer, or all
_WRITE_BYTES = 16_384
_READ_AT_ONCE = 1 << 16


class Protocol(H11Protocol):
    """One connection.

    The configuration's ``header_seconds`` is for a request line and headers, from the connection
    or the first byte on. Nothing but the headers counts: bodies have a timeout of their own.
    """

    header_seconds = 10.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts to wait for the first headers."""
        super().connection_made(transport)
        self._headers_due: asyncio.TimerHandle | None = None
        self._reading_due: asyncio.TimerHandle | None = None
        transport.set_write_buffer_limits(high=0)  # what the system did not take is noticed
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_AT_ONCE  # so that a body is refused soon after its limit
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Restarts or ends the wait for headers."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._expect_headers()
        else:
            self._cancel_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the timers."""
        self._cancel_headers()
        if self._reading_due is not None:
            self._reading_due.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The system's buffer is full: from now on, the client must take something."""
        super().pause_writing()
        size = self.transport.get_write_buffer_size()
        self._reading_due = self.loop.call_later(WRITE_SECONDS, self._check_reading, size)

    def resume_writing(self) -> None:
        """The client took everything."""
        super().resume_writing()
        if self._reading_due is not None:
            self._reading_due.cancel()
            self._reading_due = None

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP, as errors are answered everywhere."""
        text = json.dumps({"code": "E-HTTP", "message": msg, "hint": "send HTTP/1.1"}).encode()
        head = (
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(text)
        )
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # no answer has begun
            self.transport.write(head + text)
        self.transport.close()

    @property
    def idle(self) -> bool:
        """Whether nothing of a request has been read that is not answered."""
        cycle: Any = self.cycle  # None before the first request
        return (cycle is None or cycle.response_complete) and not self.conn.trailing_data[0]

    def _expect_headers(self) -> None:
        if self._headers_due is None:
            self._headers_due = self.loop.call_later(self.header_seconds, self.transport.close)

    def _cancel_headers(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _check_reading(self, size: int) -> None:
        left: Any = self.transport.get_write_buffer_size()
        if left > size - _WRITE_BYTES:
            self.transport.abort()
        else:
            self._reading_due = self.loop.call_later(WRITE_SECONDS, self._check_reading, left)
