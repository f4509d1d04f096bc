"""Reads the weights out of a frozen TensorFlow graph (``.pb``) without TensorFlow.

Freezing turns every variable into a Const node of the same name, and an Identity node reads it.
"""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from atrous.errors import AtrousError
from atrous.weights.differences import broken
from atrous.weights.tensorflow.protos import DTYPES, message

_broken = partial(
    broken, fix="get the file again; a frozen graph is called frozen_inference_graph.pb in the zoo"
)

_MAX_GRAPH = (1 << 31) - 1  # bytes; the limit of protocol buffers
_LEAVES = frozenset(
    ("weights", "depthwise_weights", "biases", "gamma", "beta", "moving_mean", "moving_variance")
)
_READERS = ("/read", "/Read/ReadVariableOp")
_VALUES = {"f4": "float_val", "f8": "double_val", "i4": "int_val", "i8": "int64_val"}


def read_frozen_graph(path: Path) -> dict[str, NDArray[Any]]:
    """Reads the constants of a graph that were variables, by name.

    Raises:
        AtrousError: ``E-WEIGHTS-FORMAT`` for a file that is damaged or not a graph;
            ``E-WEIGHTS-SIZE`` for tensors that claim far more bytes than the file has.
    """
    size = path.stat().st_size
    if not 0 < size <= _MAX_GRAPH:
        raise _broken(path, f"a frozen graph cannot have {size} bytes")
    try:
        nodes = message("Graph", path.read_bytes()).node
    except DecodeError as error:
        raise _broken(path, f"not a frozen graph: {error}") from None
    arrays: dict[str, NDArray[Any]] = {}
    left = 4 * size + (16 << 20)  # bytes; a constant of equal values is stored as one value
    for name, tensor in _constants(nodes):
        if name in arrays:
            raise _broken(path, f"node {name!r} occurs twice")
        dtype = DTYPES.get(tensor.dtype)
        if dtype is None:
            continue
        shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
        left -= math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or left < 0:
            raise AtrousError(
                "E-WEIGHTS-SIZE",
                f"node {name!r} claims the shape {shape}, more than the file can hold",
                where=path,
                fix="do not trust this file; get it again from its publisher",
            )
        arrays[name] = _array(path, name, tensor, dtype, shape)
    if not arrays:
        raise _broken(path, "the graph holds no variables; is it frozen?")
    return arrays


def _constants(nodes: Any) -> Iterator[tuple[str, Any]]:
    """Yields the name and tensor of every constant that was a variable."""
    names = {node.name for node in nodes}
    for node in nodes:
        variable = not names.isdisjoint(node.name + reader for reader in _READERS)
        if node.op == "Const" and (variable or node.name.rsplit("/", 1)[-1] in _LEAVES):
            yield from ((node.name, attr.value.tensor) for attr in node.attr if attr.key == "value")


def _array(
    path: Path, name: str, tensor: Any, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    count = math.prod(shape)
    if tensor.tensor_content:
        if len(tensor.tensor_content) != count * dtype.itemsize:
            raise _broken(
                path, f"node {name!r} of shape {shape} has {len(tensor.tensor_content)} bytes"
            )
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape).copy()
    field = _VALUES.get(dtype.str[1:])
    values = np.array(getattr(tensor, field) if field else (), dtype)
    if values.size > count or (values.size == 0 and count > 0):
        raise _broken(path, f"node {name!r} of shape {shape} has {values.size} values")
    # The last stored value is repeated for the rest of the tensor (tensor.proto).
    return np.pad(values, (0, count - values.size), mode="edge").reshape(shape)
