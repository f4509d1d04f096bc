"""Adds labels to an exported file, for users who write no code after the network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from atrous.engines.exported_file import read_header
from atrous.errors import AtrousError, ExitCode
from atrous.export.onnx_nodes import GraphWriter
from atrous.predict import upsample


def add_labels(path: Path, pictures: Sequence[NDArray[np.uint8]]) -> None:
    """Adds the output ``labels`` (H, W) to a file, and runs it once for each picture.

    The hash in the header stays: the network is the same.

    Args:
        path: The file, as `atrous.export` wrote it; changed in place.
        pictures: Pictures (H, W, 3) to compare the labels on.

    Raises:
        AtrousError: The labels differ from those of `atrous.predict.upsample`.
    """
    header = read_header(path)
    proto = onnx.load(path)
    kind = TensorProto.UINT8 if len(header.classes) <= 256 else TensorProto.UINT16
    writer = GraphWriter()
    values = "logits"  # (1, h, w, K)
    for axis in (1, 2):
        values = _upsampled(writer, values, axis, header.logits_stride)  # (1, H, W, K) in the end
    best = writer.add("ArgMax", [values], "labels.best", axis=3, keepdims=0)  # the first of equals
    picture = writer.add("Squeeze", [best, writer.integers(0)], "labels.picture")
    writer.add("Cast", [picture], "labels", to=kind)
    graph = proto.graph
    graph.node.extend(writer.nodes.values())
    known = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in writer.constants.items()
        if name not in known
    )
    size = [d.dim_value or d.dim_param for d in graph.input[0].type.tensor_type.shape.dim[1:3]]
    graph.output.insert(0, helper.make_tensor_value_info("labels", kind, size))
    onnx.save(proto, path)
    session = InferenceSession(path)
    for image in pictures:
        labels, logits = session.run(["labels", "logits"], {"image": image[None]})
        expected = upsample.labels(logits[0], header.logits_stride, image.shape[:2])
        if not np.array_equal(labels, expected):
            raise AtrousError(
                "E-EXPORT-LABELS",
                f"the labels of the graph differ from those of its logits on a picture of "
                f"{image.shape[0]} x {image.shape[1]}",
                fix="nothing was written; report this with the model's options",
                exit_code=ExitCode.BUG,
            )


def _upsampled(writer: GraphWriter, logits: str, axis: int, stride: int) -> str:
    """Adds the interpolation of `upsample.upsampled_rows` along an axis, to the picture's size.

    Resize would add the same products in another order, and two classes that tie here would not
    tie there.
    """

    def add(op: str, inputs: Sequence[str], name: str, **attributes: int) -> str:
        return writer.add(op, inputs, f"labels.axis{axis}.{name}", **attributes)

    zero, one, step = (
        writer.constant(f"labels.{value}", np.array(value, np.int64)) for value in (0, 1, stride)
    )
    count = add("Shape", ["image"], "count", start=axis, end=axis + 1)
    pixel = add("Range", [zero, add("Squeeze", [count], "length"), one], "pixel")
    last = add("Shape", ["logits"], "coarse_count", start=axis, end=axis + 1)
    last = add("Sub", [last, one], "last")
    low = add("Min", [add("Div", [pixel, step], "cell"), last], "low")
    high = add("Min", [add("Add", [low, one], "next"), last], "high")
    rest = add("Cast", [add("Mod", [pixel, step], "rest")], "rest_float", to=TensorProto.FLOAT)
    divisor = writer.constant("labels.divisor", np.array(stride, np.float32))
    weight = add("Div", [rest, divisor], "weight")
    weight = add("Unsqueeze", [weight, writer.integers(*range(1, 4 - axis))], "weights")
    first = add("Gather", [logits, low], "first", axis=axis)
    second = add("Gather", [logits, high], "second", axis=axis)
    difference = add("Sub", [second, first], "difference")
    return add("Add", [first, add("Mul", [difference, weight], "part")], "values")
