"""Output stride and rates: any sequence of changes leaves the network that was described."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.architecture import Architecture
from atrous.build import build, create_model
from atrous.classes import ClassTable
from atrous.encoder.strides import OUTPUT_STRIDES
from atrous.errors import AtrousError
from atrous.evaluation.evaluator import evaluate
from atrous.layers import AtrousConv2d
from atrous.loading import load
from atrous.weights.store import save
from tests.networks import random_network
from tests.tiny import tiny_data

STRIDES = st.sampled_from(OUTPUT_STRIDES)
RATES = st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple)


def geometry(model):
    """Stride, rate and padding of every convolution that has an atrous rate."""
    return {
        name: (module.stride, module.dilation, module.padding)
        for name, module in model.named_modules()
        if isinstance(module, AtrousConv2d)
    }


def described(architecture):
    with torch.device("meta"):
        return build(architecture)


@settings(max_examples=40, deadline=None)
@given(STRIDES, RATES, st.lists(STRIDES, min_size=1, max_size=6))
def test_rates_derive_from_the_given_ones_whatever_strides_were_set_before(first, rates, strides):
    model = described(
        Architecture("mobilenet_v2", 2, first, atrous_rates=rates, depth_multiplier=0.1)
    )
    start, start_geometry = model.architecture, geometry(model)
    for stride in strides:
        model.set_output_stride(stride)
        assert model.architecture == start.at_output_stride(stride)
        assert model.architecture.atrous_rates == model.encoder.aspp.atrous_rates
        assert geometry(model) == geometry(described(model.architecture))
    model.set_output_stride(first)
    assert model.architecture == start
    assert geometry(model) == start_geometry


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("mobilenet_v2", {"atrous_rates": (1, 2, 4), "depth_multiplier": 0.1}),
        ("mobilenet_v2", {"atrous_rates": (3, 5), "decoder": False, "depth_multiplier": 0.1}),
        ("mobilenet_v3_small", {"head": "dense_prediction_cell"}),
        ("mobilenet_v3_small", {"head": "lr_aspp", "decoder_strides": (8,), "refine": ()}),
        ("resnet50", {"atrous_rates": (1, 2, 4)}),
        ("timm/mobilenetv2_050", {"atrous_rates": (1, 2, 4)}),
    ],
)
@pytest.mark.parametrize("path", [(32,), (32, 16), (8, 32, 8)])
def test_a_network_saved_after_changes_of_stride_is_the_same_network(
    tmp_path, backbone, options, path
):
    if backbone.startswith("timm/"):
        model = create_model(backbone, num_classes=2, **options).eval()
    else:
        model = random_network(backbone, **options)
    for stride in path:
        model.set_output_stride(stride)
    save(model, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    images = torch.randint(0, 256, (1, 3, 65, 50), dtype=torch.uint8)
    for stride in (None, 16, 8):
        for network in (model, loaded):
            if stride is not None:
                network.set_output_stride(stride)
        assert loaded.architecture == model.architecture
        with torch.inference_mode():
            assert torch.equal(loaded(images), model(images))


def test_an_evaluation_at_another_stride_leaves_the_network_as_it_was():
    _, data = tiny_data()
    model = random_network(
        "mobilenet_v2", num_classes=7, atrous_rates=(1, 2, 4), depth_multiplier=0.1
    )
    model.name_classes(ClassTable("scenes", tuple(data.classes), tuple(data.palette)))
    before, convolutions = model.architecture, geometry(model)
    for stride in (32, 8, 32):
        evaluate(model, data, output_stride=stride)
    assert model.architecture == before
    assert geometry(model) == convolutions


def test_rates_that_contradict_each_other_are_refused():
    with pytest.raises(AtrousError) as caught:
        described(Architecture("mobilenet_v2", 2, atrous_rates=(1, 2), rates_at_16=(4.0, 8.0)))
    assert caught.value.code == "E-ARCHITECTURE"
