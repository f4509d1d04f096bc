"""Messages between the front process and its workers: JSON with bytes behind it, no pickle.

A message is 4 bytes (length of the JSON), 8 bytes (length of the payload), the JSON, the payload.
Both ends belong to one program, so lengths are trusted.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

_LENGTHS = struct.Struct(">IQ")

Message = tuple[dict[str, Any], bytes]


def head(fields: Mapping[str, Any], payload: bytes) -> bytes:
    """Returns what is sent before a payload."""
    text = json.dumps(fields, separators=(",", ":")).encode()
    return _LENGTHS.pack(len(text), len(payload)) + text


async def read(stream: asyncio.StreamReader) -> Message:
    """Reads a message in the front process.

    Raises:
        asyncio.IncompleteReadError: The worker is gone.
    """
    text_length, length = _LENGTHS.unpack(await stream.readexactly(_LENGTHS.size))
    fields = json.loads(await stream.readexactly(text_length))
    return fields, await stream.readexactly(length) if length else b""


def receive(stream: BinaryIO) -> Message | None:
    """Reads a message in a worker; None: the front process is gone."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    text_length, length = _LENGTHS.unpack(lengths)
    text, payload = stream.read(text_length), stream.read(length)
    return (json.loads(text), payload) if len(payload) == length else None


def send(connection: socket.socket, fields: Mapping[str, Any], payload: bytes = b"") -> None:
    """Sends a message from a worker."""
    if len(payload) < 1 << 16:
        connection.sendall(head(fields, payload) + payload)
    else:
        connection.sendall(head(fields, payload))
        connection.sendall(payload)
