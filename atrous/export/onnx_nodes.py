"""Writes ONNX nodes for torch modules; nodes are named after the modules."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import nn

from atrous.errors import AtrousError
from atrous.layers import AtrousConv2d, ConvBN

Array = NDArray[np.float32]


class GraphWriter:
    """Collects the nodes of a graph; every value is named after the torch module that makes it.

    Attributes:
        layers: Names of values by the torch module with the same output, in order of execution.
        fields: Stride and reach of each value: sample i of a value with stride s depends on pixels
            i * s - reach to i * s + reach.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, onnx.NodeProto] = {}  # by output
        self.constants: dict[str, NDArray[Any]] = {}
        self.layers: dict[str, str] = {}
        self.fields: dict[str, tuple[int, int]] = {}

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Adds an initializer."""
        self.constants[name] = value
        return name

    def integers(self, *values: int) -> str:
        """Adds a list of integers."""
        return self.constant(f"integers{values}", np.array(values, np.int64))

    def add(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Adds a node with one output; node and output get the name."""
        while name in self.nodes:
            name += "_"
        self.nodes[name] = helper.make_node(op, list(inputs), [name], name=name, **attributes)
        known = [self.fields[value] for value in inputs if value in self.fields]
        if known and op != "ReduceMean":  # a mean over the whole picture has no position
            self.fields[name] = known[0][0], max(reach for _, reach in known)
        return name

    def window(self, value: str, first: int, last: int, stride: int = 1) -> None:
        """Widens the reach of a value by a window of `first` samples before and `last` after."""
        if value in self.fields:
            input_stride, reach = self.fields[value]
            reach += input_stride * max(first, last)
            self.fields[value] = input_stride * stride, reach

    def conv(self, x: str, weight: Array, bias: Array | None, conv: nn.Conv2d, name: str) -> str:
        """Adds a convolution with the geometry of a torch convolution."""
        reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        before = (int(conv.padding[0]), int(conv.padding[1]))
        after = before
        if isinstance(conv, AtrousConv2d) and conv.anchor == "start":
            after = (reach[0], reach[1])
        inputs = [x, self.constant(f"{name}.weight", weight)]
        if bias is not None:
            inputs.append(self.constant(f"{name}.bias", bias))
        value = self.add(
            "Conv",
            inputs,
            name,
            kernel_shape=list(conv.kernel_size),
            strides=list(conv.stride),
            dilations=list(conv.dilation),
            group=1 if conv.groups == 1 else weight.shape[0] * conv.groups // conv.out_channels,
            pads=[*before, *after],
        )
        last = max(r - b for r, b in zip(reach, before, strict=True))
        self.window(value, max(before), last, int(conv.stride[0]))
        return value

    def conv_bn(self, x: str, module: ConvBN, name: str) -> str:
        """Adds a folded convolution and its activation."""
        weight, bias = folded(module)
        x = self.conv(x, weight, bias, module.conv, f"{name}.conv")
        return self.layer(name, self.activation(x, module.activation, name))

    def layer(self, name: str, value: str) -> str:
        """Records that a value is the output of a torch module."""
        self.layers[name] = value
        return value

    def activation(self, x: str, module: nn.Module, name: str) -> str:
        """Adds an activation module."""
        if isinstance(module, (nn.Identity, nn.Dropout)):
            return x
        if isinstance(module, nn.ReLU6):
            bounds = [self.constant(f"float{v}", np.array(v, np.float32)) for v in (0, 6)]
            return self.add("Clip", [x, *bounds], f"{name}.activation")
        if isinstance(module, nn.ReLU):
            return self.relu(x, f"{name}.activation")
        for kind, op in _ACTIVATIONS.items():
            if isinstance(module, kind):
                return self.add(op, [x], f"{name}.activation")
        if isinstance(module, nn.SiLU):
            gate = self.add("Sigmoid", [x], f"{name}.gate")
            return self.add("Mul", [x, gate], f"{name}.activation")
        raise unsupported(type(module).__name__, name)

    def relu(self, x: str, name: str) -> str:
        """Adds a ReLU, unless the value comes from a ReLU."""
        if x in self.nodes and self.nodes[x].op_type == "Relu":
            return x
        return self.add("Relu", [x], name)

    def resize(self, x: str, factor: int, like: str, name: str) -> str:
        """Adds the upsampling of `atrous.layers.resize` to the height and width of `like`.

        First from corner to corner to (n - 1) * factor + 1 samples, which is exactly `factor`
        samples a step; then the border is repeated up to the wanted size. At sizes of
        k * stride + 1 nothing is repeated.
        """
        height_width = self.add("Shape", [x], f"{name}.size", start=2)
        last = self.add("Sub", [height_width, self.integers(1, 1)], f"{name}.last")
        steps = self.add("Mul", [last, self.integers(factor, factor)], f"{name}.steps")
        exact = self.add("Add", [steps, self.integers(1, 1)], f"{name}.exact")
        batch = self.add("Shape", [x], f"{name}.batch", start=0, end=2)
        sizes = self.add("Concat", [batch, exact], f"{name}.sizes", axis=0)
        x = self.add(
            "Resize",
            [x, "", "", sizes],
            f"{name}.interpolated",
            mode="linear",
            coordinate_transformation_mode="align_corners",
        )
        self.window(x, 1, 1)
        if x in self.fields:
            self.fields[x] = self.fields[x][0] // factor, self.fields[x][1]
        wanted = self.add("Shape", [like], f"{name}.wanted", start=2)
        missing = self.add("Sub", [wanted, exact], f"{name}.missing")
        pads = self.add(
            "Concat", [self.integers(0, 0, 0, 0, 0, 0), missing], f"{name}.pads", axis=0
        )
        return self.add("Pad", [x, pads], name, mode="edge")

    def every(self, x: str, step: int, name: str) -> str:
        """Adds a subsampling of rows and columns."""
        if step == 1:
            return x
        end = np.iinfo(np.int64).max
        bounds = [self.integers(*v) for v in ((0, 0), (end, end), (2, 3), (step, step))]
        value = self.add("Slice", [x, *bounds], name)
        self.window(value, 0, 0, step)
        return value

    def largest(self, rows: str, extra_rows: Sequence[int], count: int) -> str:
        """Adds the logit of each class, as `decoder.classified`, to the `count` rows."""
        if not extra_rows:
            return rows
        logits = []
        classes = count - len(extra_rows)
        for index in range(classes):
            name = f"{rows}.class{index}"
            mine = [index, *(classes + i for i, c in enumerate(extra_rows) if c == index)]
            logit = self.add("Gather", [rows, self.integers(*mine)], name, axis=1)
            if len(mine) > 1:
                logit = self.add("ReduceMax", [logit], f"{name}.largest", axes=[1], keepdims=1)
            logits.append(logit)
        return self.add("Concat", logits, f"{rows}.logits", axis=1)


_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.Sigmoid: "Sigmoid",
    nn.Hardswish: "HardSwish",
}


def folded(module: ConvBN) -> tuple[Array, Array]:
    """Returns weight and bias of a convolution with its batch norm folded in."""
    scale, offset = scale_and_offset(module.bn)
    weight = array(module.conv.weight, np.float64) * scale[:, None, None, None]
    return weight.astype(np.float32), offset.astype(np.float32)


def scale_and_offset(bn: nn.BatchNorm2d) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns scale and offset of a batch norm in evaluation mode."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = array(bn.weight, np.float64) / np.sqrt(array(bn.running_var, np.float64) + bn.eps)
    return scale, array(bn.bias, np.float64) - array(bn.running_mean, np.float64) * scale


def array(tensor: torch.Tensor, dtype: Any = np.float32) -> Any:
    """Returns the values of a tensor as a NumPy array."""
    return tensor.detach().cpu().numpy().astype(dtype)


def unsupported(what: str, where: str) -> AtrousError:
    """Returns the error for an operation that export does not support."""
    return AtrousError(
        "E-EXPORT-OPERATION",
        f"export does not know the operation {what}",
        where=where,
        fix="our own backbones and timm networks of plain convolutions can be exported",
    )
