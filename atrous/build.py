"""The composition root: from a few words to a DeepLabv3+."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, get_args

import torch
from torch import Tensor, nn

from atrous.architecture import CLASSIFIER, Architecture, Head, as_tuple
from atrous.classifier import Classifier
from atrous.decoder import BilinearDecoder, Decoder, Refinement, classifier
from atrous.encoder import mobilenet_v3
from atrous.encoder.aspp import ASPP
from atrous.encoder.backbone import Backbone, check_output_stride
from atrous.encoder.dense_prediction_cell import DensePredictionCell
from atrous.encoder.encoder import Encoder, PyramidHead
from atrous.encoder.global_pooling import GlobalPooling
from atrous.encoder.lr_aspp import LRASPP
from atrous.encoder.mobilenet_v2 import MobileNetV2
from atrous.encoder.mobilenet_v3 import MobileNetV3
from atrous.encoder.resnet import UNITS, ResNet, Stem
from atrous.encoder.timm_backbone import TimmBackbone
from atrous.encoder.xception import VARIANTS, Xception
from atrous.errors import AtrousError, unknown_name
from atrous.layers import Normalize
from atrous.model import DeepLabV3Plus, Model

M = TypeVar("M", bound=Model)

BACKBONES = (*VARIANTS, *UNITS, "mobilenet_v2", *mobilenet_v3.VARIANTS)

_MINUS_ONE_TO_ONE = ((127.5,), (127.5,))  # the authors' x / 127.5 - 1
_MEAN_SUBTRACTED = ((123.15, 115.90, 103.06), (1.0,))  # their ResNets with the 7x7 stem


def create_model(
    backbone: str,
    *,
    num_classes: int,
    output_stride: int = 16,
    head: Head = "aspp",
    separable: bool = True,
    decoder_separable: bool | None = None,
    image_pooling: bool = True,
    atrous_rates: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
    decoder: bool = True,
    decoder_strides: Sequence[int] = (4,),
    reduced_channels: int | None = 48,
    refine: Sequence[Refinement] = ((3, 256), (3, 256)),
    depth_multiplier: float = 1.0,
    in_channels: int = 3,
    stem: Stem = "beta",
    relu_after_depthwise: bool = False,
    pretrained: str | Path | None = None,
) -> DeepLabV3Plus:
    """Builds a DeepLabv3+; the defaults are the paper's, the weights random.

    Args:
        backbone: ``xception41``, ``xception65``, ``xception71``, ``resnet50``, ``resnet101``,
            ``mobilenet_v2``, ``mobilenet_v3_large``, ``mobilenet_v3_small``, or ``timm/<name>`` for
            a timm backbone that supports dilation.
        num_classes: Number of classes K.
        output_stride: 4, 8, 16 or 32; `DeepLabV3Plus.set_output_stride` changes it later.
        head: ``aspp``, or what two of the authors' later networks have in its place:
            ``dense_prediction_cell`` (Xception-71 on Cityscapes) and ``lr_aspp`` (MobileNetV3).
        separable: Depthwise separable 3x3 convolutions in ASPP and decoder (Table 5, "SC").
        decoder_separable: The same for the decoder alone; None: as `separable`.
        image_pooling: The image-level branch of ASPP.
        atrous_rates: Rates of ASPP's 3x3 branches; None: 6, 12, 18 at stride 16 and in
            proportion at others; (): no such branches.
        multi_grid: Rates within the last block (three of them); None: (1, 2, 4) for ResNet,
            (1, 1, 1) otherwise.
        decoder: The paper's decoder, or bilinear upsampling (DeepLabv3) if False.
        decoder_strides: Where to decode, descending: (4,) is Conv2, (8, 4) Conv3 and Conv2.
        reduced_channels: Channels of the reduced low-level features (Table 1); None: not reduced.
        refine: (kernel size, filters) of the convolutions after the concatenation (Table 2).
        depth_multiplier: Scales the channels of MobileNetV2.
        in_channels: Channels of the picture.
        stem: Of ResNet: ``beta`` is three 3x3 convolutions, ``plain`` one 7x7.
        relu_after_depthwise: In Xception, a ReLU after every depthwise convolution as in the
            paper's text, which the authors' released code does not have.
        pretrained: ``imagenet`` for weights of the backbone (fetched once, and checked), or a
            file of them: the authors' checkpoints, timm's, torchvision's, .tflite, or any model or
            run folder of this package, of which the backbone is taken. They bring their own
            normalisation and epsilon.

    Returns:
        A model that takes RGB values 0..255 and normalises them itself.

    Raises:
        AtrousError: An unknown backbone, or an option it does not have.
    """
    architecture = Architecture(
        backbone=backbone,
        num_classes=num_classes,
        output_stride=output_stride,
        head=head,
        separable=separable,
        decoder_separable=decoder_separable,
        image_pooling=image_pooling,
        atrous_rates=as_tuple(atrous_rates),
        multi_grid=as_tuple(multi_grid),
        decoder=decoder,
        decoder_strides=tuple(decoder_strides),
        reduced_channels=reduced_channels,
        refine=tuple((kernel, filters) for kernel, filters in refine),
        depth_multiplier=depth_multiplier,
        in_channels=in_channels,
        stem=stem,
        relu_after_depthwise=relu_after_depthwise,
    )
    return _started(architecture, pretrained, build)


def create_classifier(
    backbone: str,
    *,
    num_classes: int,
    output_stride: int = 32,
    multi_grid: Sequence[int] | None = None,
    depth_multiplier: float = 1.0,
    pretrained: str | Path | None = None,
) -> Classifier:
    """Builds the classifier a backbone is trained as; its arguments are those of `create_model`.

    Raises:
        AtrousError: An unknown backbone, or an option it does not have.
    """
    architecture = Architecture(
        backbone=backbone,
        num_classes=num_classes,
        output_stride=output_stride,
        head=CLASSIFIER,
        decoder=False,
        multi_grid=as_tuple(multi_grid),
        depth_multiplier=depth_multiplier,
    )
    return _started(architecture, pretrained, build_classifier)


def _started(
    architecture: Architecture, pretrained: str | Path | None, build: Callable[..., M]
) -> M:
    """Builds a network with random weights, or with those of a backbone."""
    if pretrained is None:
        return build(architecture)
    _check(architecture)
    from atrous.weights import backbones  # only here: reading weights needs the networks above

    weights = backbones.find(pretrained, architecture.backbone)
    model = build(replace(architecture, **weights.architecture), timm_weights=weights.timm)
    weights.assign(model)
    return model


def build(
    architecture: Architecture, *, timm_weights: Mapping[str, Tensor] | None = None
) -> DeepLabV3Plus:
    """Builds the network an `Architecture` describes, with random weights.

    Args:
        architecture: The network.
        timm_weights: Tensors that timm loads into its backbone, by its names.
    """
    if architecture.head == CLASSIFIER:
        raise unknown_name("head", architecture.head, get_args(Head))
    _check(architecture)
    a = architecture
    backbone = _build_backbone(a, timm_weights)
    _check_decoder_strides(a, backbone)
    aspp = _build_head(a, backbone.channels)
    decoder: Decoder | BilinearDecoder
    if a.decoder:
        decoder = Decoder(
            aspp.channels,
            backbone.low_level_channels,
            a.num_classes,
            output_stride=a.output_stride,
            strides=a.decoder_strides,
            reduced_channels=a.reduced_channels,
            refine=a.refine,
            separable=a.separable if a.decoder_separable is None else a.decoder_separable,
        )
    else:
        decoder = BilinearDecoder(aspp.channels, a.num_classes, output_stride=a.output_stride)
    return DeepLabV3Plus(_build_normalize(a, backbone), Encoder(backbone, aspp), decoder, a)


def build_classifier(
    architecture: Architecture, *, timm_weights: Mapping[str, Tensor] | None = None
) -> Classifier:
    """Builds the classifier an `Architecture` describes, as `build` does the rest."""
    assert architecture.head == CLASSIFIER
    _check(architecture)
    backbone = _build_backbone(architecture, timm_weights)
    encoder = Encoder(backbone, GlobalPooling(backbone.channels))
    logits = classifier(backbone.channels, architecture.num_classes)
    return Classifier(_build_normalize(architecture, backbone), encoder, logits, architecture)


def build_blank(architecture: Architecture) -> DeepLabV3Plus:
    """Builds the network with memory for weights but no values, to be filled at once.

    Drawing forty million random numbers that are about to be overwritten takes longer than reading
    the weights.
    """
    if architecture.backbone.startswith("timm/"):
        return build(architecture)  # timm's networks do not all build without values
    with torch.device("meta"):
        model = build(architecture)
    model.to_empty(device="cpu")
    model.normalize = _build_normalize(architecture, model.encoder.backbone)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.num_batches_tracked is not None:
            module.num_batches_tracked.zero_()
    return model


def _build_backbone(a: Architecture, timm_weights: Mapping[str, Tensor] | None) -> Backbone:
    backbone = _backbone_of_family(a, timm_weights)
    if a.epsilon is not None:
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = a.epsilon
    return backbone


def _backbone_of_family(a: Architecture, timm_weights: Mapping[str, Tensor] | None) -> Backbone:
    if a.backbone in VARIANTS:
        return Xception(
            a.backbone,
            output_stride=a.output_stride,
            multi_grid=a.multi_grid or (1, 1, 1),
            in_channels=a.in_channels,
            relu_after_depthwise=a.relu_after_depthwise,
        )
    if a.backbone in UNITS:
        return ResNet(
            a.backbone,
            output_stride=a.output_stride,
            multi_grid=a.multi_grid or (1, 2, 4),
            in_channels=a.in_channels,
            stem=a.stem,
        )
    if a.backbone == "mobilenet_v2":
        return MobileNetV2(
            output_stride=a.output_stride,
            depth_multiplier=a.depth_multiplier,
            in_channels=a.in_channels,
            one_sided_padding=a.one_sided_padding,
        )
    if a.backbone in mobilenet_v3.VARIANTS:
        return MobileNetV3(a.backbone, output_stride=a.output_stride, in_channels=a.in_channels)
    return TimmBackbone(
        a.backbone.removeprefix("timm/"),
        output_stride=a.output_stride,
        in_channels=a.in_channels,
        weights=timm_weights,
    )


def _build_head(a: Architecture, channels: int) -> PyramidHead:
    if a.head == "dense_prediction_cell":
        return DensePredictionCell(channels, output_stride=a.output_stride)
    if a.head == "lr_aspp":
        return LRASPP(channels, output_stride=a.output_stride)
    return ASPP(
        channels,
        output_stride=a.output_stride,
        atrous_rates=a.atrous_rates,
        separable=a.separable,
        image_pooling=a.image_pooling,
    )


def _build_normalize(a: Architecture, backbone: Backbone) -> Normalize:
    if a.mean is not None and a.std is not None:
        mean, std = a.mean, a.std
    elif isinstance(backbone, TimmBackbone):
        mean, std = backbone.mean, backbone.std
    elif isinstance(backbone, ResNet) and a.stem == "plain":
        mean, std = _MEAN_SUBTRACTED
    else:
        mean, std = _MINUS_ONE_TO_ONE
    if len(mean) not in (1, a.in_channels):  # the authors: mean 0 for channels beyond RGB
        mean = (*mean, *(0.0,) * a.in_channels)[: a.in_channels]
        std = (*std, *(std[-1],) * a.in_channels)[: a.in_channels] if len(std) > 1 else std
    return Normalize(tuple(mean), tuple(std))


def _check(a: Architecture) -> None:
    """Refuses what cannot be built, and options that would silently have no effect."""
    if a.backbone not in BACKBONES and not a.backbone.startswith("timm/"):
        raise unknown_name("backbone", a.backbone, (*BACKBONES, "timm/<name>"))
    check_output_stride(a.output_stride)
    problems = {
        "num_classes must be at least 1": a.num_classes < 1,
        "in_channels must be at least 1": a.in_channels < 1,
        "stem must be 'beta' or 'plain'": a.stem not in ("beta", "plain"),
        "stem is an option of ResNets": a.stem != "beta" and a.backbone not in UNITS,
        "relu_after_depthwise is an option of Xception": a.relu_after_depthwise
        and a.backbone not in VARIANTS,
        "depth_multiplier is an option of mobilenet_v2": a.depth_multiplier != 1
        and a.backbone != "mobilenet_v2",
        "depth_multiplier must be positive": a.depth_multiplier <= 0,
        "multi_grid takes three rates": a.multi_grid is not None and len(a.multi_grid) != 3,
        "multi_grid is an option of ResNets and Xception": a.multi_grid not in (None, (1, 1, 1))
        and a.backbone not in (*UNITS, *VARIANTS),
        "head must be 'aspp', 'dense_prediction_cell' or 'lr_aspp'": a.head
        not in (*get_args(Head), CLASSIFIER),
        "atrous_rates are an option of the head 'aspp'": a.atrous_rates is not None
        and a.head != "aspp",
        "image_pooling is an option of the head 'aspp'": not a.image_pooling and a.head != "aspp",
        "atrous_rates and multi_grid must be positive": min(
            (*(a.atrous_rates or ()), *(a.multi_grid or ()), 1)
        )
        < 1,
        "reduced_channels must be at least 1": a.reduced_channels is not None
        and a.reduced_channels < 1,
        "refine takes (kernel size, filters) with an odd kernel": any(
            kernel % 2 == 0 or kernel < 1 or filters < 1 for kernel, filters in a.refine
        ),
    }
    for problem, present in problems.items():
        if present:
            raise AtrousError("E-ARCHITECTURE", problem, where=a.backbone)


def _check_decoder_strides(a: Architecture, backbone: Backbone) -> None:
    if not a.decoder:
        return
    known = tuple(backbone.low_level_channels)
    descending = all(x > y for x, y in zip(a.decoder_strides, a.decoder_strides[1:], strict=False))
    if not a.decoder_strides or not descending or not set(a.decoder_strides) <= set(known):
        raise AtrousError(
            "E-DECODER-STRIDES",
            f"decoder_strides {a.decoder_strides} must descend within {known}",
            where=a.backbone,
        )
