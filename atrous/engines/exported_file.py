"""The header of an exported file, read and checked before an engine opens the file.

An ONNX file is a protocol buffer. Few of its fields are needed here, and reading them takes less
code and time than the ``onnx`` package.
"""

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from atrous.classes import Color
from atrous.errors import AtrousError, DataError
from atrous.images.bands import Bands
from atrous.schema import from_json

FORMAT = 2  # version of this package's metadata; 2: other pixels than 8-bit RGB
NEWEST_OPSET = 20

# Names of values inside the graph of a network with image pooling. When a large picture is seen in
# tiles, the features of all tiles are averaged, and each tile is given that mean.
HIGH_LEVEL = "high_level"  # the backbone's last features, (1, C, H/OS, W/OS)
POOLED = "pooled"  # their mean, (1, C, 1, 1)

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA, _MODEL_FUNCTIONS = 7, 8, 14, 25
_GRAPH_INPUT, _GRAPH_OUTPUT = 11, 12
_TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 8, 13, 14
# Where tensors can be: the kinds of messages that hold some, and in which fields.
_HOLDING_TENSORS = {
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        **dict.fromkeys((5, 10), "tensor"),
        **dict.fromkeys((6, 11), "graph"),
        **dict.fromkeys((22, 23), "sparse tensor"),
    },
    "sparse tensor": dict.fromkeys((1, 2), "tensor"),  # values and indices
}


@dataclass(frozen=True)
class Header:
    """The metadata of an exported model.

    Attributes:
        classes: Names of the classes, in the order of the logits.
        palette: Colour of each class.
        output_stride: Stride of the encoder's output.
        logits_stride: Pixels of the picture per step of the coarse logits.
        backbone: Name of the backbone.
        precision: ``float32``, ``float16`` (of the weights; arithmetic is in 32 bits) or ``int8``.
        licence: The licence of the weights; empty if unknown.
        source: Where the weights come from.
        source_sha256: Hash of the file with the weights, if they came from one file.
        sha256: Hash of the graph with its weights, from the picture to the logits.
        reach: Distance in pixels beyond which a logit does not depend on the picture; image
            pooling is not counted.
        size: Height and width, if the file takes one size alone; (0, 0) otherwise.
        training: How the weights were trained: the fields of `atrous.model.Training`.
        notes: Other facts about the weights: terms of the data, attribution.
        bf16_agreement: Share of pixels, 0..1, with the same label in bfloat16 as in float32, as
            `atrous export` measured it on pictures; None where it was not measured.
        bf16_measured: How it was measured: engine and processor, number of pictures.
        architecture: The network: the fields of `atrous.architecture.Architecture`; empty in
            files that are older than this field.
    """

    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    output_stride: int
    logits_stride: int
    backbone: str
    precision: str
    licence: str
    source: str
    source_sha256: str
    sha256: str
    reach: int
    size: tuple[int, int]
    training: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    bf16_agreement: float | None = None
    bf16_measured: str = ""
    architecture: dict[str, Any] = field(default_factory=dict)

    @property
    def bands(self) -> Bands:
        """The channels of the pictures, their type and normalisation."""
        return Bands.of(self.architecture)

    def properties(self) -> dict[str, str]:
        """Returns the metadata properties of the file."""
        # What a file must have comes last, so that a file cut short is missing some of it.
        number = 1 if self.bands.is_rgb else FORMAT  # older versions read all they can
        values = {**dict(reversed(vars(self).items())), "atrous_format": number}
        return {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}


class FileEngine:
    """The facts of an exported file, as attributes of the engine that runs it.

    Args:
        path: The file.

    Raises:
        AtrousError: See `read_header`.
    """

    def __init__(self, path: Path) -> None:
        self.header = read_header(path)
        self.classes, self.palette = self.header.classes, self.header.palette
        self.bands, self.reach = self.header.bands, self.header.reach
        self.output_stride = self.header.output_stride
        self.logits_stride = self.header.logits_stride
        self.fingerprint = self.header.sha256


