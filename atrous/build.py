"""The composition root: builds the network that an `Architecture` describes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from atrous.architecture import (
    BACKBONE_OPTIONS,
    BAND_OPTIONS,
    CLASSIFIER,
    Architecture,
    Head,
)
from atrous.architecture import BACKBONES as BACKBONES  # part of this module's interface
from atrous.classes import ClassTable
from atrous.classifier import Classifier
from atrous.decoder import Decoder, classifier
from atrous.encoder import mobilenet_v3
from atrous.encoder.aspp import ASPP
from atrous.encoder.backbone import Backbone
from atrous.encoder.dense_prediction_cell import DensePredictionCell
from atrous.encoder.encoder import Encoder, PyramidHead
from atrous.encoder.global_pooling import GlobalPooling
from atrous.encoder.lr_aspp import LRASPP
from atrous.encoder.mobilenet_v2 import MobileNetV2
from atrous.encoder.mobilenet_v3 import MobileNetV3
from atrous.encoder.resnet import UNITS, ResNet
from atrous.encoder.timm_backbone import TimmBackbone
from atrous.encoder.xception import VARIANTS, Xception
from atrous.errors import AtrousError, unknown_name
from atrous.images.bands import Bands
from atrous.layers import Normalize
from atrous.model import DeepLabV3Plus, Model

M = TypeVar("M", bound=Model)

_MINUS_ONE_TO_ONE = ((127.5,), (127.5,))  # the authors' x / 127.5 - 1
_OF_TYPE = {"uint16": ((32767.5,), (32767.5,)), "float32": ((0.0,), (1.0,))}  # -1 to 1; as it is
_PHOTOGRAPHS = Architecture("")
_MEAN_SUBTRACTED = ((123.15, 115.90, 103.06), (1.0,))  # their ResNets with the 7x7 stem


def create_model(
    backbone: str,
    *,
    num_classes: int,
    pretrained: str | Path | None = None,
    **options: Any,
) -> DeepLabV3Plus:
    """Builds a DeepLabv3+. The defaults are the paper's, the weights random.

    Args:
        backbone: Such as ``xception65``, ``resnet101``, ``mobilenet_v2`` or ``timm/<name>``.
        num_classes: Number of classes K.
        pretrained: Weights for the backbone. ``imagenet`` fetches published ones once and checks
            their hash. A path names a file: the authors' checkpoints, timm's, torchvision's,
            ``.tflite``, or any model or run folder of this package. A name of `atrous models` works
            too. The weights bring their own normalisation and epsilon.
        options: Any other field of `atrous.architecture.Architecture`, by name: ``output_stride``,
            ``head``, ``separable``, ``decoder_separable``, ``image_pooling``, ``atrous_rates``,
            ``multi_grid``, ``decoder``, ``decoder_strides``, ``reduced_channels``, ``refine``,
            ``depth_multiplier``, ``in_channels``, ``channels``, ``dtype``, ``stem``,
            ``relu_after_depthwise``. `with_bands` says how RGB weights serve other channels.

    Returns:
        A model that takes pixels in the units of the files, of RGB 0..255, and normalises them.

    Raises:
        AtrousError: An unknown backbone or option, or an option that this backbone does not have.
    """
    _check_names(options, [field.name for field in fields(Architecture)])
    return _started(Architecture(backbone, num_classes, **options), pretrained, build)


def create_classifier(
    backbone: str,
    *,
    num_classes: int,
    pretrained: str | Path | None = None,
    **options: Any,
) -> Classifier:
    """Builds the classifier of whole pictures that a backbone is pretrained as.

    Args:
        backbone: As in `create_model`.
        num_classes: Number of classes K.
        pretrained: As in `create_model`.
        options: Options of the backbone, as in `create_model`. The default ``output_stride`` is 32.

    Raises:
        AtrousError: An unknown backbone or option, or an option that this backbone does not have.
    """
    _check_names(options, ("output_stride", "multi_grid", *BACKBONE_OPTIONS))
    options = {"output_stride": 32, "head": CLASSIFIER, "decoder": False, **options}
    return _started(Architecture(backbone, num_classes, **options), pretrained, build_classifier)


def _check_names(options: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in options:
        if name not in known:
            raise unknown_name("option", name, known)


def _started(
    architecture: Architecture, pretrained: str | Path | None, build: Callable[..., M]
) -> M:
    """Builds a network with random weights, or with pretrained weights in its backbone."""
    if pretrained is None:
        return build(architecture)
    architecture.check()
    from atrous.weights import backbones  # here, because it imports this module

    weights = backbones.find(pretrained, architecture.backbone)
    theirs = {name: getattr(_PHOTOGRAPHS, name) for name in BAND_OPTIONS}
    if not Bands.of(vars(architecture)).is_rgb:
        theirs |= {"mean": None, "std": None}
    theirs |= weights.architecture
    model = build(replace(architecture, **theirs), timm_weights=weights.timm)
    weights.assign(model)
    return with_bands(model, architecture, build)


def with_bands(model: M, wanted: Architecture, build: Callable[..., M]) -> M:
    """Returns a model for other channels; all weights but those of the first convolution stay.

    A channel that both have by name keeps its weights; every other one gets the mean of the
    model's weights over its channels. Red, green and blue of 8 bits keep their normalisation too,
    so that a network whose other weights are 0 equals the model. The other normalisations are
    those of `wanted`; where it has none, 8-bit channels have the mean of the model's.

    Args:
        model: With trained weights.
        wanted: Says the channels and their normalisation; all other options are the model's.
        build: `build` or `build_classifier`.
    """
    ours, theirs = Bands.of(vars(wanted)), model.bands
    if (ours.names, ours.dtype) == (theirs.names, theirs.dtype):
        # The same units: the weights were trained with this normalisation.
        model.architecture = replace(model.architecture, bands=ours.sources, preview=ours.preview)
        return model
    mean, std = (_normalisation_of(kind, wanted, ours, theirs) for kind in ("mean", "std"))
    options = {name: getattr(wanted, name) for name in BAND_OPTIONS}
    result = build(replace(model.architecture, **options, mean=mean, std=std))
    first = next(
        f"encoder.backbone.{name}.weight"
        for name, module in model.encoder.backbone.named_modules()
        if isinstance(module, nn.Conv2d)
    )
    tensors = model.state_dict()
    weight = tensors[first]
    tensors[first] = torch.stack(
        [
            weight[:, theirs.names.index(name)] if name in theirs.names else weight.mean(1)
            for name in ours.names
        ],
        dim=1,
    )
    result.load_state_dict(tensors)
    result.name_classes(ClassTable("", model.classes, model.palette))
    result.provenance = model.provenance
    known = [name for name in ours.names if name in theirs.names]
    result.provenance.notes.append(
        f"first convolution for {', '.join(ours.names)}: by name {', '.join(known) or 'none'}, "
        "the others are the mean of its weights"
    )
    return result.train(model.training)


def _normalisation_of(
    kind: str, wanted: Architecture, ours: Bands, theirs: Bands
) -> tuple[float, ...] | None:
    """Returns mean or deviation of each of our channels; None: what the type has by default."""
    given: tuple[float, ...] | None = getattr(wanted, kind)
    before = np.broadcast_to(getattr(theirs, kind), len(theirs.names)).tolist()
    if not (ours.dtype == theirs.dtype == "uint8"):
        return given
    after = given or (sum(before) / len(before),)
    values = np.broadcast_to(after, len(ours.names)).tolist()
    return tuple(
        before[theirs.names.index(name)] if name in theirs.names else value
        for name, value in zip(ours.names, values, strict=True)
    )


def build(
    architecture: Architecture, *, timm_weights: Mapping[str, Tensor] | None = None
) -> DeepLabV3Plus:
    """Builds the network an `Architecture` describes, with random weights.

    Args:
        architecture: The network.
        timm_weights: Tensors for timm to load into its backbone, by timm's names.
    """
    if architecture.head == CLASSIFIER:
        raise unknown_name("head", architecture.head, get_args(Head))
    architecture.check()
    a = architecture
    backbone = _build_backbone(a, timm_weights)
    _check_decoder_strides(a, backbone)
    aspp = _build_head(a, backbone.channels)
    decoder = Decoder(
        aspp.channels,
        backbone.low_level_channels,
        a.num_classes,
        output_stride=a.output_stride,
        strides=a.decoder_strides if a.decoder else (),
        reduced_channels=a.reduced_channels,
        refine=a.refine,
        separable=a.separable if a.decoder_separable is None else a.decoder_separable,
        extra_rows=a.extra_rows,
    )
    return DeepLabV3Plus(_build_normalize(a, backbone), Encoder(backbone, aspp), decoder, a)


def build_classifier(
    architecture: Architecture, *, timm_weights: Mapping[str, Tensor] | None = None
) -> Classifier:
    """Builds the classifier that an `Architecture` describes; arguments as in `build`."""
    assert architecture.head == CLASSIFIER
    architecture.check()
    backbone = _build_backbone(architecture, timm_weights)
    encoder = Encoder(backbone, GlobalPooling(backbone.channels))
    logits = classifier(backbone.channels, architecture.num_classes)
    return Classifier(_build_normalize(architecture, backbone), encoder, logits, architecture)


def build_blank(architecture: Architecture) -> DeepLabV3Plus:
    """Builds a network whose weights have no values yet. The caller must fill all of them.

    Drawing forty million random numbers takes longer than reading the weights that replace them.
    """
    if architecture.backbone.startswith("timm/"):
        return build(architecture)  # some of timm's networks cannot be built on the meta device
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
    common = {"output_stride": a.output_stride, "in_channels": a.in_channels}
    if a.backbone in VARIANTS:
        grid, relu = a.multi_grid or (1, 1, 1), a.relu_after_depthwise
        return Xception(a.backbone, multi_grid=grid, relu_after_depthwise=relu, **common)
    if a.backbone in UNITS:
        return ResNet(a.backbone, multi_grid=a.multi_grid or (1, 2, 4), stem=a.stem, **common)
    if a.backbone == "mobilenet_v2":
        return MobileNetV2(
            depth_multiplier=a.depth_multiplier, one_sided_padding=a.one_sided_padding, **common
        )
    if a.backbone in mobilenet_v3.VARIANTS:
        return MobileNetV3(a.backbone, **common)
    return TimmBackbone(a.backbone.removeprefix("timm/"), weights=timm_weights, **common)


def _build_head(a: Architecture, channels: int) -> PyramidHead:
    if a.head == "dense_prediction_cell":
        return DensePredictionCell(channels, output_stride=a.output_stride)
    if a.head == "lr_aspp":
        return LRASPP(channels, output_stride=a.output_stride)
    return ASPP(
        channels,
        output_stride=a.output_stride,
        rates_at_16=a.exact_rates,
        separable=a.separable,
        image_pooling=a.image_pooling,
        pooling_stride=a.pooling_stride,
    )


def _build_normalize(a: Architecture, backbone: Backbone) -> Normalize:
    if a.mean is not None and a.std is not None:
        mean, std = a.mean, a.std
    elif a.dtype != "uint8":
        mean, std = _OF_TYPE[a.dtype]
    elif isinstance(backbone, TimmBackbone):
        mean, std = backbone.mean, backbone.std
    elif isinstance(backbone, ResNet) and a.stem == "plain":
        mean, std = _MEAN_SUBTRACTED
    else:
        mean, std = _MINUS_ONE_TO_ONE
    if len(mean) not in (1, a.in_channels):  # the authors give channels beyond RGB the mean 0
        mean = (*mean, *(0.0,) * a.in_channels)[: a.in_channels]
        std = (*std, *(std[-1],) * a.in_channels)[: a.in_channels] if len(std) > 1 else std
    return Normalize(tuple(mean), tuple(std), missing=a.dtype == "float32")


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
