"""Channels in whole vectors: 736 of them take less time than 728.

A vector of AVX-512 holds 16 floats, and the half vector that remains of Xception's 728 channels
costs more than a whole one. So values between convolutions get the channels that are missing, where
these are few: zeros, which nothing reads with a weight other than zero.
"""

from typing import Any, NamedTuple

import numpy as np

from atrous.engines.openvino_graph import data_of

VECTOR = 16
FEW = 32  # channels there must be for each one that is added
_ELEMENTWISE = ("Add", "Relu", "Clamp", "Maximum", "Minimum")


class _Values(NamedTuple):
    """The values that have the channels of one convolution, because of what lies between them.

    Attributes:
        makers: The nodes that make them, by name.
        weights: Inputs whose constants have these channels, and on which axis.
        known: Whether that is all that depends on how many channels there are.
    """

    makers: dict[str, Any]
    weights: list[tuple[Any, int]]
    known: bool


def in_whole_vectors(openvino: Any, model: Any) -> None:
    """Adds channels to an OpenVINO graph where that saves time."""
    seen: set[str] = set()
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convolution" or node.get_name() in seen:
            continue
        channels = _channels(node.output(0))
        missing = -channels % VECTOR
        if 0 < missing * FEW <= channels:
            values = _values(node)
            seen |= set(values.makers)
            if values.known:
                for weight, axis in values.weights:
                    _widen(openvino, weight, axis, missing)
    model.validate_nodes_and_infer_types()


def _values(convolution: Any) -> _Values:
    """Follows the channels of a convolution to all that must have as many."""
    makers: dict[str, Any] = {}
    weights: list[tuple[Any, int]] = []
    known = True
    waiting = [convolution]
    while waiting:
        node = waiting.pop()
        if node.get_name() in makers:
            continue
        makers[node.get_name()] = node
        for given, axis in _channel_inputs(node):
            if data_of(given.get_source_output()) is None:
                waiting.append(given.get_source_output().get_node())
            else:
                weights.append((given, axis))
        for reader in (one.get_node() for one in node.output(0).get_target_inputs()):
            if reader.get_type_name() == "Convolution":
                weights.append((reader.input(1), 1))
            elif reader.get_type_name() != "ShapeOf":
                waiting.append(reader)
        known &= _passes_channels_on(node)
    known &= all(data_of(weight.get_source_output()) is not None for weight, _ in weights)
    return _Values(makers, weights, known)


def _channel_inputs(node: Any) -> list[tuple[Any, int]]:
    """Returns the inputs that have as many channels as a node makes, and on which axis."""
    match node.get_type_name():
        case "Convolution":
            return [(node.input(1), 0)]
        case "GroupConvolution":
            return [(node.input(0), 1), (node.input(1), 0)]
    return [(given, 1) for given in node.inputs() if len(given.get_partial_shape()) == 4]


def _passes_channels_on(node: Any) -> bool:
    if node.get_type_name() == "GroupConvolution":
        return list(node.input_value(1).get_shape())[1:3] == [1, 1]  # depthwise
    return node.get_type_name() in ("Convolution", *_ELEMENTWISE)


def _widen(openvino: Any, weight: Any, axis: int, missing: int) -> None:
    """Appends zeros to a constant."""
    data = data_of(weight.get_source_output())
    pads = [(0, missing if index == axis else 0) for index in range(data.ndim)]
    weight.replace_source_output(openvino.op.Constant(np.pad(data, pads)).output(0))


def _channels(value: Any) -> int:
    return int(value.get_partial_shape()[1].get_length())
