"""Reads TensorFlow V2 checkpoints (``.index`` and ``.data-*``) without TensorFlow.

The index is a sorted string table in LevelDB's format. It maps each tensor's name to a protocol
buffer with type, shape and place. The data files hold the bytes. Every length is checked against
the files before memory of that length is allocated, and TensorFlow's checksums are verified.
The one published reader in pure Python needs protobuf below 3.19, so it is not used.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from atrous.engines.exported_file import varint
from atrous.weights.differences import broken
from atrous.weights.tensorflow.protos import DTYPES, message

_broken = partial(
    broken, fix="get the checkpoint again from its source; it needs its .index and all .data files"
)

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48  # two block handles, padding, magic
_MAX_INDEX = 64 << 20  # bytes; a checkpoint of the zoo has some 0.1 MB


class Entry(NamedTuple):
    """Place of one tensor in a checkpoint."""

    dtype: np.dtype[Any] | None  # None: not numbers, such as strings
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def read_checkpoint(
    prefix: Path, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Reads the tensors of a V2 checkpoint.

    Args:
        prefix: The path without ``.index``.
        wanted: Says whether to read a tensor of this name. Other tensors, such as optimizer slots,
            cost neither time nor memory.

    Returns:
        The arrays by name, and every name in the checkpoint.

    Raises:
        AtrousError: ``E-WEIGHTS-FORMAT`` for a file that is damaged, incomplete or of another
            format, with the name of the tensor.
    """
    index = prefix.with_name(prefix.name + ".index")
    shards, entries = _read_index(index)
    _check_places(index, entries)
    files = [prefix.with_name(f"{prefix.name}.data-{i:05}-of-{shards:05}") for i in range(shards)]
    for file in files:
        if not file.is_file():
            raise _broken(file, "a data file of the checkpoint is missing")
    arrays = {
        name: _read_tensor(files[entry.shard], name, entry)
        for name, entry in entries.items()
        if entry.dtype is not None and wanted(name)
    }
    return arrays, list(entries)


def _read_tensor(file: Path, name: str, entry: Entry) -> NDArray[Any]:
    if entry.offset + entry.size > file.stat().st_size:
        raise _broken(file, f"the file ends before tensor {name!r} does")
    with file.open("rb") as data:
        data.seek(entry.offset)
        content = data.read(entry.size)
    if masked_crc(content) != entry.checksum:
        raise _broken(file, f"the checksum of tensor {name!r} is wrong")
    return np.frombuffer(content, entry.dtype).reshape(entry.shape).copy()


def _read_index(path: Path) -> tuple[int, dict[str, Entry]]:
    """Returns the number of data files and the entries by name."""
    if path.stat().st_size > _MAX_INDEX:
        raise _broken(path, "too long for the index of a checkpoint")
    table = path.read_bytes()
    if len(table) < _FOOTER or table[-8:] != _MAGIC:
        raise _broken(path, "not the index of a TensorFlow V2 checkpoint")
    try:
        return _parse_index(path, table)
    except (DecodeError, IndexError, UnicodeDecodeError) as error:
        raise _broken(path, f"the index is damaged: {error}") from None


def _parse_index(path: Path, table: bytes) -> tuple[int, dict[str, Entry]]:
    _, position = _handle(table, len(table) - _FOOTER)
    index_block, _ = _handle(table, position)
    header: Any = None
    entries: dict[str, Entry] = {}
    previous: bytes | None = None
    for _, value in _pairs(path, _block(path, table, index_block)):
        for key, content in _pairs(path, _block(path, table, _handle(value, 0)[0])):
            if previous is not None and key <= previous:
                raise _broken(path, f"tensor {key!r} occurs twice or out of order")
            previous = key
            if key == b"":
                header = message("BundleHeader", content)
            else:
                entries[key.decode()] = _entry(path, key.decode(), content)
    if header is None or header.endianness != 0:
        raise _broken(path, "the header is missing or says big-endian")
    for name, entry in entries.items():
        if not 0 <= entry.shard < header.num_shards:
            raise _broken(path, f"tensor {name!r} lies in data file {entry.shard}, there is none")
    return header.num_shards, entries


def _entry(path: Path, name: str, content: bytes) -> Entry:
    proto = message("BundleEntry", content)
    shape = tuple(dim.size for dim in proto.shape.dim)
    if proto.slices:
        raise _broken(path, f"tensor {name!r} is stored in slices, which are not supported")
    if min(shape, default=0) < 0 or proto.offset < 0 or proto.size < 0:
        raise _broken(path, f"tensor {name!r} has a negative size")
    dtype = DTYPES.get(proto.dtype)
    if dtype is not None and math.prod(shape) * dtype.itemsize != proto.size:
        raise _broken(path, f"tensor {name!r} of shape {shape} has {proto.size} bytes")
    return Entry(dtype, shape, proto.shard_id, proto.offset, proto.size, proto.crc32c)


def _check_places(path: Path, entries: dict[str, Entry]) -> None:
    """Raises an error if two tensors share bytes."""
    end = (-1, 0)
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].shard, item[1].offset)):
        if (entry.shard, entry.offset) < end and entry.size:
            raise _broken(path, f"tensor {name!r} overlaps another")
        end = max(end, (entry.shard, entry.offset + entry.size))


def _pairs(path: Path, block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a block. A key is stored as its difference to the last one."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise _broken(path, "the index is damaged: a block is too short")
    position, key = 0, b""
    while position < end:
        shared, position = varint(block, position)
        fresh, position = varint(block, position)
        length, position = varint(block, position)
        if shared > len(key) or position + fresh + length > end:
            raise _broken(path, "the index is damaged: a key or value leaves its block")
        key = key[:shared] + block[position : position + fresh]
        position += fresh + length
        yield key, block[position - length : position]


def _block(path: Path, table: bytes, handle: tuple[int, int]) -> bytes:
    offset, size = handle
    if offset + size + 5 > len(table):
        raise _broken(path, "the index is damaged: a block leaves the file")
    content, trailer = table[offset : offset + size + 1], table[offset + size + 1 :][:4]
    if content[-1] != 0:
        raise _broken(path, "the index is compressed, which TensorFlow's own never is")
    if masked_crc(content) != int.from_bytes(trailer, "little"):
        raise _broken(path, "the index is damaged: the checksum of a block is wrong")
    return content[:-1]


def _handle(content: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Returns the (offset, size) written at `position`, and where it ends."""
    offset, position = varint(content, position)
    size, position = varint(content, position)
    return (offset, size), position


def masked_crc(content: bytes) -> int:
    """Returns the CRC-32C in LevelDB's form, rotated and offset."""
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
