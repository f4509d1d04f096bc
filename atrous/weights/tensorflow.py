"""The authors' TensorFlow variables: which network they are, and where each value goes.

Names and layouts are those of `tensorflow/models`, research/deeplab (Apache-2.0).
"""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atrous.errors import AtrousError, ExitCode
from atrous.layers import ConvBN
from atrous.model import Architecture, DeepLabV3Plus

logger = logging.getLogger(__name__)

Variables = Mapping[str, NDArray[np.float32]]

# What training leaves in a checkpoint beside the weights.
_BESIDE_WEIGHTS = re.compile(
    r"(^|/)(global_step|Momentum|ExponentialMovingAverage|Adam(_1)?|RMSProp(_1)?|beta[12]_power)$"
)
_IMAGENET_CLASSIFIER = re.compile(r"^(xception_\d+|resnet_v1_\d+)/logits/|^MobilenetV2/Logits/")
# Scopes of the segmentation network: a variable left over in one of them means another network.
_NETWORK = re.compile(
    r"^(xception_\d+|resnet_v1_\d+|MobilenetV[23]|image_pooling|aspp\d|concat_projection|decoder|"
    r"logits|meta_architecture)"
)

_BACKBONES = {
    "xception_41": "xception41",
    "xception_65": "xception65",
    "xception_71": "xception71",
    "resnet_v1_50": "resnet50",
    "resnet_v1_101": "resnet101",
    "MobilenetV2": "mobilenet_v2",
}


def sort_out(source: Mapping[str, Any]) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """Separates the network's variables from what else a checkpoint holds.

    Returns:
        The variables as float32, and a note for each kind of thing left out.

    Raises:
        AtrousError: A variable holds NaN or infinity.
    """
    kept, left_out = {}, []
    for name, value in source.items():
        if _BESIDE_WEIGHTS.search(name) or _IMAGENET_CLASSIFIER.match(name):
            left_out.append(name)
            continue
        array = np.asarray(value, dtype=np.float32)
        if not np.isfinite(array).all():
            raise AtrousError(
                "E-WEIGHTS-NAN",
                "the variable holds NaN or infinity",
                where=name,
                fix="the training that wrote it diverged; take an earlier checkpoint",
                exit_code=ExitCode.DATA,
            )
        kept[name] = array
    notes = [f"left out: {name}" for name in sorted(left_out)]
    if left_out:
        logger.info("left out %d variables that are not weights of the network", len(left_out))
    return kept, notes


def infer(
    variables: Variables,
    *,
    output_stride: int,
    atrous_rates: tuple[int, ...] | None = None,
    multi_grid: tuple[int, ...] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    one_sided_padding: int = 0,
) -> Architecture:
    """Reads from names and shapes what network the variables belong to.

    Raises:
        AtrousError: No known backbone, or no segmentation head.
    """
    scope = _backbone_scope(variables)
    backbone = _BACKBONES[scope]
    if "logits/semantic/weights" not in variables:
        raise AtrousError(
            "E-WEIGHTS-HEAD",
            f"{scope} without a segmentation head (no logits/semantic)",
            fix="this looks like a classification checkpoint, not a DeepLab model",
            exit_code=ExitCode.DATA,
        )
    num_branches = sum(
        f"aspp{i}/weights" in variables or f"aspp{i}_depthwise/depthwise_weights" in variables
        for i in range(1, 10)
    )
    if atrous_rates is None and num_branches != 3:
        atrous_rates = () if num_branches == 0 else None
    if num_branches != (3 if atrous_rates is None else len(atrous_rates)):
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
        separable="aspp1/weights" not in variables,
        image_pooling="image_pooling/weights" in variables,
        atrous_rates=atrous_rates,
        multi_grid=multi_grid or ((1, 1, 1) if backbone != "mobilenet_v2" else None),
        depth_multiplier=stem_conv.shape[3] / 32 if backbone == "mobilenet_v2" else 1.0,
        in_channels=stem_conv.shape[2],
        stem="plain" if f"{scope}/conv1/weights" in variables else "beta",
        mean=mean,
        std=std,
        one_sided_padding=one_sided_padding,
        **_infer_decoder(variables, backbone),
    )


