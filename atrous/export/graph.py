"""The network as an ONNX graph, rewritten for speed with equal results.

The graph differs from the modules as follows; values change by rounding only:

- batch norm is folded into convolutions, and the division of the normalisation into the first
  convolution (the mean is not: the convolution pads with zeros after the mean is subtracted);
- image pooling gives the same value at every position, so it becomes a bias of ASPP's projection
  instead of 256 more channels of the concatenation;
- the decoder does not concatenate: the first refining convolution is split by its inputs;
- the graph ends at the coarse logits; input and output are channels-last.
"""

import builtins
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import fx, nn

from atrous.decoder import DecoderStage
from atrous.encoder.aspp import ASPP
from atrous.encoder.dense_prediction_cell import BRANCHES, DensePredictionCell
from atrous.engines.exported_file import HIGH_LEVEL, POOLED
from atrous.export.onnx_nodes import (
    Array,
    GraphWriter,
    array,
    folded,
    scale_and_offset,
    unsupported,
)
from atrous.layers import AtrousSeparableConv, ConvBN
from atrous.model import DeepLabV3Plus

OPSET = 17


class Graph(NamedTuple):
    """A network in ONNX.

    Attributes:
        proto: Maps ``image`` (1, H, W, C) of the model's type to ``logits`` (1, h, w, K) float32,
            for any H and W.
        layers: Names of values by the torch module with the same output, in order of execution.
        reach: A logit depends on pixels up to this far from its own, apart from image pooling.
    """

    proto: onnx.GraphProto
    layers: dict[str, str]
    reach: int


def write_graph(model: DeepLabV3Plus) -> Graph:
    """Returns the graph of a model, from pictures to coarse logits.

    Args:
        model: In evaluation mode.

    Raises:
        AtrousError: The (timm) backbone uses an operation that export does not support.
    """
    writer = GraphWriter()
    writer.fields["image"] = 1, 0
    high_level, low_level = _backbone(writer, model, _normalized(writer, model))
    high_level = writer.add("Identity", [high_level], HIGH_LEVEL)
    encoded = _head(writer, model, high_level)
    logits = _decoder(writer, model, encoded, low_level)
    writer.add("Transpose", [logits], "logits", perm=[0, 2, 3, 1])
    num_classes, channels = model.architecture.num_classes, model.architecture.in_channels
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(model.architecture.dtype))
    proto = helper.make_graph(
        list(writer.nodes.values()),
        "DeepLabv3+",
        [helper.make_tensor_value_info("image", kind, [1, "height", "width", channels])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "h", "w", num_classes])],
        [numpy_helper.from_array(value, name) for name, value in writer.constants.items()],
    )
    return Graph(proto, writer.layers, writer.fields["logits"][1])


def _normalized(writer: GraphWriter, model: DeepLabV3Plus) -> str:
    """Subtracts the mean; the first convolution divides by the deviation."""
    values = writer.add("Cast", ["image"], "values", to=TensorProto.FLOAT)
    mean = writer.constant("mean", array(model.normalize.mean).reshape(-1))
    # Before the transpose: engines then keep channels last.
    values = writer.add("Sub", [values, mean], "centred")
    if model.normalize.missing:
        absent = writer.add("IsNaN", [values], "absent")
        zero = writer.constant("zero", np.zeros(1, np.float32))
        values = writer.add("Where", [absent, zero, values], "known")
    return writer.add("Transpose", [values], "channels_first", perm=[0, 3, 1, 2])


_LEAVES = (
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.Identity,
    nn.Dropout,
    nn.ReLU,
    nn.ReLU6,
    nn.Sigmoid,
    nn.SiLU,
    nn.Hardswish,
    nn.MaxPool2d,
    nn.AvgPool2d,
)


