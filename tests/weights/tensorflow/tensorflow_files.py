"""Writes small TensorFlow checkpoints and frozen graphs, byte by byte, without TensorFlow."""

from pathlib import Path

import google_crc32c
import numpy as np

from atrous.weights.tensorflow.protos import _classes

MAGIC = 0xDB4775248B80FB57
TYPES = {"float32": 1, "int32": 3, "int64": 9}


def masked_crc(content: bytes) -> int:
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def block(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A block without shared prefixes, with its restart array, type and checksum."""
    body = b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in pairs)
    body += (0).to_bytes(4, "little") + (1).to_bytes(4, "little") + b"\0"
    return body + masked_crc(body).to_bytes(4, "little")


def table(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A sorted string table of one data block."""
    data = block(pairs)
    handle = varint(0) + varint(len(data) - 5)
    index = block([(b"\xff", handle)])
    footer = varint(0) * 2 + varint(len(data)) + varint(len(index) - 5)
    return data + index + footer.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def entry(array: np.ndarray, shard: int, place: int, **changes: object) -> bytes:
    proto = _classes()["BundleEntry"](
        dtype=TYPES[array.dtype.name],
        shard_id=shard,
        offset=place,
        size=array.nbytes,
        crc32c=masked_crc(array.tobytes()),
    )
    for size in changes.pop("shape", array.shape):
        proto.shape.dim.add(size=size)
    for name, value in changes.items():
        setattr(proto, name, value)
    return proto.SerializeToString()


def write_checkpoint(
    prefix: Path,
    arrays: dict[str, np.ndarray],
    *,
    shards: int = 1,
    changes: dict[str, dict[str, object]] | None = None,
    twice: str = "",
) -> Path:
    """Writes a V2 checkpoint; `changes` falsifies fields of a tensor's entry."""
    contents = [b""] * shards
    pairs = [(b"", _classes()["BundleHeader"](num_shards=shards).SerializeToString())]
    for index, (name, array) in enumerate(sorted(arrays.items())):
        shard = index % shards
        written = entry(array, shard, len(contents[shard]), **(changes or {}).get(name, {}))
        pairs += [(name.encode(), written)] * (2 if name == twice else 1)
        contents[shard] += array.tobytes()
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(pairs))
    for shard, content in enumerate(contents):
        prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{shards:05}").write_bytes(content)
    return prefix


def write_graph(path: Path, arrays: dict[str, np.ndarray], *, read: bool = True) -> Path:
    """Writes a frozen graph of constants, each read by an Identity if `read`."""
    graph = _classes()["Graph"]()
    for name, array in arrays.items():
        add_constant(graph, name, array.shape, tensor_content=array.tobytes())
        if read:
            graph.node.add(name=f"{name}/read", op="Identity", input=[name])
    path.write_bytes(graph.SerializeToString())
    return path


def add_constant(graph: object, name: str, shape: tuple[int, ...], **content: object) -> None:
    node = graph.node.add(name=name, op="Const")
    tensor = _classes()["Tensor"](dtype=1, **content)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    attribute = node.attr.add(key="value")
    attribute.value.tensor.CopyFrom(tensor)
