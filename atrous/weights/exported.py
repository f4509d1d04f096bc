"""Reads a network back from the ONNX file that `atrous export` made of it.

The exporter names every weight after its module and folds each batch norm into the convolution
before it. Here the folded weights become those of the convolution, and the batch norm becomes the
identity plus the folded offset, as with every import of folded weights. The network that results is
run against the file once: another answer is an error, never a model.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from math import gcd
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atrous.architecture import Architecture, Provenance, Training
from atrous.build import build_blank
from atrous.classes import ClassTable
from atrous.encoder.strides import RATES_AT_STRIDE_16, rates_at
from atrous.engines.exported_file import Header, read_header
from atrous.engines.openvino import ExportedEngine
from atrous.engines.torch import difference, torch_logits
from atrous.errors import AtrousError, DataError
from atrous.model import DeepLabV3Plus, walk_shapes
from atrous.schema import from_json
from atrous.weights.differences import check_finite, check_same
from atrous.weights.tensorflow import infer as tensorflow
from atrous.weights.tensorflow.names import ROOTS, make_identity, scope_of
from atrous.weights.transfer import file_digest

Array = NDArray[np.float32]

_CHECKED_SIZE = (97, 129)  # of the picture the network and its file are compared on
_TOLERANCE = 1e-3  # of the logits' standard deviation, as when a model is exported
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_FIRST_REFINEMENT = re.compile(r"(decoder\.stages\.\d\.refine\.0)\.decoded\.weight")


def read(path: Path) -> DeepLabV3Plus:
    """Reads the network of an exported file.

    Args:
        path: An ``.onnx`` file of `atrous export` in float32 or float16.

    Returns:
        The model in evaluation mode, with the file's classes, colours and provenance. The first
        training run restores its batch norms (`training.batch_norm.restore_folded`).

    Raises:
        AtrousError: As `read_header`; ``E-MODEL-INT8`` for eight-bit weights;
            ``E-MODEL-READ-BACK`` for a file whose network cannot be built again.
    """
    header = read_header(path)
    if header.precision not in ("float32", "float16"):
        raise DataError(
            "E-MODEL-INT8",
            f"{header.precision} weights cannot be turned back into the network they came from",
            where=path,
            fix="name the float .onnx file, or the .safetensors file or run it was made from",
        )
    weights, geometry, nodes = _contents(path)
    check_finite(weights.items(), path)
    mean = weights.pop("mean").ravel()
    architecture = _architecture(header, weights, geometry, nodes, mean, path)
    model = build_blank(architecture)
    _assign(model, weights, path)
    model.name_classes(ClassTable("exported", header.classes, header.palette))
    training = from_json(Training, header.training, "training") if header.training else None
    model.provenance = Provenance(
        path.name,
        sha256=file_digest(path),
        licence=header.licence,
        notes=list(header.notes),
        training=training,
    )
    _check(model.eval(), header, path)
    return model


Geometry = dict[str, tuple[int, ...]]  # dilations, pads and strides of an ONNX convolution


def _contents(path: Path) -> tuple[dict[str, Array], dict[str, Geometry], set[str]]:
    """Returns weights by name, convolutions by module, and the names of all nodes."""
    import onnx

    try:
        graph = onnx.load(path).graph
        arrays = {
            tensor.name.removesuffix(".half"): onnx.numpy_helper.to_array(tensor)
            for tensor in graph.initializer
        }
    except Exception as error:  # protobuf, onnx and NumPy each raise their own
        raise _unreadable(path, f"damaged: {error}") from None
    weights = {
        name: array.astype(np.float32)
        for name, array in arrays.items()
        if name == "mean" or name.startswith(("encoder.", "decoder."))
    }
    convolutions = (node for node in graph.node if node.op_type == "Conv")
    geometry = {n.name: {a.name: tuple(a.ints) for a in n.attribute} for n in convolutions}
    if "mean" not in weights:
        raise _unreadable(path, "it has no normalisation")
    return _whole(weights), geometry, {node.name for node in graph.node}


def _whole(weights: dict[str, Array]) -> dict[str, Array]:
    """Joins the weights that the exporter divides to save a concatenation."""
    pooled = weights.pop("encoder.aspp.project.pooled.weight", None)
    if pooled is not None:
        name = "encoder.aspp.project.conv.weight"
        weights[name] = np.concatenate([pooled, weights[name]], axis=1)
    for name in list(weights):
        if match := _FIRST_REFINEMENT.fullmatch(name):
            stage = match[1]
            separable = f"{stage}.depthwise.decoded.weight" in weights
            if separable:
                for leaf in ("weight", "bias"):
                    parts = _pop_parts(weights, f"{stage}.depthwise", leaf)
                    weights[f"{stage}.depthwise.conv.{leaf}"] = np.concatenate(parts)
            target = f"{stage}.pointwise.conv" if separable else f"{stage}.conv"
            parts = _pop_parts(weights, stage, "weight")
            weights[f"{target}.weight"] = np.concatenate(parts, axis=1)
            weights[f"{target}.bias"] = weights.pop(f"{stage}.decoded.bias")
    return weights


def _pop_parts(weights: dict[str, Array], scope: str, leaf: str) -> list[Array]:
    """Removes and returns the share of the encoder's features and of the low-level ones."""
    return [weights.pop(f"{scope}.{part}.{leaf}") for part in ("decoded", "reduced")]


