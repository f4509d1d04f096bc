"""Runs wide layers strip by strip, so that their values stay in the cache.

OpenVINO runs layer after layer over the whole picture. At 513 x 513 each of the first layers
writes 17 to 34 MB, and so does each layer of the decoder (256 channels at a quarter of the size):
more than a cache holds. This module cuts such a part of the graph, from one narrow value to the
next, into strips of rows. Each strip has its own copy of the nodes; all copies share their weights.
A strip reads the rows around it that its kernels reach, and padding is added only at the border of
the picture, so no value changes. An int8 layer writes a quarter of the bytes, so strips only cost.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from atrous.engines.openvino_graph import data_of

STRIP_BYTES = 6 << 20  # of the widest value in a strip
LARGE_BYTES = 2 * STRIP_BYTES  # a part gains if its widest value is larger
NARROW = 3  # a part must end in a value at most a third as large as its widest one
LEAST_ROWS = 8
MOST_STRIPS = 16
_WINDOWS = ("Convolution", "GroupConvolution")
_ELEMENTWISE = ("Add", "Subtract", "Relu", "Clamp", "Maximum", "Minimum", "Convert")
_UPSAMPLING = ("Interpolate", "Pad")  # of the decoder; the second repeats the last row

Rows = tuple[int, int]  # the first, and the one after the last


def in_strips(openvino: Any, model: Any) -> bool:
    """Cuts the wide parts of an OpenVINO graph of fixed size into strips; False: it has none."""
    flow = _Flow(model)
    parts = [nodes for nodes in (*flow.parts_of_backbone(), flow.decoder()) if nodes]
    return sum(_Part(openvino, flow, nodes).in_strips() for nodes in parts) > 0


class _Flow:
    """The nodes that keep the rows of the picture, in order of execution."""

    def __init__(self, model: Any) -> None:
        image = model.input(0).get_node().get_name()
        self._last = model.output(0).get_node().input_value(0).get_node()
        self._channels_last = {image}
        self._heights: dict[str, int] = {}
        self.nodes = []
        for node in model.get_ordered_ops():
            kind = node.get_type_name()
            if kind in _ELEMENTWISE and self._channels_last & _names(node.input_values()):
                self._channels_last.add(node.get_name())
            if self._is_local(node):
                self.nodes.append(node)
        self._reduced = self._pointwise_of_decoder()

    def _is_local(self, node: Any) -> bool:
        """Whether an output row of a node depends on a few of its input rows alone."""
        kind = node.get_type_name()
        if kind == "Transpose":
            return node.input_value(0).get_node().get_name() in self._channels_last
        if kind not in (*_WINDOWS, *_ELEMENTWISE, *_UPSAMPLING) or not self.sources(node):
            return False
        if kind == "Interpolate":
            before, after = self.height(node.input_value(0)), self.height(node.output(0))
            return before > 1 and (after - 1) % (before - 1) == 0
        return kind != "Pad" or _of_decoder(node)

    def axis(self, value: Any) -> int:
        """Returns the axis of a value's rows."""
        return 1 if value.get_node().get_name() in self._channels_last else 2

    def height(self, value: Any) -> int:
        """Returns the number of a value's rows; 1 for a value without the picture's rows."""
        name = value.get_node().get_name()
        if name not in self._heights:
            shape = value.get_shape()
            self._heights[name] = int(shape[self.axis(value)]) if len(shape) == 4 else 1
        return self._heights[name]

    def sources(self, node: Any) -> list[Any]:
        """Returns the inputs of a node that have rows; weights have none."""
        values = node.input_values()
        if node.get_type_name() not in _ELEMENTWISE:
            values = values[:1]
        return [value for value in values if self.height(value) > 1]

    def factor(self, node: Any) -> int:
        """Returns the factor of an upsampling."""
        return (self.height(node.output(0)) - 1) // (self.height(node.input_value(0)) - 1)

    def read(self, node: Any, start: int, end: int) -> Rows:
        """Returns the input rows, padding included, that output rows [start, end) need."""
        kind = node.get_type_name()
        if kind in _WINDOWS:
            attributes = node.get_attributes()
            stride, before = int(attributes["strides"][0]), int(attributes["pads_begin"][0])
            kernel = int(node.input_value(1).get_shape()[-2])
            reach = int(attributes["dilations"][0]) * (kernel - 1)
            return start * stride - before, (end - 1) * stride - before + reach + 1
        height = self.height(node.input_value(0))
        if kind == "Interpolate":
            factor = self.factor(node)
            return start // factor, min(height, -(-(end - 1) // factor) + 1)
        if kind == "Pad":
            return min(start, height - 1), min(end, height)
        return start, end

    def outside(self, value: Any, names: set[str]) -> list[Any]:
        """Returns the inputs of nodes not in `names` that read a value, not just its shape."""
        readers = value.get_target_inputs()
        others = [one for one in readers if one.get_node().get_name() not in names]
        return [one for one in others if one.get_node().get_type_name() != "ShapeOf"]

    def parts_of_backbone(self) -> Iterator[list[Any]]:
        """Yields parts that end in a value through which all later nodes see the picture."""
        nodes = self._of_picture()
        sizes = [_bytes(node) for node in nodes]
        places = {node.get_name(): index for index, node in enumerate(nodes)}
        start, end, read = 0, 0, 0
        for index, node in enumerate(nodes):
            is_waist = read <= index  # no later node reads an earlier value
            read = max(read, self._last_read(node, places))
            if not is_waist:
                continue
            if end and max(sizes[end : index + 1]) > sizes[end]:
                yield self._with_reduced(nodes[start : end + 1])
                start, end = end + 1, 0
            if sizes[index] * NARROW <= max(sizes[start : index + 1]):
                is_same = end == index - 1 and node.get_type_name() in _ELEMENTWISE
                if not end or sizes[index] < sizes[end] or is_same:
                    end = index
        if end:
            yield self._with_reduced(nodes[start : end + 1])

    def decoder(self) -> list[Any]:
        """Returns the decoder's nodes, without those that reduce values of the backbone."""
        return [
            node
            for node in self.nodes
            if _of_decoder(node) and node.get_name() not in self._reduced
        ]

    def _of_picture(self) -> list[Any]:
        """Returns the nodes of the backbone, up to the first that sees the whole picture."""
        known = set(self._channels_last)
        nodes = []
        for node in self.nodes:
            if not _of_decoder(node) and _names(self.sources(node)) <= known:
                known.add(node.get_name())
                nodes.append(node)
        return nodes

    def _last_read(self, node: Any, places: Mapping[str, int]) -> int:
        """Returns the place of a value's last reader; a reader without a place counts as last."""
        readers = [one.get_node() for one in self.outside(node.output(0), set())]
        of_backbone = [one.get_name() for one in readers if not _of_decoder(one)]
        return max((places.get(name, len(places)) for name in of_backbone), default=0)

    def _pointwise_of_decoder(self) -> set[str]:
        """Names the decoder's pointwise nodes that depend on values of the backbone alone."""
        names: set[str] = set()
        for node in self.nodes:
            if _of_decoder(node) and _is_pointwise(node):
                sources = [value.get_node() for value in self.sources(node)]
                if all(not _of_decoder(one) or one.get_name() in names for one in sources):
                    names.add(node.get_name())
        return names

    def _with_reduced(self, nodes: list[Any]) -> list[Any]:
        """Adds the nodes that reduce the values of a part for the decoder."""
        names = {node.get_name() for node in nodes}
        for node in self.nodes:
            if node.get_name() in self._reduced and _names(self.sources(node)) <= names:
                names.add(node.get_name())
                nodes.append(node)
        return nodes


