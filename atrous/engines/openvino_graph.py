"""Changes to an OpenVINO graph in memory, for pictures in tiles and for faster labels."""

import math
from collections import defaultdict
from typing import Any

import numpy as np

from atrous.engines.exported_file import HIGH_LEVEL, POOLED

# A graph of one node that must not be computed in another type. OpenVINO's Python interface cannot
# make this mark, but it can read one from a file and copy it to other nodes.
_MARKED = b"""<net name="marked" version="11"><layers>
<layer id="0" name="marked" type="Parameter" version="opset1"><data shape="1" element_type="f32"/>
<rt_info><attribute name="precise" version="0"/></rt_info>
<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="1" name="end" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim></port></input></layer></layers>
<edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges></net>"""
_FINEST = 2  # the stride up to which layers are kept in fp32
NARROW = 64  # the channels up to which they are


def find(model: Any, name: str) -> Any:
    """Returns the value with a name; None if the graph has no such value."""
    outputs = (output for node in model.get_ordered_ops() for output in node.outputs())
    return next((output for output in outputs if name in output.get_names()), None)


def data_of(value: Any) -> Any:
    """Returns the array of a constant, in the shape and type that nodes read; None for others."""
    node = value.get_node()
    while node.get_type_name() in ("Reshape", "Convert"):
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    shape = [int(length) for length in value.get_shape()]
    return np.array(node.data).reshape(shape).astype(value.get_element_type().to_dtype())


def only_logits(model: Any) -> Any:
    """Drops the labels of a graph that has them: `atrous.predict.upsample` is faster."""
    for result in model.get_results():
        if "logits" not in result.input_value(0).get_names():
            model.remove_result(result)
    return model


def classes_first(model: Any) -> Any:
    """Drops the last transposition: `labels` reads logits fastest as (1, K, h, w)."""
    result = model.get_results()[0]
    result.input(0).replace_source_output(result.input_value(0).get_node().input_value(0))
    model.validate_nodes_and_infer_types()
    return model


def give_pooled(model: Any) -> Any:
    """Turns the result of image pooling, if there is one, into a second input (1, C, 1, 1)."""
    import openvino

    pooled = find(model, POOLED)
    if pooled is None:
        return model
    given = openvino.op.Parameter(openvino.Type.f32, pooled.get_partial_shape())
    given.set_friendly_name(f"{POOLED}.given")
    for reader in pooled.get_target_inputs():
        reader.replace_source_output(given.output(0))
    model.add_parameters([given])
    return model


def up_to_high_level(model: Any) -> Any:
    """Returns the graph up to the features that image pooling averages; None without pooling."""
    import openvino

    if find(model, POOLED) is None:
        return None
    return openvino.Model([find(model, HIGH_LEVEL)], model.get_parameters())


def keep_finest_layers(core: Any, model: Any) -> None:
    """Marks the narrow layers at strides 1 and 2 of the picture, so that bf16 leaves them in fp32.

    These are the first convolutions, up to one of more than `NARROW` channels. What they round away
    reaches every border of the labels. A wide layer at these strides costs more time in fp32 than
    all narrow ones together, and rounding it changes hardly a label (docs/performance.md).
    """
    marks = core.read_model(_MARKED, b"").get_parameters()[0].get_rt_info()
    strides: dict[str, float] = {model.input(0).get_node().get_name(): 1}
    for node in model.get_ordered_ops():
        read = [strides.get(value.get_node().get_name(), 0) for value in node.input_values()]
        if stride := max(read, default=0) * max(node.get_attributes().get("strides", [1])):
            strides[node.get_name()] = math.inf if _is_wide(node) else stride
            if strides[node.get_name()] <= _FINEST:
                for key in marks:
                    node.set_rt_info(marks[key], key)


def _is_wide(node: Any) -> bool:
    is_convolution = node.get_type_name() in ("Convolution", "GroupConvolution")
    return is_convolution and node.get_output_partial_shape(0)[1].get_length() > NARROW


def bytes_per_pixel(model: Any) -> int:
    """Estimates the memory that a graph needs for each pixel of its input.

    The estimate is the most bytes of values that are alive at a time, in the order of the graph,
    and three copies of the logits: in the engine, outside, and of the tile before. A tenth is added
    for the engine's own memory. An engine that fuses layers needs less.
    """
    side = 512
    channels = model.input(0).get_partial_shape()[3].get_length()
    model.reshape([1, side, side, channels])
    nodes = model.get_ordered_ops()
    last_reader: dict[tuple[str, int], int] = {}
    for index, node in enumerate(nodes):
        for source in (value.get_source_output() for value in node.inputs()):
            last_reader[source.get_node().get_name(), source.get_index()] = index
    dying: dict[int, int] = defaultdict(int)  # bytes by last reader
    alive = most = 0
    for index, node in enumerate(nodes):
        if node.get_type_name() != "Constant":
            for output in node.outputs():
                size = math.prod(output.get_shape()) * output.get_element_type().size
                alive += size
                dying[last_reader.get((node.get_name(), output.get_index()), index)] += size
        most = max(most, alive)
        alive -= dying[index]
    logits = 4 * math.prod(model.output(0).get_shape())
    return math.ceil(1.1 * (most + 3 * logits) / side**2)
