"""Infers the network that the authors' TensorFlow variables belong to.

Names and layouts are those of `tensorflow/models`, research/deeplab (Apache-2.0).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.architecture import Architecture, Head
from atrous.encoder.mobilenet_v2 import TABLE_2, make_divisible
from atrous.errors import AtrousError, DataError
from atrous.weights.tensorflow.names import ROOTS, Variables

_BACKBONES = {root: backbone for backbone, root in ROOTS.items()}  # MobilenetV3: see `infer`
_LAST_UNIT_OF_LARGE = "MobilenetV3/expanded_conv_14/project/weights"


def joined_logits(variables: Variables) -> dict[str, NDArray[np.float32]]:
    """Joins the two halves of LR-ASPP's classifier into one, ``logits/semantic``.

    LR-ASPP sums a 1x1 convolution of the encoder's features and a 1x1 convolution of low-level
    features. That equals one 1x1 convolution of both concatenated.
    """
    high, low = "decoder/decoder_conv0", "decoder/feature_projection0"
    halves = [f"{scope}/{leaf}" for scope in (high, low) for leaf in ("weights", "biases")]
    joined = dict(variables)
    if "logits/semantic/weights" in variables or not all(name in variables for name in halves):
        return joined
    weights, biases, low_weights, low_biases = (joined.pop(name) for name in halves)
    joined["logits/semantic/weights"] = np.concatenate([weights, low_weights], axis=2)
    joined["logits/semantic/biases"] = biases + low_biases
    return joined


def infer(
    variables: Variables,
    *,
    output_stride: int,
    atrous_rates: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    one_sided_padding: int = 0,
) -> Architecture:
    """Infers the network from the names and shapes of its variables.

    Args:
        variables: The network's variables by name.
        output_stride: Output stride; the variables do not tell.
        atrous_rates: As in `Architecture`, likewise.
        multi_grid: As in `Architecture`, likewise; None: (1, 1, 1), the default of the authors'
            code.
        mean: As in `Architecture`.
        std: As in `Architecture`.
        one_sided_padding: As in `Architecture`.

    Raises:
        AtrousError: No known backbone, or no segmentation head.
    """
    scope = _backbone_scope(variables)
    backbone = _BACKBONES[scope]
    if scope == "MobilenetV3":
        large = _LAST_UNIT_OF_LARGE in variables
        backbone = "mobilenet_v3_large" if large else "mobilenet_v3_small"
    if "logits/semantic/weights" not in variables:
        raise DataError(
            "E-WEIGHTS-HEAD",
            f"{scope} without a segmentation head (no logits/semantic)",
            fix="this is a classifier, not a DeepLab model: name it as pretrained= in create_model",
        )
    head = _head(variables)
    num_branches = sum(
        f"aspp{i}/weights" in variables or f"aspp{i}_depthwise/depthwise_weights" in variables
        for i in range(1, 10)
    )
    if atrous_rates is None and num_branches == 0 and head == "aspp":
        atrous_rates = ()
    if head == "aspp" and num_branches != (3 if atrous_rates is None else len(atrous_rates)):
        given = "none" if atrous_rates is None else str(len(atrous_rates))
        raise AtrousError(
            "E-WEIGHTS-RATES",
            f"the variables have {num_branches} atrous branches, atrous_rates has {given}",
            fix=f"pass atrous_rates with {num_branches} rates",
        )
    stem_conv = next(
        variables[f"{scope}/{name}/weights"]
        for name in ("conv1_1", "conv1", "Conv", "entry_flow/conv1_1")
        if f"{scope}/{name}/weights" in variables
    )
    return Architecture(
        backbone=backbone,
        num_classes=variables["logits/semantic/weights"].shape[3],
        output_stride=output_stride,
        head=head,
        separable="aspp1/weights" not in variables,
        image_pooling="image_pooling/weights" in variables or head != "aspp",
        atrous_rates=None if atrous_rates is None else tuple(atrous_rates),
        multi_grid=tuple(multi_grid or ())
        or (None if backbone.startswith("mobilenet") else (1, 1, 1)),
        depth_multiplier=_depth_multiplier(variables) if backbone == "mobilenet_v2" else 1.0,
        in_channels=stem_conv.shape[2],
        stem="plain" if f"{scope}/conv1/weights" in variables else "beta",
        mean=mean,
        std=std,
        one_sided_padding=one_sided_padding,
        **(_infer_decoder(variables, backbone) if head != "lr_aspp" else _LR_ASPP_DECODER),
    )


def _depth_multiplier(variables: Variables) -> float:
    """Returns the shortest decimal multiplier that rounds to the widths of this MobileNetV2."""
    rows = [row for row in TABLE_2 for _ in range(row.units)]
    widths = [
        ("expanded_conv" + (f"_{i}" if i else ""), rows[i].channels) for i in range(len(rows))
    ]
    names = {"MobilenetV2/Conv/weights": 32}
    names |= {f"MobilenetV2/{scope}/project/weights": whole for scope, whole in widths}
    found = {name: variables[name].shape[3] for name in names if name in variables}
    low = max((width - 0.5) / names[name] for name, width in found.items())
    for digits in range(1, 7):
        multiplier = math.ceil(low * 10**digits) / 10**digits
        divisor = 8 if multiplier == 1.0 else 1
        if all(make_divisible(names[n] * multiplier, divisor) == w for n, w in found.items()):
            return multiplier
    # No multiplier fits: the error about shapes will say where.
    return found["MobilenetV2/Conv/weights"] / 32


# LR-ASPP's decoder: low-level features of stride 8, not reduced, and the classifier alone.
_LR_ASPP_DECODER: dict[str, Any] = {
    "decoder_strides": (8,),
    "reduced_channels": None,
    "refine": (),
}


def _head(variables: Variables) -> Head:
    if any(name.startswith("meta_architecture/") for name in variables):
        return "dense_prediction_cell"
    return "aspp" if "concat_projection/weights" in variables else "lr_aspp"


def _backbone_scope(variables: Variables) -> str:
    found = {name.split("/")[0] for name in variables} & set(_BACKBONES)
    if len(found) != 1:
        scopes = sorted({name.split("/")[0] for name in variables})
        raise DataError(
            "E-WEIGHTS-BACKBONE",
            f"expected one known backbone, found {sorted(found) or 'none'}"
            f" among the scopes {', '.join(scopes[:10]) or '(no variables)'}",
            fix=f"known: {', '.join(_BACKBONES)}",
        )
    return found.pop()


# The number of channels tells the stride of a decoder's low-level features.
_LOW_LEVEL_STRIDES = {
    "xception": {256: 4, 728: 8, 1024: 16},
    "resnet": {256: 4, 512: 8, 1024: 16},
    "mobilenet_v3_large": {72: 4, 120: 8, 672: 16},
    "mobilenet_v3_small": {16: 4, 88: 8, 144: 16},
}


def _infer_decoder(variables: Variables, backbone: str) -> dict[str, Any]:
    strides: list[int] = []
    refine: list[tuple[int, int]] = []
    separable, reduced = True, 48
    for suffix in ("", "_1", "_2"):
        projection = variables.get(f"decoder/feature_projection0{suffix}/weights")
        if projection is None:
            break
        reduced = projection.shape[3]
        strides.append(_low_level_stride(variables, backbone, projection.shape[2]))
        scope = f"decoder/decoder_conv0{suffix}"
        separable = f"{scope}/{scope.split('/')[1]}_1/weights" not in variables
        refine = []
        for j in range(10):
            name = (
                f"decoder/decoder_conv{j}{suffix}_pointwise"
                if separable
                else f"{scope}/decoder_conv0{suffix}_{j + 1}"
            )
            weights = variables.get(f"{name}/weights")
            if weights is None:
                break
            refine.append((3 if separable else weights.shape[0], weights.shape[3]))
    if not strides:
        return {"decoder": False}
    return {
        "decoder_strides": tuple(strides),
        "reduced_channels": reduced,
        "refine": tuple(refine),
        "decoder_separable": separable,
    }


def _low_level_stride(variables: Variables, backbone: str, channels: int) -> int:
    if backbone == "mobilenet_v2":
        units = {2: 4, 5: 8, 12: 16}
        scope = "MobilenetV2/expanded_conv_{}/depthwise/depthwise_weights"
        by_channels = {variables[scope.format(u)].shape[2]: stride for u, stride in units.items()}
    else:
        by_channels = _LOW_LEVEL_STRIDES[backbone.rstrip("0123456789")]
    if channels not in by_channels:
        raise DataError(
            "E-WEIGHTS-DECODER",
            f"a decoder on features of {channels} channels, which {backbone} does not offer",
            where="decoder/feature_projection0",
        )
    return by_channels[channels]
