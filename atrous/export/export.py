"""Exports a model to one self-describing ONNX file and checks it against torch."""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from atrous import __version__
from atrous.engines.exported_file import Header
from atrous.engines.openvino import ExportedEngine
from atrous.engines.torch import difference, torch_logits
from atrous.errors import AtrousError, ExitCode
from atrous.export.agreement import bf16_agreement
from atrous.export.graph import OPSET, Graph, write_graph
from atrous.export.labels import add_labels
from atrous.images.bands import PLAIN, Bands, Pixels
from atrous.images.decode import atomic
from atrous.layers import Size
from atrous.model import DeepLabV3Plus, evaluating
from atrous.schema import to_json
from atrous.weights.store import preprocessing_of

logger = logging.getLogger(__name__)

CHECKED_SIZES: tuple[Size, ...] = ((129, 97), (96, 128), (50, 163), (1, 1))
TOLERANCE = 1e-3  # of the standard deviation of the logits
HALF_TOLERANCE = 0.2  # the same for 16-bit weights, after the 32-bit file passed its check
_LARGE = 1024  # initializers with fewer values stay in 32 bits


def export(
    model: DeepLabV3Plus,
    out: str | Path,
    *,
    size: Size | None = None,
    pictures: Sequence[Pixels] = (),
    half: bool = False,
    labels: bool = False,
) -> Header:
    """Writes a model to a self-contained ONNX file.

    The file maps pictures (1, H, W, C) of the model's type, of RGB uint8, to coarse logits
    (1, h, w, K), and holds class names, palette, strides, licence and provenance. The function runs
    the file and compares it with the model at several sizes before the file gets its name.

    Args:
        model: The model.
        out: The file.
        size: Height and width to fix it to; None: any.
        pictures: Pictures to compare on, besides synthetic ones. They also measure how many
            labels the file keeps in bfloat16; without pictures the file runs in float32.
        half: Store weights in 16 bits: half the size. Arithmetic stays in 32 bits.
        labels: Give the file a second output, ``labels`` (H, W): the class of every pixel, as
            `Predictor` finds it from the same logits.

    Returns:
        The header of the file.

    Raises:
        AtrousError: The file's logits differ from the model's (the error names the first layer
            that differs), its labels are not those of its logits, or the backbone uses an
            unknown operation.
    """
    with evaluating(model):
        graph = write_graph(model)
        samples = [*made_up_pictures(size, model.bands), *pictures]
        header = describe(model, graph, size=size)
        with atomic(out) as temporary:
            _write_and_check(model, graph, header, temporary, samples, TOLERANCE)
            if half:
                _halve(graph.proto)
                header = describe(model, graph, size=size, precision="float16")
                _write_and_check(model, graph, header, temporary, samples, HALF_TOLERANCE)
            if pictures:
                agreement, means = bf16_agreement(model, temporary, pictures)
                header = replace(header, bf16_agreement=agreement, bf16_measured=means)
                onnx.save(as_file(graph, header), temporary)
            if labels:
                add_labels(temporary, samples)
    return header


def describe(
    model: DeepLabV3Plus, graph: Graph, *, size: Size | None, precision: str = "float32"
) -> Header:
    """Returns the header for a model and its graph; sets the graph's fixed size, if any."""
    if size is not None:
        dims = graph.proto.input[0].type.tensor_type.shape.dim
        dims[1].dim_value, dims[2].dim_value = size
    provenance = model.provenance
    return Header(
        classes=model.classes,
        palette=model.palette,
        output_stride=model.output_stride,
        logits_stride=model.logits_stride,
        backbone=model.architecture.backbone,
        precision=precision,
        licence=provenance.licence,
        source=provenance.source,
        source_sha256=provenance.sha256,
        sha256=hashlib.sha256(graph.proto.SerializeToString(deterministic=True)).hexdigest(),
        reach=graph.reach,
        size=size or (0, 0),
        training=to_json(provenance.training) if provenance.training else {},
        notes=tuple(provenance.notes),
        architecture=to_json(replace(model.architecture, **vars(preprocessing_of(model)))),
    )


def _halve(graph: onnx.GraphProto) -> None:
    """Stores large initializers in 16 bits, each with a cast in front of the graph."""
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < _LARGE:
            continue
        name = tensor.name
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(
            helper.make_node("Cast", [tensor.name], [name], name=name, to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def as_file(graph: Graph, header: Header | None = None) -> onnx.ModelProto:
    """Returns the ONNX model that holds a graph, with a header if it becomes a file of ours."""
    proto = helper.make_model(
        graph.proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
        producer_name="atrous",
        producer_version=__version__,
    )
    if header is not None:
        helper.set_model_props(proto, header.properties())
    return proto


def made_up_pictures(size: Size | None, bands: Bands = PLAIN) -> list[Pixels]:
    """Returns synthetic pictures (shapes and noise) of several sizes, or of the fixed size."""
    channels = len(bands.names)
    random = np.random.default_rng(0)
    pictures = []
    for height, width in CHECKED_SIZES if size is None else (size,):
        rows, columns = np.mgrid[:height, :width]
        waves = np.stack(
            [np.sin(rows / 9 + c) + np.cos(columns / (7 + c)) for c in range(channels)], -1
        )
        noise = random.normal(0, 0.3, (height, width, channels))
        pictures.append(bands.made_up(128 + 60 * (waves + noise)))
    return pictures


def _write_and_check(
    model: DeepLabV3Plus,
    graph: Graph,
    header: Header,
    path: Path,
    pictures: Sequence[Pixels],
    tolerance: float,
) -> None:
    """Writes the file and compares it with the model, picture by picture."""
    proto, layers = as_file(graph, header), graph.layers
    onnx.save(proto, path)
    engine = ExportedEngine(path, keep_compiled=False)
    for picture in pictures:
        by = difference(torch_logits(model, picture), engine.coarse_logits(picture))
        logger.info("export differs from torch by %.1e at %s", by, picture.shape[:2])
        if not by < tolerance:  # also catches NaN
            layer, by_there = _first_difference(model, proto, layers, picture, tolerance)
            raise AtrousError(
                "E-EXPORT-DIFFERS",
                f"the exported model differs from torch by {by:.1e} standard deviations "
                f"of the logits on a picture of {picture.shape[0]} x {picture.shape[1]}; "
                f"the first layer to differ is {layer}, by {by_there:.1e}",
                fix="nothing was written; report this with the model's options",
                exit_code=ExitCode.BUG,
            )


def _first_difference(
    model: DeepLabV3Plus,
    proto: onnx.ModelProto,
    layers: dict[str, str],
    picture: Pixels,
    tolerance: float,
) -> tuple[str, float]:
    """Finds the first layer that differs, by making every layer an output of the graph."""
    from atrous.engines.openvino_package import openvino_core

    expected: dict[str, NDArray[np.float32]] = {}

    def remember(name: str, _module: Any, _inputs: Any, output: torch.Tensor) -> None:
        expected[name] = output.detach().cpu().numpy().copy()

    modules = dict(model.named_modules())
    with ExitStack() as hooks:
        for name in layers:
            hooks.enter_context(modules[name].register_forward_hook(partial(remember, name)))
        torch_logits(model, picture)
    core = openvino_core()
    graph = core.read_model(proto.SerializeToString())
    names = [name for name in layers if name in expected]
    graph.add_outputs([layers[name] for name in names if layers[name] != "logits"])
    outputs = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(picture[None])
    for name in names:
        by = difference(expected[name], outputs[layers[name]])
        if not by < tolerance:
            return name, by
    return "logits", float("nan")