def read_header(path: Path) -> Header:
    """Reads and checks a file that `atrous export` wrote.

    Raises:
        AtrousError: Not ONNX; not exported by this package; weights outside the file, which
            could make the engine read any file of the user; or made by a newer version.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            properties, interface, opset = _scan(data, path)
    except (IndexError, UnicodeDecodeError, ValueError, RecursionError) as error:
        if isinstance(error, AtrousError):
            raise
        raise DataError(
            "E-MODEL-FORMAT",
            "not an ONNX file, or a damaged one",
            where=path,
            fix="export or download it again",
        ) from None
    return _checked(properties, interface, opset, path)


def _scan(data: mmap.mmap, path: Path) -> tuple[dict[str, str], tuple[list[str], list[str]], int]:
    """Returns metadata, names of inputs and outputs, and the opset."""
    properties: dict[str, str] = {}
    inputs: list[str] = []
    outputs: list[str] = []
    opset = 0
    for number, start, end in _fields(data, 0, len(data)):
        if number == _MODEL_METADATA:
            entry = _entry(data, start, end)
            properties[_text(data, entry, 1)] = _text(data, entry, 2)
        elif number == _MODEL_OPSET:
            opset = max(opset, _opset(data, start, end))
        elif number == _MODEL_GRAPH:
            _refuse_external("graph", data, start, end, path)
            inputs += _names(data, start, end, _GRAPH_INPUT)
            outputs += _names(data, start, end, _GRAPH_OUTPUT)
        elif number == _MODEL_FUNCTIONS:
            _refuse_external("function", data, start, end, path)
    return properties, (inputs, outputs), opset


def _opset(data: mmap.mmap, start: int, end: int) -> int:
    """Returns the version of the standard operators, or 0 if the entry is about others."""
    entry = _entry(data, start, end)
    standard = _text(data, entry, 1) in ("", "ai.onnx")
    return varint(data, entry[2][0])[0] if standard and 2 in entry else 0


def _names(data: mmap.mmap, start: int, end: int, kind: int) -> list[str]:
    """Returns the names of a graph's inputs or outputs."""
    values = [(begin, stop) for number, begin, stop in _fields(data, start, end) if number == kind]
    return [_text(data, _entry(data, *value), 1) for value in values]


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields the number of each field of a message with start and end of its value."""
    while position < end:
        key, position = varint(data, position)
        kind = key & 7
        if kind == 0:
            start, (_, position) = position, varint(data, position)
        elif kind == 2:
            length, start = varint(data, position)
            position = start + length
        elif kind in (1, 5):
            start, position = position, position + (8 if kind == 1 else 4)
        else:
            raise ValueError("unknown wire type")
        if position > end or key >> 3 == 0:
            raise ValueError("a field beyond its message")
        yield key >> 3, start, position


def varint(data: bytes | mmap.mmap, position: int) -> tuple[int, int]:
    """Returns the variable-length integer at a position, and where it ends.

    Raises:
        IndexError: The data end before it does, or it is longer than 64 bits.
    """
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError("not a number")


def _entry(data: mmap.mmap, start: int, end: int) -> dict[int, tuple[int, int]]:
    """Returns the places of a message's values by the numbers of its fields."""
    return {number: (begin, stop) for number, begin, stop in _fields(data, start, end)}


def _text(data: mmap.mmap, entry: dict[int, tuple[int, int]], number: int) -> str:
    """Returns the text in a field of a message; empty if it has no such field."""
    return data[slice(*entry[number])].decode() if number in entry else ""


def _refuse_external(kind: str, data: mmap.mmap, start: int, end: int, path: Path) -> None:
    """Raises if a tensor in a message, or in one nested in it, lies in another file."""
    if kind == "tensor":
        _refuse_external_tensor(data, start, end, path)
        return
    for number, begin, stop in _fields(data, start, end):
        if inner := _HOLDING_TENSORS[kind].get(number):
            _refuse_external(inner, data, begin, stop, path)


def _refuse_external_tensor(data: mmap.mmap, start: int, end: int, path: Path) -> None:
    name, location, external = "", "", False
    for number, begin, stop in _fields(data, start, end):
        if number == _TENSOR_NAME:
            name = data[begin:stop].decode()
        elif number == _TENSOR_LOCATION:
            external = external or varint(data, begin)[0] != 0
        elif number == _TENSOR_EXTERNAL:
            external = True
            entry = _entry(data, begin, stop)
            if _text(data, entry, 1) == "location":
                location = _text(data, entry, 2)
    if external:
        raise DataError(
            "E-MODEL-EXTERNAL",
            f"the tensor {name!r} lies outside the file, in {location!r}",
            where=path,
            fix="use a file written by 'atrous export': it holds all its weights",
        )


def _checked(
    properties: dict[str, str],
    interface: tuple[list[str], list[str]],
    opset: int,
    path: Path,
) -> Header:
    if not properties.get("atrous_format", "").isdigit():
        inputs, outputs = (", ".join(names) or "none" for names in interface)
        raise _contract(
            "a file written by 'atrous export', with input image, output logits and metadata",
            f"inputs {inputs}; outputs {outputs}; no metadata of atrous",
            path,
        )
    if int(properties["atrous_format"]) > FORMAT:
        raise AtrousError(
            "E-MODEL-NEWER",
            f"written in format {properties['atrous_format']}, this version reads up to {FORMAT}",
            where=path,
            fix="upgrade atrous",
        )
    if interface not in ((["image"], ["logits"]), (["image"], ["labels", "logits"])):
        raise _contract("input image and output logits", f"{interface[0]}, {interface[1]}", path)
    if not 1 <= opset <= NEWEST_OPSET:
        raise _contract(f"opset up to {NEWEST_OPSET}", f"opset {opset}", path)
    try:
        header = _parsed(properties)
    except ValueError as error:
        raise _contract("complete metadata", str(error.args[0]), path) from None
    if len(header.classes) != len(header.palette) or not header.classes:
        found = f"{len(header.classes)} classes, {len(header.palette)} colours"
        raise _contract("a colour for each class", found, path)
    return header


def _parsed(properties: dict[str, str]) -> Header:
    """Reads what `Header.properties` wrote: texts as they are, all other values as JSON."""
    hints = get_type_hints(Header)
    known = {name: text for name, text in properties.items() if name in hints}
    values = {n: text if hints[n] is str else json.loads(text) for n, text in known.items()}
    return from_json(Header, values)


def _contract(expected: str, found: str, path: Path) -> AtrousError:
    return DataError(
        "E-MODEL-CONTRACT",
        f"not a model of atrous: expected {expected}; found {found}",
        where=path,
        fix="export the model with 'atrous export'",
    )