def _architecture(
    header: Header,
    weights: dict[str, Array],
    geometry: dict[str, Geometry],
    nodes: set[str],
    mean: Array,
    path: Path,
) -> Architecture:
    """Returns what the header says, or, for files older than that, what the graph shows."""
    if header.architecture:
        return from_json(Architecture, header.architecture, "architecture")
    if header.backbone not in ROOTS:
        raise _unreadable(path, f"it does not say how its {header.backbone} is built")
    stem = "conv1_" if "encoder.backbone.stem.1.conv.weight" in weights else "conv"
    variables = {
        _variable(name, array, ROOTS[header.backbone], stem): _in_tensorflow_layout(array)
        for name, array in weights.items()
    }
    rates = _rates(geometry, r"encoder\.aspp\.atrous\.\d\.(depthwise\.)?conv")
    usual = rates_at(RATES_AT_STRIDE_16, header.output_stride)
    last_block = r"encoder\.backbone\.(blocks\.3\.\d\.conv2|exit_flow\.1\.separable\d\.depthwise)"
    grid = _rates(geometry, rf"{last_block}\.conv")
    mean_values = tuple(float(value) for value in mean)
    found = tensorflow.infer(
        variables,
        output_stride=header.output_stride,
        atrous_rates=None if rates == usual else rates,
        multi_grid=tuple(rate // gcd(*grid) for rate in grid),
        mean=mean_values,
        std=_usual_std(mean_values, header.backbone, stem),
        one_sided_padding=_one_sided_padding(geometry),
    )
    inner = "encoder.backbone.entry_flow.1.separable1.depthwise"
    return replace(found, relu_after_depthwise=f"{inner}.activation" in nodes)


def _variable(name: str, array: Array, root: str, stem: str) -> str:
    """Returns the authors' name of a weight, from which the network can be inferred."""
    path, _, leaf = name.rpartition(".")
    depthwise = leaf == "weight" and array.shape[1] == 1 and "depthwise" in path
    kind = {"bias": "biases", "weight": "depthwise_weights" if depthwise else "weights"}[leaf]
    return f"{scope_of(path.removesuffix('.conv'), root=root, stem=stem)}/{kind}"


def _in_tensorflow_layout(array: Array) -> Array:
    if array.ndim != 4:
        return array
    depthwise = array.shape[1] == 1
    return array.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))


def _rates(geometry: dict[str, Geometry], pattern: str) -> tuple[int, ...]:
    """Returns the rates of the convolutions with a matching name, in order."""
    matching = (found for name, found in geometry.items() if re.fullmatch(pattern, name))
    return tuple(found["dilations"][0] for found in matching)


