"""The decoder strip by strip: what passes between its layers stays in the cache.

OpenVINO runs layer after layer over the whole picture. In the decoder each passes 17 MB on (256
channels at a quarter of 513 x 513), more than caches hold. Here the rows of the logits are made in
strips, each by its own copy of the decoder's nodes, which share their weights. A strip reads the
rows around it that its kernels reach; the zeros that pad the picture are padded only where it
ends, so no value changes. In eight bits a layer passes on a quarter, and strips only cost.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

STRIP_BYTES = 3 << 20  # of the widest value: it and the next one fit a cache of 8 MB
MOST_STRIPS = 16
_CONVOLUTIONS = ("Convolution", "GroupConvolution")
_ELEMENTWISE = ("Add", "Relu", "Clamp")


def in_strips(openvino: Any, model: Any) -> None:
    """Rewrites an OpenVINO graph of fixed size, if its decoder is large enough to gain by it."""
    logits = model.output(0).get_node().input_value(0).get_node()  # a transpose, channels last
    last = logits.input_value(0)
    height = last.get_shape()[2]
    strips = _strips(last.get_node(), height)
    if strips < 2:
        return
    bounds = [height * index // strips for index in range(strips + 1)]
    parts = [_Strip(openvino, height).rows(last, start, end) for start, end in pairwise(bounds)]
    logits.input(0).replace_source_output(_create(openvino, "Concat", parts, {"axis": 2}))


def _strips(last: Any, height: int) -> int:
    """Returns in how many strips to run what ends in a node."""
    widest, waiting, seen = 0, [last], set()
    while waiting:
        node = waiting.pop()
        if node.get_name() in seen or not _is_local(node, height):
            continue
        seen.add(node.get_name())
        widest = max(widest, 4 * math.prod(node.get_output_shape(0)))
        waiting += [value.get_node() for value in node.input_values()]
    return min(MOST_STRIPS, height // 8, round(widest / STRIP_BYTES)) if len(seen) > 1 else 1


def _is_local(node: Any, height: int) -> bool:
    """Whether a row of a node's output depends on a few rows of its input, of the decoder's."""
    kind = node.get_type_name()
    if not node.get_friendly_name().startswith("decoder."):
        return False
    if kind in _CONVOLUTIONS:
        strides = list(node.get_attributes()["strides"])
        return strides == [1, 1] and _has_rows(node.input_value(0), height)
    return kind in _ELEMENTWISE and _has_rows(node.output(0), height)


def _has_rows(value: Any, height: int) -> bool:
    """Whether a value is of the size of the logits, not a constant for all positions."""
    shape = list(value.get_shape())
    return len(shape) == 4 and shape[2] == height


class _Strip:
    """Copies of nodes that make some rows of what the nodes make."""

    def __init__(self, openvino: Any, height: int) -> None:
        self._openvino = openvino
        self._height = height
        self._made: dict[tuple[str, int, int], Any] = {}

    def rows(self, value: Any, start: int, end: int) -> Any:
        """Returns rows from start to end of a value."""
        key = value.get_node().get_name(), start, end
        if key not in self._made:
            self._made[key] = self._make(value, start, end)
        return self._made[key]

    def _make(self, value: Any, start: int, end: int) -> Any:
        node = value.get_node()
        if not _is_local(node, self._height):
            numbers = [np.array([n], np.int64) for n in (start, end, 1, 2)]  # step 1 on axis 2
            bounds = [self._openvino.op.Constant(number).output(0) for number in numbers]
            return _create(self._openvino, "Slice", [value, *bounds], {})
        attributes = dict(node.get_attributes())
        inputs = node.input_values()
        if node.get_type_name() in _CONVOLUTIONS:
            before, after = _reach(node, attributes)
            first, last = max(0, start - before), min(self._height, end + after)
            pads_begin, pads_end = list(attributes["pads_begin"]), list(attributes["pads_end"])
            pads_begin[0], pads_end[0] = before - (start - first), after - (last - end)
            attributes |= {"pads_begin": pads_begin, "pads_end": pads_end}
            inputs = [self.rows(inputs[0], first, last), inputs[1]]
        else:
            inputs = [
                self.rows(one, start, end) if _has_rows(one, self._height) else one
                for one in inputs
            ]
        return _create(self._openvino, node.get_type_name(), inputs, attributes)


def _reach(node: Any, attributes: Mapping[str, Any]) -> tuple[int, int]:
    """Returns how many rows a convolution sees before and after its own."""
    before = int(attributes["pads_begin"][0])
    kernel = int(node.input_value(1).get_shape()[-2])
    return before, int(attributes["dilations"][0]) * (kernel - 1) - before


def _create(openvino: Any, kind: str, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    """Returns the output of a new node."""
    factory = openvino.utils.node_factory.NodeFactory("opset13")
    return factory.create(kind, list(inputs), dict(attributes)).output(0)
