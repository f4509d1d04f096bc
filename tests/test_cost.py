import pytest
import torch
from torch import nn

from atrous.build import create_model
from atrous.cost import measure, multiply_adds, parameters
from atrous.layers import HEAD, AtrousSeparableConv, ConvBN

NO_HEAD = {"atrous_rates": (), "decoder": False}
# Parameters (millions, backbone in brackets) and true multiply-adds (billions) at stride 16 and 8
# for 513 x 513 and 21 classes: arithmetic made independently of this project.
SIZES = [
    ("xception41", {}, 28.11, 24.92, 40.01, 122.45),
    ("xception65", {}, 41.055, 37.867, 54.04, 176.85),
    ("xception71", {}, 43.478, 40.290, 66.07, 189.96),
    ("xception65", {"separable": False}, 54.71, 37.867, 86.68, 248.78),
    ("resnet50", {}, 26.82, 23.63, 44.54, 122.04),
    ("resnet101", {}, 45.81, 42.62, 65.17, 202.06),
    ("resnet101", {"separable": False, "decoder": False}, 58.164, 42.62, 76.05, 252.25),
    ("resnet101", {"separable": False}, 59.468, 42.62, 97.81, 273.99),
    ("mobilenet_v2", NO_HEAD, 2.114, 1.812, 2.74, 8.83),
    ("mobilenet_v2", {"separable": False, "decoder": False}, 4.524, 1.812, 5.36, 19.00),
    ("mobilenet_v2", {"atrous_rates": ()}, 2.271, 1.812, 5.41, 11.48),
    ("mobilenet_v2", {}, 2.726, 1.812, 5.90, 13.38),
    ("mobilenet_v2", {**NO_HEAD, "depth_multiplier": 0.5}, 0.697, 0.477, 0.87, 2.82),
]


def agrees(found: int, unit: float, expected: float) -> bool:
    """Whether a number rounds to the digits of the expectation."""
    digits = len(str(expected).split(".")[1])
    return round(found / unit, digits) == expected


@pytest.mark.parametrize(("backbone", "options", "total", "body", "at_16", "at_8"), SIZES)
def test_sizes_agree_to_the_digit(backbone, options, total, body, at_16, at_8):
    with torch.device("meta"):
        model = create_model(backbone, num_classes=21, **options)
    assert agrees(parameters(model), 1e6, total)
    assert agrees(parameters(model.encoder.backbone), 1e6, body)
    assert agrees(multiply_adds(model, (513, 513)), 1e9, at_16)
    model.set_output_stride(8)
    assert agrees(multiply_adds(model, (513, 513)), 1e9, at_8)


def test_papers_convention_charges_the_zeros_of_space_to_batch():
    # 33 x 33 at rates 6, 12 and 18 runs as 36 x 36.
    with torch.device("meta"):
        model = create_model("resnet50", num_classes=2, separable=False, decoder=False)
    aspp = model.encoder.aspp
    dense = sum(branch.conv.weight.numel() for branch in aspp.atrous)
    multi_grid = [2, 4, 8]  # 34 x 34, 36 x 36, 40 x 40
    block4 = [unit.conv2.conv.weight.numel() for unit in model.encoder.backbone.blocks[3]]
    extra = dense * (36**2 - 33**2) + sum(
        weights * ((-(-33 // rate) * rate) ** 2 - 33**2)
        for weights, rate in zip(block4, multi_grid, strict=True)
    )
    cost = measure(model, (513, 513))
    assert cost.paper_multiply_adds - cost.multiply_adds == extra


def test_separable_convolution_does_the_work_of_a_dense_one_for_less():
    # From 12 x 12 x 3 to 8 x 8 x 256 with a kernel of 5: 1,228,800 multiplications dense,
    # 4,800 + 49,152 = 53,952 separable.
    dense = nn.Conv2d(3, 256, 5)
    depthwise, pointwise = nn.Conv2d(3, 3, 5, groups=3), nn.Conv2d(3, 256, 1)
    picture = torch.zeros(1, 3, 12, 12)
    assert dense(picture).shape == pointwise(depthwise(picture)).shape == (1, 256, 8, 8)
    assert dense.weight.numel() * 8 * 8 == 1_228_800
    assert (depthwise.weight.numel() + pointwise.weight.numel()) * 8 * 8 == 53_952


def test_our_separable_convolution_costs_what_the_formula_says():
    separable, dense = AtrousSeparableConv(256, 256, HEAD), ConvBN(256, 256, 3, HEAD)
    ours = sum(m.weight.numel() for m in separable.modules() if isinstance(m, nn.Conv2d))
    assert ours == 9 * 256 + 256 * 256
    assert dense.conv.weight.numel() / ours == pytest.approx(1 / (1 / 256 + 1 / 9))


def test_counting_leaves_the_model_alone():
    model = create_model("mobilenet_v2", num_classes=2).train()
    multiply_adds(model, (33, 33))
    assert model.training
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_activations_of_a_single_layer_are_counted_by_hand():
    with torch.device("meta"):
        model, watched = (create_model("mobilenet_v2", num_classes=2, **NO_HEAD) for _ in range(2))
    outputs = []
    for module in watched.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.register_forward_hook(lambda _m, _i, output: outputs.append(output.numel()))
    watched.eval()(torch.empty(1, 3, 33, 33, device="meta"))
    assert measure(model, (33, 33)).activation_bytes == 4 * sum(outputs)


def test_unknown_conventions_are_refused():
    with torch.device("meta"):
        model = create_model("mobilenet_v2", num_classes=2)
    with pytest.raises(ValueError, match="'true' or 'paper', not 'flops'"):
        multiply_adds(model, (33, 33), convention="flops")
