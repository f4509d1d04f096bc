import pytest
import torch

from atrous.build import create_model
from atrous.decoder import Decoder
from atrous.errors import AtrousError
from atrous.layers import AtrousSeparableConv, ConvBN


def decoder_of(**options):
    with torch.device("meta"):
        return create_model("mobilenet_v2", num_classes=5, **options).decoder


def shapes(stage):
    """Input channels, filters and kernel of each refinement."""
    return [
        (layer.depthwise.conv.in_channels, layer.pointwise.conv.out_channels, 3)
        if isinstance(layer, AtrousSeparableConv)
        else (layer.conv.in_channels, layer.conv.out_channels, layer.conv.kernel_size[0])
        for layer in stage.refine
    ]


def test_decoder_is_the_papers():
    decoder = decoder_of()
    assert decoder.strides == (4,)
    (stage,) = decoder.stages
    assert stage.reduce.conv.out_channels == 48
    assert shapes(stage) == [(304, 256, 3), (256, 256, 3)]
    assert all(isinstance(layer, AtrousSeparableConv) for layer in stage.refine)
    assert decoder.classifier.kernel_size == (1, 1)
    assert decoder.classifier.bias is not None


@pytest.mark.parametrize("reduced_channels", [8, 16, 32, 48, 64])
def test_table_1_channels_of_the_reduction(reduced_channels):
    (stage,) = decoder_of(reduced_channels=reduced_channels).stages
    assert stage.reduce.conv.out_channels == reduced_channels
    assert shapes(stage)[0][0] == 256 + reduced_channels


@pytest.mark.parametrize(
    ("refine", "expected"),
    [
        (((3, 256),), [(304, 256, 3)]),
        (((3, 256),) * 2, [(304, 256, 3), (256, 256, 3)]),
        (((3, 256),) * 3, [(304, 256, 3), (256, 256, 3), (256, 256, 3)]),
        (((3, 128),), [(304, 128, 3)]),
        (((1, 256),), [(304, 256, 1)]),
    ],
)
@pytest.mark.parametrize("separable", [True, False])
def test_table_2_structures(refine, expected, separable):
    decoder = decoder_of(refine=refine, separable=separable)
    (stage,) = decoder.stages
    assert shapes(stage) == expected
    kind = AtrousSeparableConv if separable and refine[0][0] == 3 else ConvBN
    assert all(isinstance(layer, kind) for layer in stage.refine)
    assert decoder.classifier.in_channels == refine[-1][1]


def test_table_2_conv2_and_conv3():
    decoder = decoder_of(decoder_strides=(8, 4), refine=((3, 256),))
    assert [stage.reduce.conv.in_channels for stage in decoder.stages] == [192, 144]
    assert [shapes(stage) for stage in decoder.stages] == [[(304, 256, 3)], [(304, 256, 3)]]


def test_decoder_alone_may_be_dense():
    with torch.device("meta"):
        model = create_model("mobilenet_v2", num_classes=5, decoder_separable=False)
    assert isinstance(model.encoder.aspp.atrous[0], AtrousSeparableConv)
    assert isinstance(model.decoder.stages[0].refine[0], ConvBN)


def test_no_decoder_is_bilinear():
    decoder = decoder_of(decoder=False)
    assert not len(decoder.stages)
    assert decoder.logits_stride == decoder.output_stride == 16


def test_encoder_comes_before_low_level_in_the_concatenation():
    decoder = Decoder(256, {4: 8}, 3).eval()
    seen = {}
    decoder.stages[0].refine.register_forward_hook(lambda _m, i, _o: seen.update(concat=i[0]))
    encoded, low_level = torch.randn(1, 256, 3, 3), torch.randn(1, 8, 9, 9)
    with torch.inference_mode():
        decoder(encoded, {4: low_level})
        reduced = decoder.stages[0].reduce(low_level)
    assert seen["concat"].shape == (1, 304, 9, 9)
    assert torch.equal(seen["concat"][:, ::1, ::4, ::4][:, :256], encoded)
    assert torch.equal(seen["concat"][:, 256:], reduced)


@pytest.mark.parametrize("output_stride", [4, 8, 16, 32])
@pytest.mark.parametrize("strides", [(4,), (8,), (8, 4), (16, 8, 4)])
def test_any_decoder_stride_works_at_any_output_stride(output_stride, strides):
    torch.manual_seed(0)
    model = create_model(
        "mobilenet_v2", num_classes=3, output_stride=output_stride, decoder_strides=strides
    ).eval()
    images = torch.randint(0, 256, (1, 3, 41, 50), dtype=torch.uint8)
    with torch.inference_mode():
        coarse, logits = model.coarse_logits(images), model(images)
    stride = strides[-1]
    assert model.logits_stride == stride
    assert coarse.shape == (1, 3, -(-41 // stride), -(-50 // stride))
    assert logits.shape == (1, 3, 41, 50)


@pytest.mark.parametrize("strides", [(), (4, 8), (2,), (4, 4)])
def test_impossible_decoder_strides_are_refused(strides):
    with pytest.raises(AtrousError, match="E-DECODER-STRIDES"):
        decoder_of(decoder_strides=strides)