class _Tracer(fx.Tracer):
    """Traces the forward of a backbone down to the modules that this file can write."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES)


def _backbone(writer: GraphWriter, model: DeepLabV3Plus, image: str) -> tuple[str, dict[int, str]]:
    """Adds the backbone, module by module, from a trace of its forward."""
    backbone = model.encoder.backbone
    channels = model.architecture.in_channels
    divisor = np.broadcast_to(array(model.normalize.std).reshape(-1), channels)
    modules = dict(backbone.named_modules())
    values: dict[fx.Node, Any] = {}
    for node in _Tracer().trace(backbone).nodes:
        if node.op == "placeholder":
            values[node] = image
        elif node.op == "output":
            high_level, low_level = fx.map_arg(node.args[0], lambda n: values[n])
            return high_level, low_level
        elif node.op == "call_module":
            name = f"encoder.backbone.{node.target}"
            x = values[node.args[0]]
            values[node] = _module(writer, modules[str(node.target)], node, x, name)
            if x == image:
                _divide_weight(writer, values[node], divisor, name)
            writer.layer(name, values[node])
        else:
            values[node] = _function(writer, node, values)
    raise AssertionError("a traced graph ends with its output")


def _divide_weight(writer: GraphWriter, value: str, divisor: Array, name: str) -> None:
    if writer.nodes[value].op_type != "Conv":
        raise unsupported("other than a convolution on the picture", name)
    weight = writer.nodes[value].input[1]
    writer.constants[weight] = (writer.constants[weight] / divisor[:, None, None]).astype(
        np.float32
    )


def _module(writer: GraphWriter, module: nn.Module, node: fx.Node, x: str, name: str) -> str:
    if isinstance(module, nn.Conv2d):
        if isinstance(module.padding, str):
            raise unsupported(f"Conv2d(padding={module.padding!r})", name)
        bias = None if module.bias is None else array(module.bias)
        return writer.conv(x, array(module.weight), bias, module, name)
    if isinstance(module, nn.BatchNorm2d):
        source = node.args[0]
        assert isinstance(source, fx.Node)
        value = _batch_norm(writer, module, x, name, foldable=len(source.users) == 1)
        activation = getattr(module, "act", None)  # timm's BatchNormAct2d
        return value if activation is None else writer.activation(value, activation, name)
    if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
        return _pool(writer, module, x, name)
    return writer.activation(x, module, name)


def _batch_norm(
    writer: GraphWriter, bn: nn.BatchNorm2d, x: str, name: str, *, foldable: bool
) -> str:
    """Folds a batch norm into the convolution before it, or else multiplies and adds."""
    scale, offset = scale_and_offset(bn)
    node = writer.nodes.get(x)
    if node is None or node.op_type != "Conv" or not foldable:
        factors = [
            writer.constant(f"{name}.{kind}", value.astype(np.float32)[:, None, None])
            for kind, value in (("scale", scale), ("offset", offset))
        ]
        scaled = writer.add("Mul", [x, factors[0]], f"{name}.scaled")
        return writer.add("Add", [scaled, factors[1]], name)
    writer.layers = {n: value for n, value in writer.layers.items() if value != x}
    weight = node.input[1]
    writer.constants[weight] = (
        writer.constants[weight].astype(np.float64) * scale[:, None, None, None]
    ).astype(np.float32)
    if len(node.input) == 3:
        offset = offset + writer.constants[node.input[2]] * scale
        writer.constants[node.input[2]] = offset.astype(np.float32)
    else:
        node.input.append(writer.constant(f"{x}.bias", offset.astype(np.float32)))
    return x


def _pool(writer: GraphWriter, pool: nn.MaxPool2d | nn.AvgPool2d, x: str, name: str) -> str:
    kernel, stride, padding = (
        (int(v), int(v)) if isinstance(v, int) else tuple(v)
        for v in (pool.kernel_size, pool.stride, pool.padding)
    )
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": stride, "pads": padding * 2}
    attributes["ceil_mode"] = int(pool.ceil_mode)
    if isinstance(pool, nn.AvgPool2d):
        attributes["count_include_pad"] = int(pool.count_include_pad)
    kind = "AveragePool" if isinstance(pool, nn.AvgPool2d) else "MaxPool"
    value = writer.add(kind, [x], name, **attributes)
    writer.window(value, padding[0], kernel[0] - 1 - padding[0], stride[0])
    return value


_BINARY: dict[Callable[..., Any] | str, str] = {
    operator.add: "Add",
    operator.iadd: "Add",
    operator.mul: "Mul",
    operator.imul: "Mul",
    torch.add: "Add",
    torch.mul: "Mul",
}

_RELU = (F.relu, torch.relu, "relu")

_UNARY: dict[Callable[..., Any] | str, str] = {
    torch.sigmoid: "Sigmoid",
    "sigmoid": "Sigmoid",
    F.hardswish: "HardSwish",
}


def _function(writer: GraphWriter, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    args: Any = fx.map_arg(node.args, lambda n: values[n])
    name = f"encoder.backbone.{node.name}"
    target: Any = node.target
    if target in _BINARY and all(isinstance(a, str) for a in args):
        return writer.add(_BINARY[target], args, name)
    if target in _RELU:
        return writer.relu(args[0], name)
    if target in _UNARY:
        return writer.add(_UNARY[target], args[:1], name)
    if target is F.hardsigmoid:
        return writer.add("HardSigmoid", args[:1], name, alpha=1 / 6, beta=0.5)
    if target is operator.getitem:
        return _subsampled(writer, args[0], args[1], name)
    if target is F.max_pool2d:
        return _pool(writer, nn.MaxPool2d(**_pool_arguments(node)), args[0], name)
    if target == "mean" and tuple(args[1]) == (2, 3) and node.kwargs.get("keepdim"):
        return writer.add("ReduceMean", args[:1], name, axes=[2, 3], keepdims=1)
    raise unsupported(str(getattr(target, "__name__", target)), name)


def _subsampled(writer: GraphWriter, x: str, index: Any, name: str) -> str:
    """Adds x[..., ::step, ::step], the only indexing that backbones use."""
    match index:
        case (builtins.Ellipsis, slice(start=None, stop=None, step=step), slice() as last):
            if last == slice(None, None, step):
                return writer.every(x, step, name)
    raise unsupported(f"getitem {index}", name)


def _pool_arguments(node: fx.Node) -> dict[str, Any]:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    given = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    return {name: given[name] for name in names if name in given}


def _head(writer: GraphWriter, model: DeepLabV3Plus, high_level: str) -> str:
    head = model.encoder.aspp
    if isinstance(head, ASPP):
        return _aspp(writer, head, high_level)
    if isinstance(head, DensePredictionCell):
        return _dense_prediction_cell(writer, head, high_level)
    # The pooling kernel of LR-ASPP depends on the picture's size; ONNX has no such pooling.
    raise unsupported(f"head {model.architecture.head}", "encoder.aspp")


def _dense_prediction_cell(writer: GraphWriter, cell: DensePredictionCell, high_level: str) -> str:
    views: list[str] = []
    for index, (branch, (_, source)) in enumerate(zip(cell.branches, BRANCHES, strict=True)):
        x = high_level if source < 0 else views[source]
        views.append(_conv(writer, branch, x, f"encoder.aspp.branches.{index}"))
    x = writer.add("Concat", views, "encoder.aspp.views", axis=1)
    return writer.conv_bn(x, cell.merge, "encoder.aspp.merge")


def _aspp(writer: GraphWriter, aspp: ASPP, high_level: str) -> str:
    """Adds ASPP with image pooling as a bias of the projection."""
    name = "encoder.aspp"
    branches = [writer.conv_bn(high_level, aspp.pointwise, f"{name}.pointwise")]
    for index, branch in enumerate(aspp.atrous):
        branches.append(_conv(writer, branch, high_level, f"{name}.atrous.{index}"))
    weight, bias = folded(aspp.project)
    conv = aspp.project.conv
    x = branches[0]
    if len(branches) > 1:
        x = writer.add("Concat", branches, f"{name}.branches", axis=1)
    # The first channels that the projection reads are the pooled features.
    share = 0 if aspp.image_pooling is None else aspp.channels
    x = writer.conv(x, weight[:, share:], bias, conv, f"{name}.project.conv")
    if aspp.image_pooling is not None:
        averaged = writer.every(high_level, aspp.pooling_step, f"{name}.averaged")
        pooled = writer.add("ReduceMean", [averaged], POOLED, axes=[2, 3], keepdims=1)
        pooled = writer.conv_bn(pooled, aspp.image_pooling, f"{name}.image_pooling")
        pooled = writer.conv(pooled, weight[:, :share], None, conv, f"{name}.project.pooled")
        x = writer.add("Add", [x, pooled], f"{name}.project.sum")
    return writer.layer(name, writer.activation(x, aspp.project.activation, f"{name}.project"))


def _conv(writer: GraphWriter, module: nn.Module, x: str, name: str) -> str:
    """Adds a ConvBN or a separable convolution."""
    if isinstance(module, ConvBN):
        return writer.conv_bn(x, module, name)
    assert isinstance(module, AtrousSeparableConv)
    if module.relu_before:
        x = writer.relu(x, f"{name}.rectified")
    x = writer.conv_bn(x, module.depthwise, f"{name}.depthwise")
    return writer.conv_bn(x, module.pointwise, f"{name}.pointwise")


def _decoder(
    writer: GraphWriter, model: DeepLabV3Plus, decoded: str, low_level: dict[int, str]
) -> str:
    """Adds decoder and classifier."""
    decoder = model.decoder
    decoded_stride = decoder.output_stride
    for index, stride in enumerate(decoder.strides):
        stage = decoder.stages[index]
        assert isinstance(stage, DecoderStage)
        name = f"decoder.stages.{index}"
        low_stride = min(stride, decoder.output_stride)
        reduced = low_level[stride]
        if isinstance(stage.reduce, ConvBN):
            reduced = writer.conv_bn(reduced, stage.reduce, f"{name}.reduce")
        reduced = writer.every(reduced, stride // low_stride, f"{name}.low_level")
        if decoded_stride > stride:
            decoded = writer.resize(decoded, decoded_stride // stride, reduced, f"{name}.upsampled")
        else:
            decoded = writer.every(decoded, stride // decoded_stride, f"{name}.subsampled")
        parts = {"decoded": (decoded, slice(None, -stage.reduced_channels))}
        parts["reduced"] = reduced, slice(-stage.reduced_channels, None)
        decoded = writer.layer(name, _refine(writer, stage, parts, name))
        decoded_stride = stride
    classifier = decoder.classifier
    assert classifier.bias is not None
    weight, bias = array(classifier.weight), array(classifier.bias)
    rows = writer.conv(decoded, weight, bias, classifier, "decoder.classifier")
    return writer.largest(writer.layer("decoder.classifier", rows), decoder.extra_rows, len(bias))


def _refine(
    writer: GraphWriter, stage: DecoderStage, parts: dict[str, tuple[str, slice]], name: str
) -> str:
    """Adds the refining convolutions; the first runs on both inputs apart and adds the results."""
    if not len(stage.refine):
        return writer.add("Concat", [value for value, _ in parts.values()], f"{name}.both", axis=1)
    first = stage.refine[0]
    name_first = f"{name}.refine.0"
    if isinstance(first, AtrousSeparableConv):
        weight, bias = folded(first.depthwise)
        for part, (value, channels) in parts.items():
            part_name = f"{name_first}.depthwise.{part}"
            value = writer.conv(
                value, weight[channels], bias[channels], first.depthwise.conv, part_name
            )
            value = writer.activation(value, first.depthwise.activation, part_name)
            parts[part] = (value, channels)
        mixer = first.pointwise
    else:
        assert isinstance(first, ConvBN)
        mixer = first
    weight, bias = folded(mixer)
    summands = [
        writer.conv(
            value,
            weight[:, channels],
            bias if part == "decoded" else None,
            mixer.conv,
            f"{name_first}.{part}",
        )
        for part, (value, channels) in parts.items()
    ]
    x = writer.add("Add", summands, f"{name_first}.sum")
    x = writer.layer(name_first, writer.activation(x, mixer.activation, name_first))
    for index, module in enumerate(list(stage.refine)[1:], start=1):
        x = _conv(writer, module, x, f"{name}.refine.{index}")
    return x