class _Part:
    """A part of the graph that is cut into strips."""

    def __init__(self, openvino: Any, flow: _Flow, nodes: list[Any]) -> None:
        self._openvino = openvino
        self._factory = openvino.utils.node_factory.NodeFactory("opset13")
        self.flow = flow
        self.nodes = nodes
        self._names = {node.get_name() for node in nodes}
        values = [node.output(0) for node in nodes]
        self.outputs = [value for value in values if flow.outside(value, self._names)]

    def in_strips(self) -> bool:
        """Replaces the nodes by strips, if their values are wide enough to gain."""
        widest = max(_bytes(node) for node in self.nodes)
        heights = [self.flow.height(value) for value in self.outputs]
        least = min(heights)
        strips = min(MOST_STRIPS, least // LEAST_ROWS, round(widest / STRIP_BYTES))
        if strips < 2 or widest < LARGE_BYTES:
            return False
        steps = [round(height / least) for height in heights]
        bounds = [self._bound(least * index // strips, steps) for index in range(1, strips)]
        made = []
        for start, end in pairwise([0, *bounds, least]):
            ends = heights if end == least else [end * step for step in steps]
            rows = [(start * step, last) for step, last in zip(steps, ends, strict=True)]
            made.append(_Strip(self, rows).outputs())
        for value, pieces in zip(self.outputs, zip(*made, strict=True), strict=True):
            whole = self.create("Concat", pieces, {"axis": 2})
            for reader in self.flow.outside(value, self._names):
                reader.replace_source_output(whole)
        return True

    def _bound(self, row: int, steps: Sequence[int]) -> int:
        """Moves the start of a strip up to a row where its upsampling starts a step."""
        needed = self.needed([(row * step, row * step + 1) for step in steps])
        for node in self.nodes:
            if node.get_type_name() == "Interpolate":
                return row - needed[node.get_name()][0] % self.flow.factor(node)
        return row

    def needed(self, rows: Sequence[Rows]) -> dict[str, Rows]:
        """Returns, for each node, the output rows that the given rows of the part depend on."""
        names = [value.get_node().get_name() for value in self.outputs]
        needed = dict(zip(names, rows, strict=True))
        for node in reversed(self.nodes):
            start, end = self.flow.read(node, *needed[node.get_name()])
            for value in self.flow.sources(node):
                name = value.get_node().get_name()
                first, last = needed.get(name, (start, end))
                height = self.flow.height(value)
                needed[name] = max(0, min(start, first)), min(height, max(end, last))
        return needed

    def rows(self, value: Any, axis: int, start: int, end: int) -> Any:
        """Returns rows of a value."""
        if (start, end) == (0, value.get_shape()[axis]):
            return value
        bounds = [self.constant(np.array([number])) for number in (start, end, 1, axis)]
        return self.create("Slice", [value, *bounds], {})

    def constant(self, data: Any) -> Any:
        """Returns a constant."""
        return self._openvino.op.Constant(data).output(0)

    def create(self, kind: str, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        """Returns the output of a new node."""
        return self._factory.create(kind, list(inputs), dict(attributes)).output(0)


class _Strip:
    """Copies of a part's nodes for some rows of its outputs."""

    def __init__(self, part: _Part, rows: Sequence[Rows]) -> None:
        self._part = part
        self._flow = part.flow
        self._rows = rows
        self._made: dict[str, tuple[Any, int]] = {}  # name -> the copy's output, and its first row
        needed = part.needed(rows)
        for node in part.nodes:
            self._made[node.get_name()] = self._copy(node, *needed[node.get_name()])

    def outputs(self) -> list[Any]:
        """Returns the rows of each output."""
        outputs = zip(self._part.outputs, self._rows, strict=True)
        return [self._given(value, *rows) for value, rows in outputs]

    def _given(self, value: Any, start: int, end: int) -> Any:
        """Returns rows of a value of the whole graph."""
        copy, first = self._made.get(value.get_node().get_name(), (value, 0))
        return self._part.rows(copy, self._flow.axis(value), start - first, end - first)

    def _copy(self, node: Any, start: int, end: int) -> tuple[Any, int]:
        """Returns a copy of a node for some rows of its output, and the copy's first row."""
        match node.get_type_name():
            case "Convolution" | "GroupConvolution":
                return self._window(node, start, end), start
            case "Interpolate":
                return self._upsampled(node, start, end)
            case "Pad":
                return self._padded(node, start, end)
        names = _names(self._flow.sources(node))
        inputs = []
        for value in node.input_values():
            if value.get_node().get_name() in names:
                inputs.append(self._given(value, start, end))
            else:  # each copy gets its own constants: OpenVINO fuses those that one node reads
                data = data_of(value)
                inputs.append(value if data is None else self._part.constant(data))
        return self._part.create(node.get_type_name(), inputs, node.get_attributes()), start

    def _window(self, node: Any, start: int, end: int) -> Any:
        """Copies a convolution, with padding at the border of the picture alone."""
        source, weight = node.input_values()
        first, last = self._flow.read(node, start, end)
        top, bottom = max(0, first), min(self._flow.height(source), last)
        attributes = dict(node.get_attributes())
        attributes["pads_begin"] = [top - first, *attributes["pads_begin"][1:]]
        attributes["pads_end"] = [last - bottom, *attributes["pads_end"][1:]]
        kind, name = source.get_node().get_type_name(), source.get_node().get_name()
        if kind in _UPSAMPLING and name in self._made and _may_skip(node):
            given, made_top = self._made[name]
            made_bottom = made_top + given.get_shape()[2]
            weight = self._skipping(weight, top - made_top, made_bottom - bottom)
        else:
            given = self._given(source, top, bottom)
        return self._part.create(node.get_type_name(), [given, weight], attributes)

    def _skipping(self, weight: Any, above: int, below: int) -> Any:
        """Returns a depthwise weight with rows of zeros, which skip rows that are not needed.

        That costs less than a copy of the rows that are.
        """
        if (above, below) == (0, 0):
            return weight
        data = data_of(weight)
        pads = [(0, 0)] * (data.ndim - 2) + [(above, below), (0, 0)]
        return self._part.constant(np.pad(data, pads))

    def _upsampled(self, node: Any, start: int, end: int) -> tuple[Any, int]:
        """Copies an upsampling, which makes whole steps and so a few rows more than needed."""
        first, last = self._flow.read(node, start, end)
        factor = self._flow.factor(node)
        shape = np.array(node.get_output_shape(0))
        shape[2] = (last - first - 1) * factor + 1
        source, _, *axes = node.input_values()
        inputs = [self._given(source, first, last), self._part.constant(shape), *axes]
        return self._part.create("Interpolate", inputs, node.get_attributes()), first * factor

    def _padded(self, node: Any, start: int, end: int) -> tuple[Any, int]:
        """Copies a padding that repeats the last row and column, where this strip needs them."""
        source, _, _, *value = node.input_values()
        given, top = self._made.get(source.get_node().get_name(), (source, 0))
        missing = np.array(node.get_output_shape(0)) - np.array(source.get_shape())
        missing[2] = max(0, end - self._flow.height(source))
        if missing.any():
            pads = [self._part.constant(pads) for pads in (np.zeros_like(missing), missing)]
            given = self._part.create("Pad", [given, *pads, *value], node.get_attributes())
        return given, top


def _names(values: Sequence[Any]) -> set[str]:
    return {value.get_node().get_name() for value in values}


def _of_decoder(node: Any) -> bool:
    return bool(node.get_friendly_name().startswith("decoder."))


def _is_pointwise(node: Any) -> bool:
    if node.get_type_name() not in _WINDOWS:
        return node.get_type_name() in _ELEMENTWISE
    kernel = list(node.input_value(1).get_shape())[-2:]
    return kernel == [1, 1] and list(node.get_attributes()["strides"]) == [1, 1]


def _may_skip(node: Any) -> bool:
    """Whether a convolution is depthwise, without stride and dilation, with a constant weight."""
    attributes = node.get_attributes()
    steps = {int(step) for name in ("strides", "dilations") for step in attributes[name]}
    is_depthwise = node.get_type_name() == "GroupConvolution"
    return is_depthwise and steps == {1} and data_of(node.input_value(1)) is not None


def _bytes(node: Any) -> int:
    return int(math.prod(node.get_output_shape(0))) * int(node.get_output_element_type(0).size)
