"""Scores of a run as an event file, which TensorBoard shows. Writing one needs no TensorBoard.

The file is written again from metrics.csv at every evaluation, so that a resumed run leaves no step
twice. Format: records of (length, its checksum, bytes, their checksum); the bytes are an `Event` of
tensorboard/compat/proto/event.proto: wall_time = 1, step = 2, file_version = 3, summary = 5.
"""

import struct

from atrous.images.decode import atomic
from atrous.training.run_folder import RunFolder
from atrous.weights.tensorflow.checkpoint import masked_crc

NAME = "events.out.tfevents.0.atrous"


def write_events(run: RunFolder) -> None:
    """Writes the run's metrics, one scalar a column."""
    events = [_field(3, b"brain.Event:2")]
    for row in run.metrics():
        for tag, number in list(row.items())[2:]:  # step and epoch apart
            value = _field(1, tag.encode()) + b"\x15" + struct.pack("<f", float(number))
            summary = _field(5, _field(1, value))
            events.append(b"\x10" + _varint(int(row["step"])) + summary)
    with atomic(run.path / NAME) as temporary:
        temporary.write_bytes(b"".join(map(_record, events)))


def _field(number: int, content: bytes) -> bytes:
    """Returns a length-delimited field of a protocol buffer."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _record(event: bytes) -> bytes:
    length = struct.pack("<Q", len(event))
    return length + _checksum(length) + event + _checksum(event)


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc(data))
