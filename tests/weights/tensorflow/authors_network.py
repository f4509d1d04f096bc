"""The authors' networks as plain functions of their variables: a second implementation.

Written from a description of their code, with none of the package's: no schedules, layers or
names in common. Its outputs equal those of the authors' code on the reference cases, so that it
stands in for it where there is none: other strides, heads, decoders and sizes.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from tests.reference import variable_value


class Case(NamedTuple):
    variant: str
    output_stride: int
    size: tuple[int, int]  # (height, width)
    rates: tuple[int, ...] = ()
    decoder: tuple[int, ...] = ()
    multi_grid: tuple[int, ...] = (1, 1, 1)
    separable: bool = True
    decoder_separable: bool = True
    image_pooling: bool = True
    depth_multiplier: float = 1.0
    classes: int = 21


class Network:
    """Makes variables when they are asked for, and computes with them in NCHW."""

    def __init__(self, value=variable_value):
        self.value = value
        self.variables = {}
        self.ends = {}

    def variable(self, name, *shape):
        if name not in self.variables:
            self.variables[name] = self.value(name, list(shape))
        assert self.variables[name].shape == shape
        return torch.from_numpy(self.variables[name]).double()

    def batch_norm(self, x, scope, epsilon):
        gamma, beta, mean, variance = (
            self.variable(f"{scope}/BatchNorm/{leaf}", x.shape[1])
            for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return F.batch_norm(x, mean, variance, gamma, beta, False, 0, epsilon)

    def conv(
        self, x, scope, out, k=1, stride=1, rate=1, act=F.relu, epsilon=1e-5, same=False, bias=False
    ):  # fmt: skip
        kernel = self.variable(f"{scope}/weights", k, k, x.shape[1], out).permute(3, 2, 0, 1)
        x = F.conv2d(padded(x, k, stride, rate, same), kernel, stride=stride, dilation=rate)
        if bias:
            x = x + self.variable(f"{scope}/biases", out)[:, None, None]
        else:
            x = self.batch_norm(x, scope, epsilon)
        return act(x) if act else x

    def depthwise(self, x, scope, k=3, stride=1, rate=1, act=F.relu, epsilon=1e-5, same=False):
        channels = x.shape[1]
        kernel = self.variable(f"{scope}/depthwise_weights", k, k, channels, 1).permute(2, 3, 0, 1)
        x = padded(x, k, stride, rate, same)
        x = F.conv2d(x, kernel, stride=stride, dilation=rate, groups=channels)
        x = self.batch_norm(x, scope, epsilon)
        return act(x) if act else x

    def separable(self, x, scope, out, rate=1):
        return self.conv(
            self.depthwise(x, f"{scope}_depthwise", rate=rate), f"{scope}_pointwise", out
        )


def padded(x, k, stride, rate, same, value=0.0):
    """Pads as SAME does, or by a fixed amount where a stride is (the authors' fixed_padding)."""
    span = k + (k - 1) * (rate - 1)
    sides = []
    for n in (x.shape[3], x.shape[2]):
        total = max((-(-n // stride) - 1) * stride + span - n, 0)
        if stride > 1 and not same:
            total = span - 1
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides, value=value)


def schedule(strides, output_stride):
    """Gives (stride, rate) of each unit: rates grow after the strides that are left out."""
    current, rate, units = 1, 1, []
    for stride in strides:
        if current == output_stride:
            units.append((1, rate))
            rate *= stride
        else:
            units.append((stride, 1))
            current *= stride
    return units


def xception(net, x, variant, output_stride):
    root, eps = f"xception_{variant}", 1e-3
    x = net.conv(x, f"{root}/entry_flow/conv1_1", 32, 3, 2, epsilon=eps)
    x = net.conv(x, f"{root}/entry_flow/conv1_2", 64, 3, epsilon=eps)
    entry = [(128, 2), (256, 2), (728, 2)]
    if variant == 71:
        entry = [(128, 2), (256, 1), (256, 2), (728, 1), (728, 2)]
    blocks = [(f"entry_flow/block{i + 1}/unit_1", [c] * 3, s) for i, (c, s) in enumerate(entry)]
    middle = 8 if variant == 41 else 16
    blocks += [(f"middle_flow/block1/unit_{i + 1}", [728] * 3, 1) for i in range(middle)]
    blocks += [("exit_flow/block1/unit_1", [728, 1024, 1024], 2)]
    blocks += [("exit_flow/block2/unit_1", [1536, 1536, 2048], 1)]
    units = schedule([block[2] for block in blocks], output_stride // 2)
    for (name, channels, _), (stride, rate) in zip(blocks, units, strict=True):
        scope, y = f"{root}/{name}/xception_module", x
        act = F.relu if "exit_flow/block2" in name else None
        for i, out in enumerate(channels):
            y = y if act else F.relu(y)
            here = f"{scope}/separable_conv{i + 1}"
            step = stride if i == 2 else 1
            y = net.depthwise(y, f"{here}_depthwise", 3, step, rate, act, eps)
            y = net.conv(y, f"{here}_pointwise", out, act=act, epsilon=eps)
            net.ends[f"{name}/{i + 1}"] = y
        if "middle" in name:
            x = x + y
        elif act:
            x = y
        else:
            short = net.conv(x, f"{scope}/shortcut", channels[2], 1, stride, act=None, epsilon=eps)
            x = y + short
    four, eight = (3, 5) if variant == 71 else (2, 3)
    return x, {
        4: net.ends[f"entry_flow/block{four}/unit_1/2"],
        8: net.ends[f"entry_flow/block{eight}/unit_1/2"],
        16: net.ends["exit_flow/block1/unit_1/2"],
    }


def resnet(net, x, depth, beta, output_stride, multi_grid):
    root = f"resnet_v1_{depth}"
    if beta:
        x = net.conv(x, f"{root}/conv1_1", 64, 3, 2)
        x = net.conv(x, f"{root}/conv1_2", 64, 3)
        x = net.conv(x, f"{root}/conv1_3", 128, 3)
    else:
        x = net.conv(x, f"{root}/conv1", 64, 7, 2)
    x = F.max_pool2d(padded(x, 3, 2, 1, True, -1e30), 3, 2)
    third = 23 if depth == 101 else 6
    blocks = ((1, 64, 3, 2), (2, 128, 4, 2), (3, 256, third, 2), (4, 512, 3, 1))
    units = [
        (block, unit, base, stride if unit == number else 1)
        for block, base, number, stride in blocks
        for unit in range(1, number + 1)
    ]
    rates = schedule([unit[3] for unit in units], output_stride // 4)
    for (block, unit, base, _), (stride, rate) in zip(units, rates, strict=True):
        scope = f"{root}/block{block}/unit_{unit}/bottleneck_v1"
        rate *= multi_grid[unit - 1] if block == 4 else 1
        short = x[:, :, ::stride, ::stride]
        if x.shape[1] != 4 * base:
            short = net.conv(x, f"{scope}/shortcut", 4 * base, 1, stride, act=None)
        y = net.conv(x, f"{scope}/conv1", base)
        y = net.conv(y, f"{scope}/conv2", base, 3, stride, rate)
        net.ends[block, unit] = y = net.conv(y, f"{scope}/conv3", 4 * base, act=None)
        x = F.relu(short + y)
    return x, {4: net.ends[1, 2], 8: net.ends[2, 3], 16: net.ends[3, third - 1]}


def multiple_of_8(value):
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


V2 = [
    (16, 1, 1), (24, 2, 6), (24, 1, 6), (32, 2, 6), (32, 1, 6), (32, 1, 6), (64, 2, 6), (64, 1, 6),
    (64, 1, 6), (64, 1, 6), (96, 1, 6), (96, 1, 6), (96, 1, 6), (160, 2, 6), (160, 1, 6),
    (160, 1, 6), (320, 1, 6),
]  # fmt: skip


def mobilenet_v2(net, x, multiplier, output_stride):
    def width(channels):
        return channels if multiplier == 1 else int(channels * multiplier + 0.5)

    eps = 1e-3
    units = schedule([2, *(row[1] for row in V2)], output_stride)
    x = net.conv(x, "MobilenetV2/Conv", width(32), 3, 2, act=F.relu6, epsilon=eps, same=True)
    for i, ((channels, _, expansion), (stride, rate)) in enumerate(zip(V2, units[1:], strict=True)):
        scope, y = "MobilenetV2/expanded_conv" + (f"_{i}" if i else ""), x
        if expansion > 1:
            inside = multiple_of_8(expansion * x.shape[1])
            y = net.conv(y, f"{scope}/expand", inside, act=F.relu6, epsilon=eps)
        y = net.depthwise(y, f"{scope}/depthwise", 3, stride, rate, F.relu6, eps, True)
        net.ends[i + 2] = y
        y = net.conv(y, f"{scope}/project", width(channels), act=None, epsilon=eps)
        x = x + y if stride == 1 and x.shape == y.shape else y
    return x, {4: net.ends[4], 8: net.ends[7], 16: net.ends[14]}


def hard_swish(x):
    return x * F.relu6(x + 3) / 6


R, H = F.relu, hard_swish
V3 = {  # kernel, expanded, channels, stride, squeeze, activation
    "large": [
        (3, 16, 16, 1, 0, R), (3, 64, 24, 2, 0, R), (3, 72, 24, 1, 0, R), (5, 72, 40, 2, 1, R),
        (5, 120, 40, 1, 1, R), (5, 120, 40, 1, 1, R), (3, 240, 80, 2, 0, H), (3, 200, 80, 1, 0, H),
        (3, 184, 80, 1, 0, H), (3, 184, 80, 1, 0, H), (3, 480, 112, 1, 1, H),
        (3, 672, 112, 1, 1, H), (5, 336, 80, 2, 1, H), (5, 480, 80, 1, 1, H), (5, 480, 80, 1, 1, H),
    ],
    "small": [
        (3, 16, 16, 2, 1, R), (3, 72, 24, 2, 0, R), (3, 88, 24, 1, 0, R), (5, 96, 40, 2, 1, H),
        (5, 240, 40, 1, 1, H), (5, 240, 40, 1, 1, H), (5, 120, 48, 1, 1, H), (5, 144, 48, 1, 1, H),
        (5, 144, 48, 2, 1, H), (5, 288, 48, 1, 1, H), (5, 288, 48, 1, 1, H),
    ],
}  # fmt: skip
V3_LOW = {"large": {4: 4, 8: 7, 16: 13}, "small": {4: 2, 8: 4, 16: 9}}


def mobilenet_v3(net, x, size, output_stride):
    eps, rows = 1e-3, V3[size]
    units = schedule([2, *(row[3] for row in rows)], output_stride)
    x = net.conv(x, "MobilenetV3/Conv", 16, 3, 2, act=H, epsilon=eps, same=True)
    for i, (row, (stride, rate)) in enumerate(zip(rows, units[1:], strict=True)):
        k, inside, channels, _, squeeze, act = row
        scope, y = "MobilenetV3/expanded_conv" + (f"_{i}" if i else ""), x
        if i:
            y = net.conv(y, f"{scope}/expand", inside, act=act, epsilon=eps)
        y = net.depthwise(y, f"{scope}/depthwise", k, stride, rate, act, eps, True)
        net.ends[i + 2] = y
        if squeeze:
            gate = y.mean((2, 3), keepdim=True)
            reduced = multiple_of_8(inside / 4)
            gate = net.conv(gate, f"{scope}/squeeze_excite/Conv", reduced, bias=True)
            gate = net.conv(gate, f"{scope}/squeeze_excite/Conv_1", inside, act=None, bias=True)
            y = y * F.relu6(gate + 3) * 0.16667  # no sixth, unlike hard_swish
        y = net.conv(y, f"{scope}/project", channels, act=None, epsilon=eps)
        x = x + y if stride == 1 and x.shape == y.shape else y
    x = net.conv(x, "MobilenetV3/Conv_1", 480 if size == "large" else 288, act=H, epsilon=eps)
    return x, {stride: net.ends[layer] for stride, layer in V3_LOW[size].items()}


def backbone(net, x, case):
    kind = case.variant.split("_")
    if kind[0] == "xception":
        return xception(net, x, int(kind[1]), case.output_stride)
    if kind[0] == "resnet":
        beta = kind[-1] == "beta"
        return resnet(net, x, int(kind[2]), beta, case.output_stride, case.multi_grid)
    if kind[1] == "v2":
        return mobilenet_v2(net, x, case.depth_multiplier, case.output_stride)
    return mobilenet_v3(net, x, kind[2], case.output_stride)


def aspp(net, features, case):
    branches = []
    if case.image_pooling:
        pooled = net.conv(features.mean((2, 3), keepdim=True), "image_pooling", 256)
        branches.append(pooled.expand(-1, -1, *features.shape[2:]))
    branches.append(net.conv(features, "aspp0", 256))
    for i, rate in enumerate(case.rates, start=1):
        if case.separable:
            branches.append(net.separable(features, f"aspp{i}", 256, rate))
        else:
            branches.append(net.conv(features, f"aspp{i}", 256, 3, 1, rate))
    return net.conv(torch.cat(branches, 1), "concat_projection", 256)


def decode(net, x, low, case):
    for stage, stride in enumerate(case.decoder):
        suffix = f"_{stage}" if stage else ""
        size = tuple((side - 1) // stride + 1 for side in case.size)
        reduced = net.conv(low[stride], f"decoder/feature_projection0{suffix}", 48)
        x = torch.cat([resized(x, size), resized(reduced, size)], 1)
        for i in range(2):
            if case.decoder_separable:
                x = net.separable(x, f"decoder/decoder_conv{i}{suffix}", 256)
            else:
                name = f"decoder_conv0{suffix}"
                x = net.conv(x, f"decoder/{name}/{name}_{i + 1}", 256, 3)
    return x


def resized(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


@torch.inference_mode()
def run(case, image, value=variable_value):
    """Returns logits (1, h, w, K) in float64, labels (1, H, W) and variables for (1, H, W, 3)."""
    net = Network(value)
    x = torch.from_numpy(image).permute(0, 3, 1, 2).double()
    if case.variant in ("resnet_v1_50", "resnet_v1_101"):
        x = x - torch.tensor([123.15, 115.90, 103.06])[:, None, None]
    else:
        x = x / 127.5 - 1
    features, low = backbone(net, x, case)
    x = decode(net, aspp(net, features, case), low, case)
    logits = net.conv(x, "logits/semantic", case.classes, act=None, bias=True)
    labels = resized(logits, case.size).argmax(1)
    return logits.permute(0, 2, 3, 1).numpy(), labels.numpy(), net.variables


def picture(size, seed=1):
    """Draws blocks of 8 x 8 pixels: (1, H, W, 3) uint8."""
    height, width = size
    blocks = (1, height // 8 + 1, width // 8 + 1, 3)
    image = np.random.default_rng(seed).integers(0, 256, blocks, np.uint8)
    return np.ascontiguousarray(image.repeat(8, 1).repeat(8, 2)[:, :height, :width])
