import struct
from pathlib import Path

import google_crc32c
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from atrous.training.run_folder import RunFolder
from atrous.training.tensorboard import NAME, write_events

# tensorboard/compat/proto/{event,summary}.proto: message, field, number, type
FIELDS = """
Event wall_time 1 double
Event step 2 int64
Event file_version 3 string
Event summary 5 Summary
Summary value 1 *Value
Value tag 1 string
Value simple_value 2 float
"""
TYPES = {"double": 1, "float": 2, "int64": 3, "string": 9}


def _event_class() -> type:
    """Returns the message class that protobuf makes of the published declarations."""
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", syntax="proto3")
    messages = {name: file.message_type.add(name=name) for name in ("Event", "Summary", "Value")}
    for line in FIELDS.strip().splitlines():
        message, name, number, kind = line.split()
        field = messages[message].field.add(name=name, number=int(number))
        field.label = 3 if kind.startswith("*") else 1
        if kind in TYPES:
            field.type = TYPES[kind]
        else:
            field.type, field.type_name = 11, f".{kind.strip('*')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Event"))


def _masked(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def _events(path: Path) -> list:
    data, events = path.read_bytes(), []
    while data:
        (length, check), data = struct.unpack("<QI", data[:12]), data[12:]
        event, check_event, data = data[:length], data[length : length + 4], data[length + 4 :]
        assert check == _masked(struct.pack("<Q", length))
        assert struct.unpack("<I", check_event)[0] == _masked(event)
        events.append(_event_class().FromString(event))
    return events


def test_event_file_holds_the_metrics(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (100, 30_000):
        scores = {"loss": 0.5, "mean_iou": step / 1e5, "pixel_accuracy": 0.75}
        run.add_metrics({"step": step, "epoch": 1, **scores})
    write_events(run)
    write_events(run)  # again: nothing comes twice
    first, *events = _events(tmp_path / NAME)
    assert first.file_version == "brain.Event:2"
    shown = [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in events]
    assert [(step, tag) for step, tag, _ in shown] == [
        (step, tag) for step in (100, 30_000) for tag in ("loss", "mean_iou", "pixel_accuracy")
    ]
    values = [value for _, _, value in shown]
    assert values == pytest.approx([0.5, 0.001, 0.75, 0.5, 0.3, 0.75])
