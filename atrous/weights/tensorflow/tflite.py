"""Reads quantised .tflite graphs of Google's MobileNetV2 as TensorFlow variables.

The generated schema package parses the file. Nothing in the file is executed.
"""

import hashlib
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError, DataError


@dataclass(frozen=True)
class Graph:
    """A quantised graph with its weights dequantised.

    Attributes:
        variables: Weights with TensorFlow's names and layout. Batch norm is folded, so each
            convolution has ``biases``.
        output_stride: Stride of the features before ASPP.
        mean: Mean of the normalisation (x - mean) / std that the input's quantisation implies.
        std: Standard deviation of the same.
        one_sided_padding: Strided convolutions up to this stride pad bottom and right alone.
        sha256: Hash of the file.
    """

    variables: dict[str, NDArray[np.float32]]
    output_stride: int
    mean: float
    std: float
    one_sided_padding: int
    sha256: str


def read(path: Path) -> Graph:
    """Reads a file.

    Raises:
        AtrousError: ``E-FILE-MISSING``; ``E-WEIGHTS-FORMAT`` for a file of another kind;
            ``E-WEIGHTS-EDGE-TPU`` for a file compiled for that processor; ``E-WEIGHTS-NAMES``
            without the authors' variable names.
    """
    if not path.is_file():
        raise AtrousError("E-FILE-MISSING", "no such file", where=path)
    data = path.read_bytes()
    try:
        graph = _parse(data)
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, StopIteration) as e:
        if isinstance(e, AtrousError):
            e.where = e.where or str(path)
            raise
        raise DataError(
            "E-WEIGHTS-FORMAT", f"not a readable TFLite file ({e})", where=path
        ) from None
    return graph