def _one_sided_padding(geometry: dict[str, Geometry]) -> int:
    """Returns up to which stride convolutions of a MobileNetV2 pad one side alone."""
    striding = {"conv": 2, "units.1.depthwise": 4, "units.3.depthwise": 8, "units.6.depthwise": 16}
    striding["units.13.depthwise"] = 32
    one_sided = [0]
    for module, stride in striding.items():
        found = geometry.get(f"encoder.backbone.{module}.conv")
        if found is not None and found["pads"][0] == 0 < found["pads"][2]:
            one_sided.append(stride)
    return max(one_sided)


def _usual_std(mean: tuple[float, ...], backbone: str, stem: str) -> tuple[float, ...]:
    """Returns the standard deviation that usually comes with a mean.

    The exporter divides the first convolution's weights by it. Any value gives the same network;
    the usual one gives weights of the size that they were trained at.
    """
    if backbone.startswith("resnet") and stem == "conv":
        return (1.0,)
    return _IMAGENET[1] if len(mean) == 3 else (127.5,)


def _assign(model: DeepLabV3Plus, weights: dict[str, Array], path: Path) -> None:
    """Copies weights into the model: every one, into every place."""
    first, followers = _followers(model)
    std = model.normalize.std.flatten().numpy()
    weights[f"{first}.weight"] = weights[f"{first}.weight"] * std[:, None, None]
    targets = dict(_targets(model, followers, weights))
    check_same(targets, weights, path)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                make_identity(module)
            elif isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.zero_()  # if a batch norm follows, it takes the offset
        for name, tensor in targets.items():
            tensor.copy_(torch.from_numpy(weights[name].copy()))


def _targets(
    model: DeepLabV3Plus, followers: dict[str, str], weights: dict[str, Array]
) -> Iterator[tuple[str, Tensor]]:
    """Yields each weight's name in the file with the tensor it belongs to."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            yield f"{path}.weight", module.weight
            follower = followers.get(path)
            if follower is not None and f"{follower}.scale" not in weights:
                yield f"{path}.bias", model.get_parameter(f"{follower}.bias")
            elif module.bias is not None:
                yield f"{path}.bias", module.bias
        elif isinstance(module, nn.BatchNorm2d) and f"{path}.scale" in weights:
            yield f"{path}.scale", module.weight  # the exporter could not fold this one
            yield f"{path}.offset", module.bias


def _followers(model: DeepLabV3Plus) -> tuple[str, dict[str, str]]:
    """Returns the first convolution, and the batch norm that reads each convolution's output."""
    outputs: dict[str, Tensor] = {}
    followers: dict[str, str] = {}

    def look(path: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            outputs[path] = output
        else:
            followers.update({conv: path for conv, made in outputs.items() if made is inputs[0]})

    walk_shapes(model, (33, 33), look)
    return next(iter(outputs)), followers


def _check(model: DeepLabV3Plus, header: Header, path: Path) -> None:
    """Compares the network with the file it was read from, on one made-up picture."""
    height, width = header.size if all(header.size) else _CHECKED_SIZE
    shape = (height, width, model.architecture.in_channels)
    noise = model.bands.made_up(np.random.default_rng(0).integers(0, 256, shape).astype(float))
    engine = ExportedEngine(path, keep_compiled=False)
    expected, found = engine.coarse_logits(noise), torch_logits(model, noise)
    if found.shape != expected.shape:
        raise _unreadable(path, f"logits of shape {found.shape} instead of {expected.shape}")
    by = difference(expected, found)
    if not by < _TOLERANCE:  # NaN differs too
        raise _unreadable(
            path, f"its logits differ by {by:.1e} standard deviations once it is built"
        )


def _unreadable(path: Path, why: str) -> AtrousError:
    return DataError(
        "E-MODEL-READ-BACK",
        f"the network cannot be read back from this exported file: {why}",
        where=path,
        fix="name the .safetensors file or the run folder it was exported from, or export it again",
    )