def _backbone_scope(variables: Variables) -> str:
    found = {name.split("/")[0] for name in variables} & set(_BACKBONES)
    if len(found) != 1:
        scopes = sorted({name.split("/")[0] for name in variables})
        raise AtrousError(
            "E-WEIGHTS-BACKBONE",
            f"expected one known backbone, found {sorted(found) or 'none'}"
            f" among the scopes {', '.join(scopes[:10]) or '(no variables)'}",
            fix=f"known: {', '.join(_BACKBONES)}",
            exit_code=ExitCode.DATA,
        )
    return found.pop()


# Which low-level features a decoder uses shows in their number of channels.
_LOW_LEVEL_STRIDES = {
    "xception": {256: 4, 728: 8, 1024: 16},
    "resnet": {256: 4, 512: 8, 1024: 16},
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
        units = {3: 4, 6: 8, 13: 16}  # expanded_conv_N holds layer N + 2
        by_channels = {
            variables[f"MobilenetV2/expanded_conv_{unit - 1}/depthwise/depthwise_weights"].shape[
                2
            ]: s
            for unit, s in units.items()
        }
    else:
        by_channels = _LOW_LEVEL_STRIDES[backbone.rstrip("0123456789")]
    if channels not in by_channels:
        raise AtrousError(
            "E-WEIGHTS-DECODER",
            f"a decoder on features of {channels} channels, which {backbone} does not offer",
            where="decoder/feature_projection0",
            exit_code=ExitCode.DATA,
        )
    return by_channels[channels]


# From our module paths to the authors' scopes; the first pattern that matches wins.
_SCOPES = [
    (r"encoder\.backbone\.conv1_(\d)", r"{root}/entry_flow/conv1_\1"),
    (
        r"encoder\.backbone\.middle_flow\.(\d+)\.(.+)",
        r"{root}/middle_flow/block1/unit_<\1>/xception_module/\2",
    ),
    (
        r"encoder\.backbone\.(entry|exit)_flow\.(\d+)\.(.+)",
        r"{root}/\1_flow/block<\2>/unit_1/xception_module/\3",
    ),
    (r"encoder\.backbone\.stem\.(\d)", r"{root}/{stem}<\1>"),
    (
        r"encoder\.backbone\.blocks\.(\d)\.(\d+)\.(.+)",
        r"{root}/block<\1>/unit_<\2>/bottleneck_v1/\3",
    ),
    (r"encoder\.backbone\.conv", r"{root}/Conv"),
    (r"encoder\.backbone\.units\.0\.(.+)", r"{root}/expanded_conv/\1"),
    (r"encoder\.backbone\.units\.(\d+)\.(.+)", r"{root}/expanded_conv_\1/\2"),
    (r"encoder\.aspp\.image_pooling", r"image_pooling"),
    (r"encoder\.aspp\.pointwise", r"aspp0"),
    (r"encoder\.aspp\.atrous\.(\d)\.(.+)", r"aspp<\1>_\2"),
    (r"encoder\.aspp\.atrous\.(\d)", r"aspp<\1>"),
    (r"encoder\.aspp\.project", r"concat_projection"),
    (r"decoder\.stages\.(\d)\.reduce", r"decoder/feature_projection0[\1]"),
    (r"decoder\.stages\.(\d)\.refine\.(\d)\.(\w+)", r"decoder/decoder_conv\2[\1]_\3"),
    (
        r"decoder\.stages\.(\d)\.refine\.(\d)",
        r"decoder/decoder_conv0[\1]/decoder_conv0[\1]_<\2>",
    ),
    (r"decoder\.classifier", r"logits/semantic"),
]


def scope_of(path: str, *, root: str, stem: str) -> str:
    """Returns the authors' scope of one of our modules.

    In `_SCOPES`, ``<n>`` counts from one where we count from zero, and ``[n]`` is the suffix of
    a decoder stage: nothing for the first, ``_n`` for later ones.
    """
    for pattern, template in _SCOPES:
        match = re.fullmatch(pattern, path)
        if match:
            scope = match.expand(template.replace("{root}", root).replace("{stem}", stem))
            scope = re.sub(r"<(\d+)>", lambda m: str(int(m[1]) + 1), scope)
            scope = re.sub(r"\[(\d+)\]", lambda m: f"_{m[1]}" if m[1] != "0" else "", scope)
            return re.sub(r"separable(\d)\.", r"separable_conv\1_", scope).replace(".", "/")
    raise AssertionError(path)


def assign(model: DeepLabV3Plus, variables: Variables) -> None:
    """Copies variables into the model, every one of them and every parameter.

    Raises:
        AtrousError: Missing, left over or misshapen variables, all of them listed.
    """
    unused = dict(variables)
    problems: list[str] = []
    with torch.no_grad():
        for tensor, name, value in _pairs(model, unused):
            if value is None:
                problems.append(f"missing {name}")
            elif tensor.shape != value.shape:
                problems.append(
                    f"shape of {name}: {tuple(value.shape)}, expected {tuple(tensor.shape)}"
                )
            else:
                tensor.copy_(value)
    problems += [f"left over {name}" for name in sorted(unused) if _NETWORK.match(name)]
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise AtrousError(
            "E-WEIGHTS-MISMATCH",
            f"the variables are not those of this network: {'; '.join(problems[:10])}{more}",
            exit_code=ExitCode.DATA,
        )
    strangers = sorted(set(unused))
    if strangers:
        logger.warning("unknown variables left out: %s", ", ".join(strangers))
        model.provenance.notes += [f"unknown, left out: {name}" for name in strangers]


def _pairs(
    model: DeepLabV3Plus, unused: dict[str, NDArray[np.float32]]
) -> Iterator[tuple[Tensor, str, Tensor | None]]:
    """Yields each of the model's tensors with the variable that fills it, in PyTorch's layout."""
    a = model.architecture
    root = next(scope for scope, name in _BACKBONES.items() if name == a.backbone)
    stem = "conv1_" if a.stem == "beta" else "conv"  # conv1_1.., or the lone conv1

    def take(name: str) -> Tensor | None:
        array = unused.pop(name, None)
        if array is None:
            return None
        if array.ndim == 4:  # [kh, kw, in, out], depthwise [kh, kw, channels, 1]
            array = (
                array.transpose(2, 3, 0, 1) if "depthwise" in name else array.transpose(3, 2, 0, 1)
            )
        return torch.from_numpy(np.ascontiguousarray(array))

    for path, module in model.named_modules():
        if isinstance(module, ConvBN):
            scope = scope_of(path, root=root, stem=stem)
            kind = "depthwise_weights" if module.conv.groups > 1 else "weights"
            yield module.conv.weight, f"{scope}/{kind}", take(f"{scope}/{kind}")
            if f"{scope}/biases" in unused:
                _make_identity(module.bn)
                yield module.bn.bias, f"{scope}/biases", take(f"{scope}/biases")
                continue
            for tensor, leaf in (
                (module.bn.weight, "gamma"),
                (module.bn.bias, "beta"),
                (module.bn.running_mean, "moving_mean"),
                (module.bn.running_var, "moving_variance"),
            ):
                assert tensor is not None
                yield tensor, f"{scope}/BatchNorm/{leaf}", take(f"{scope}/BatchNorm/{leaf}")
    classifier = model.decoder.classifier
    assert classifier.bias is not None
    yield classifier.weight, "logits/semantic/weights", take("logits/semantic/weights")
    yield classifier.bias, "logits/semantic/biases", take("logits/semantic/biases")


def _make_identity(bn: nn.BatchNorm2d) -> None:
    """Makes a batch norm that was folded into its convolution pass values through."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    bn.weight.fill_(1)
    bn.running_mean.zero_()
    bn.running_var.fill_(1 - bn.eps)
