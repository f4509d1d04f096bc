"""Maps the authors' TensorFlow variables to the parameters of our networks.

Names and layouts are those of `tensorflow/models`, research/deeplab (Apache-2.0).
"""

import logging
import re
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atrous.layers import ConvBN
from atrous.model import Model
from atrous.weights.differences import check_same

logger = logging.getLogger(__name__)

Variables = Mapping[str, NDArray[np.float32]]

ROOTS = {
    "xception41": "xception_41",
    "xception65": "xception_65",
    "xception71": "xception_71",
    "resnet50": "resnet_v1_50",
    "resnet101": "resnet_v1_101",
    "mobilenet_v2": "MobilenetV2",
    "mobilenet_v3_large": "MobilenetV3",
    "mobilenet_v3_small": "MobilenetV3",
}

# Scopes of the segmentation network. An unused variable in one of them means another network.
_NETWORK = re.compile(
    r"^(xception_\d+|resnet_v1_\d+|MobilenetV[23]|image_pooling|aspp\d|concat_projection|decoder|"
    r"logits|meta_architecture)"
)

# From our module paths to the authors' scopes. The first match counts.
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
    (r"encoder\.backbone\.last", r"{root}/Conv_1"),
    (r"encoder\.backbone\.units\.0\.(.+)", r"{root}/expanded_conv/\1"),
    (r"encoder\.backbone\.units\.(\d+)\.(.+)", r"{root}/expanded_conv_\1/\2"),
    (r"encoder\.aspp\.image_pooling", r"image_pooling"),
    (r"encoder\.aspp\.pointwise", r"aspp0"),
    (r"encoder\.aspp\.atrous\.(\d)\.(.+)", r"aspp<\1>_\2"),
    (r"encoder\.aspp\.atrous\.(\d)", r"aspp<\1>"),
    (r"encoder\.aspp\.project", r"concat_projection"),
    (r"encoder\.aspp\.branches\.(\d)\.(\w+)", r"meta_architecture/branch\1_\2"),
    (r"encoder\.aspp\.merge", r"meta_architecture/concat_projection"),
    (r"encoder\.aspp\.gate", r"image_pooling"),
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

    In `_SCOPES`, ``<n>`` is our number plus one, and ``[n]`` is the suffix of a decoder stage:
    empty for the first stage, ``_n`` for later ones.
    """
    for pattern, template in _SCOPES:
        match = re.fullmatch(pattern, path)
        if match:
            scope = match.expand(template.replace("{root}", root).replace("{stem}", stem))
            scope = re.sub(r"<(\d+)>", lambda m: str(int(m[1]) + 1), scope)
            scope = re.sub(r"\[(\d+)\]", lambda m: f"_{m[1]}" if m[1] != "0" else "", scope)
            scope = scope.replace("squeeze_excite.reduce", "squeeze_excite.Conv")
            scope = scope.replace("squeeze_excite.expand", "squeeze_excite.Conv_1")
            return re.sub(r"separable(\d)\.", r"separable_conv\1_", scope).replace(".", "/")
    raise AssertionError(path)


def assign(model: Model, variables: Variables, where: object = "", *, part: str = "") -> list[str]:
    """Copies variables into the model. Every variable needs a parameter, and the reverse.

    Args:
        model: The network.
        variables: The variables by the authors' names.
        where: Name of their source, for errors.
        part: Path of the only module to fill, such as ``encoder.backbone``; empty: the whole model.

    Returns:
        The names of variables outside the network's scopes, which are left out.

    Raises:
        AtrousError: Missing, unused or misshapen variables, with a list.
    """
    modules = {n: m for n, m in model.named_modules() if not part or n.startswith(f"{part}.")}
    targets = dict(_targets(model, modules, variables.keys()))
    strangers = sorted(n for n in variables.keys() - targets.keys() if not _NETWORK.match(n))
    values = {n: _in_torch_layout(n, v) for n, v in variables.items() if n not in strangers}
    check_same(targets, values, where)
    with torch.no_grad():
        for name, tensor in targets.items():
            tensor.copy_(torch.from_numpy(values[name]))
        for path, module in modules.items():
            if isinstance(module, ConvBN) and f"{_scope(model, path)}/biases" in targets:
                make_identity(module.bn)
    if strangers:
        logger.warning("unknown variables left out: %s", ", ".join(strangers))
    return strangers


def _scope(model: Model, path: str) -> str:
    stem = "conv1_" if model.architecture.stem == "beta" else "conv"  # conv1_1.., or lone conv1
    return scope_of(path, root=ROOTS[model.architecture.backbone], stem=stem)


def _targets(
    model: Model, modules: Mapping[str, nn.Module], names: Collection[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yields each tensor of some modules with the name of its variable.

    A convolution with biases among the given names has its batch norm folded into it.
    """
    plain = {path for path, module in modules.items() if isinstance(module, nn.Conv2d)}
    for path, module in modules.items():
        if isinstance(module, ConvBN):
            plain.discard(f"{path}.conv")
            scope, bn = _scope(model, path), module.bn
            kind = "depthwise_weights" if module.conv.groups > 1 else "weights"
            yield f"{scope}/{kind}", module.conv.weight
            if f"{scope}/biases" in names:
                yield f"{scope}/biases", bn.bias
                continue
            assert bn.running_mean is not None
            assert bn.running_var is not None
            yield f"{scope}/BatchNorm/gamma", bn.weight
            yield f"{scope}/BatchNorm/beta", bn.bias
            yield f"{scope}/BatchNorm/moving_mean", bn.running_mean
            yield f"{scope}/BatchNorm/moving_variance", bn.running_var
    for path in sorted(plain):
        conv = model.get_submodule(path)
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        yield f"{_scope(model, path)}/weights", conv.weight
        yield f"{_scope(model, path)}/biases", conv.bias


def _in_torch_layout(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turns [kh, kw, in, out] into [out, in, kh, kw]; depthwise [kh, kw, channels, 1] too."""
    if array.ndim == 4:
        depthwise = name.endswith("depthwise_weights")
        array = array.transpose(2, 3, 0, 1) if depthwise else array.transpose(3, 2, 0, 1)
    return np.ascontiguousarray(array)


def make_identity(bn: nn.BatchNorm2d) -> None:
    """Makes a batch norm the identity plus its offset; `restore_folded` recognises it by that."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    bn.weight.fill_(1)
    bn.running_mean.zero_()
    bn.running_var.fill_(1 - bn.eps)
