"""The protocol buffers of TensorFlow that this project reads.

Field names and numbers are those of tensorflow/core/framework and tensorflow/core/protobuf. The
parser skips fields that are not listed here. tensorboard ships most of these messages, but not the
two of checkpoints, and it installs gRPC and a web server.
"""

from functools import cache
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# DT_FLOAT, DT_DOUBLE, DT_INT32, DT_UINT8, DT_INT16, DT_INT8, DT_INT64, DT_BOOL, DT_HALF
DTYPES: dict[int, np.dtype[Any]] = {
    number: np.dtype(name)
    for number, name in (
        (1, "<f4"), (2, "<f8"), (3, "<i4"), (4, "u1"), (5, "<i2"), (6, "i1"), (9, "<i8"),
        (10, "?"), (19, "<f2"),
    )
}  # fmt: skip

# message -> (field, number, type). A type with a capital is another message; [] means repeated.
_FIELDS = {
    "Dim": (("size", 1, "int64"),),
    "Shape": (("dim", 2, "Dim[]"),),
    "BundleHeader": (("num_shards", 1, "int32"), ("endianness", 2, "int32")),
    "BundleEntry": (
        ("dtype", 1, "int32"),
        ("shape", 2, "Shape"),
        ("shard_id", 3, "int32"),
        ("offset", 4, "int64"),
        ("size", 5, "int64"),
        ("crc32c", 6, "fixed32"),
        ("slices", 7, "Shape[]"),  # only whether there are any
    ),
    "Tensor": (
        ("dtype", 1, "int32"),
        ("tensor_shape", 2, "Shape"),
        ("tensor_content", 4, "bytes"),
        ("float_val", 5, "float[]"),
        ("double_val", 6, "double[]"),
        ("int_val", 7, "int32[]"),
        ("int64_val", 10, "int64[]"),
    ),
    "Attribute": (("tensor", 8, "Tensor"),),
    "AttributeEntry": (("key", 1, "string"), ("value", 2, "Attribute")),
    "Node": (
        ("name", 1, "string"),
        ("op", 2, "string"),
        ("input", 3, "string[]"),
        ("attr", 5, "AttributeEntry[]"),
    ),
    "Graph": (("node", 1, "Node[]"),),
}
_PACKAGE = "atrous.tensorflow"


def message(name: str, content: bytes) -> Any:
    """Parses one message.

    Raises:
        google.protobuf.message.DecodeError: The bytes are not such a message.
    """
    parsed = _classes()[name]()
    parsed.ParseFromString(content)
    return parsed


@cache
def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="atrous/tensorflow.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _FIELDS.items():
        proto = file.message_type.add(name=name)
        for field, number, kind in fields:
            _add_field(proto, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _FIELDS
    }


def _add_field(proto: Any, name: str, number: int, kind: str) -> None:
    base = kind.removesuffix("[]")
    field = proto.field.add(name=name, number=number)
    field.label = field.LABEL_REPEATED if kind.endswith("[]") else field.LABEL_OPTIONAL
    if base[0].isupper():
        field.type, field.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{base}"
    else:
        field.type = getattr(field, f"TYPE_{base.upper()}")