def _parse(data: bytes) -> Graph:
    import tflite

    if data[4:8] != b"TFL3":
        raise DataError("E-WEIGHTS-FORMAT", "not a TFLite file")
    model = tflite.Model.GetRootAsModel(data, 0)  # type: ignore[no-untyped-call]
    _refuse_edge_tpu(model)
    subgraph = model.Subgraphs(0)
    variables: dict[str, NDArray[np.float32]] = {}
    one_sided = 0
    for operator, options in _convolutions(model, subgraph):
        source, weights, bias = (subgraph.Tensors(operator.Inputs(i)) for i in range(3))
        scope = _scope(weights.Name().decode())
        depthwise = weights.ShapeAsNumpy()[0] == 1 and scope.endswith("depthwise")
        kind = "depthwise_weights" if depthwise else "weights"
        # OHWI -> HWIO; depthwise 1HWC -> HWC1
        order = (1, 2, 3, 0)
        variables[f"{scope}/{kind}"] = _values(model, weights).transpose(order)
        variables[f"{scope}/biases"] = _values(model, bias)
        target = subgraph.Tensors(operator.Outputs(0))
        # SAME padding of a 3x3 may add a row below and none above, depending on the size.
        added = (target.Shape(1) - 1) * options.StrideH() + 3 - source.Shape(1)
        if options.StrideH() > 1 and added == 1:
            one_sided = max(one_sided, _input_size(subgraph) // target.Shape(1))
    scale, zero_point = _quantization(subgraph.Tensors(subgraph.Inputs(0)))
    return Graph(
        variables,
        output_stride=_output_stride(model, subgraph),
        mean=float(zero_point[0]),
        std=1 / float(scale[0]),
        one_sided_padding=one_sided,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _refuse_edge_tpu(model: Any) -> None:
    for index in range(model.OperatorCodesLength()):
        if model.OperatorCodes(index).CustomCode() == b"edgetpu-custom-op":
            raise DataError(
                "E-WEIGHTS-EDGE-TPU",
                "compiled for the Edge TPU: the weights are in that processor's own format",
                fix="name the .tflite file it was compiled from, which has no _edgetpu in its name",
            )


def _convolutions(model: Any, subgraph: Any) -> list[tuple[Any, Any]]:
    """Returns each convolution with its options."""
    import tflite

    kinds: dict[int, Any] = {
        tflite.BuiltinOperator.CONV_2D: tflite.Conv2DOptions,
        tflite.BuiltinOperator.DEPTHWISE_CONV_2D: tflite.DepthwiseConv2DOptions,
    }
    found = []
    for index in range(subgraph.OperatorsLength()):
        operator = subgraph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        # Old files store the code in a byte, new files in an integer.
        kind = kinds.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
        if kind is not None:
            options = kind()
            options.Init(operator.BuiltinOptions().Bytes, operator.BuiltinOptions().Pos)
            found.append((operator, options))
    return found


def _scope(tensor_name: str) -> str:
    """Finds the variable scope in a tensor name that may join several names."""
    parts = tensor_name.split(";")
    for part in reversed(parts):
        match = re.match(r"(.+?)/(?:depthwise_)?weights(?:_quant)?(?:/|$)", part)
        if match:
            return match[1]
    match = re.match(r"MobileNetV2/(expanded_conv_\d+/\w+|Conv2d_\w+|top/Conv2d_\w+)/", parts[0])
    if match:
        return _scope_of_keras(match[1])
    raise DataError(
        "E-WEIGHTS-NAMES",
        f"the tensors do not have the authors' variable names (found {tensor_name!r})",
        fix="only DeepLab and MobileNetV2 graphs exported by the authors' code can be imported",
    )


def _scope_of_keras(scope: str) -> str:
    """Translates the names of Google's later Keras MobileNetV2, which counts units from one."""
    names = {"Conv2d_0_0": "Conv", "Conv2d_18_1": "Conv_1"}
    unit = re.match(r"expanded_conv_(\d+)/(\w+)", scope)
    if unit:
        suffix = "" if unit[1] == "1" else f"_{int(unit[1]) - 1}"
        return f"MobilenetV2/expanded_conv{suffix}/{unit[2]}"
    return f"MobilenetV2/{names.get(scope, 'Logits/Conv2d_1c_1x1')}"


def _quantization(tensor: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    quantization = tensor.Quantization()
    if quantization is None or quantization.ScaleLength() == 0:
        raise DataError(
            "E-WEIGHTS-QUANTIZATION", f"the tensor {tensor.Name().decode()} is not quantised"
        )
    return quantization.ScaleAsNumpy(), quantization.ZeroPointAsNumpy()


def _values(model: Any, tensor: Any) -> NDArray[np.float32]:
    """Returns the real values (q - zero point) * scale, per tensor or per channel."""
    import tflite

    dtypes = {
        tflite.TensorType.UINT8: np.uint8,
        tflite.TensorType.INT8: np.int8,
        tflite.TensorType.INT32: np.int32,
    }
    raw = model.Buffers(tensor.Buffer()).DataAsNumpy()
    quantized = np.frombuffer(raw.tobytes(), dtypes[tensor.Type()]).reshape(tensor.ShapeAsNumpy())
    scale, zero_point = _quantization(tensor)
    shape = [1] * quantized.ndim
    shape[tensor.Quantization().QuantizedDimension()] = len(scale)
    centred = quantized.astype(np.float64) - zero_point.reshape(shape if len(scale) > 1 else -1)
    return (centred * scale.astype(np.float64).reshape(shape)).astype(np.float32)


def _input_size(subgraph: Any) -> int:
    return int(subgraph.Tensors(subgraph.Inputs(0)).Shape(1))


def _output_stride(model: Any, subgraph: Any) -> int:
    for operator, _ in _convolutions(model, subgraph):
        scope = _scope(subgraph.Tensors(operator.Inputs(1)).Name().decode())
        if scope in ("aspp0", "MobilenetV2/Conv_1"):  # the first convolution after the backbone
            features = subgraph.Tensors(operator.Inputs(0)).Shape(1)
            return round(_input_size(subgraph) / features)
    raise DataError("E-WEIGHTS-HEAD", "the graph has no head (aspp0 or Conv_1)")
