"""What `ablations.py` trains: a base is what the rows of a table share, a row is one change."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from atrous.training.config import TrainConfig
from atrous.training.recipes import camvid, network, scenes, voc_animals

ANIMALS = ("background", "cat", "cow", "dog", "horse", "person", "sheep")
SIX_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # the paper's "MS"


@dataclass(frozen=True)
class Base:
    """What the rows of a table have in common.

    Args:
        config: The run of its reference, `decoder`.
        data: Folder below data/, or scenes.
        start: File below weights/ that all rows start from; "": random weights.
        taken: What of that file is taken; all else is new, and alike in all rows. Of the whole
            file all that fits; a decoder at first passes on what the encoder says.
        classes: Those whose mean IoU counts; None: all.
        trimap: Where the band of the trimap starts.
    """

    config: TrainConfig
    data: str = "scenes"
    start: str = ""
    taken: Literal["backbone", "encoder", "whole"] = "backbone"
    classes: tuple[str, ...] | None = None
    trimap: Any = "borders"


@dataclass(frozen=True)
class Row:
    """One change.

    Args:
        changes: To the base's config.
        of: The row whose trained network is evaluated in another way; "": one of its own.
        evaluation: How (`atrous.evaluate`).
        settled: Whether statistics of batch norm are measured anew before (`ablations.settle`).
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    of: str = ""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    settled: bool = False


_QUIET = {"evaluate_every": 0, "save_every": 100, "samples": 0}
_SCENES = scenes().changed(refine=((3, 256), (3, 256)), steps=400, base_lr=0.002, **_QUIET)
_ANIMALS = replace(
    voc_animals(),
    crop_size=(257, 257),
    scale_range=(1.0, 1.5),
    base_lr=0.0001,
    head_multiplier=3.0,
    freeze_backbone=False,
    **_QUIET,
)
_STREET = camvid().changed(
    crop_size=(193, 257),
    scale_range=(0.75, 1.5),
    steps=600,
    precision="bf16",
    evaluate_every=100,
    save_every=100,
    samples=0,
)
_FROM_NOTHING = {
    "network": network("xception41"),
    "batch_size": 4,
    "steps": 200,
    "precision": "bf16",
    "average_decay": 0.98,
    "head_multiplier": 1.0,
    "evaluate_every": 50,
    "save_every": 100,
    "samples": 0,
}
_VOC = {"data": "voc2012", "start": "deeplabv3_mnv2_pascal_quant.tflite", "trimap": "void"}
_ADE20K: dict[str, Any] = {"start": "deeplabv3_mnv2_ade20k_uint8.tflite", "taken": "encoder"}
_IMAGENET = {"start": "tf2_mobilenet_v2_1.0_224_ptq.tflite"}
BASES = {
    "street": Base(_STREET, "camvid", **_ADE20K),
    "cityscapes": Base(replace(_STREET, steps=400), "cityscapes_small", **_ADE20K),
    "scenes": Base(_SCENES, **_IMAGENET),
    "random": Base(replace(scenes(), steps=500, **_QUIET)),
    "short": Base(replace(_SCENES, steps=200), **_IMAGENET),
    "animals": Base(replace(_ANIMALS, steps=200), taken="whole", classes=ANIMALS, **_VOC),
    "faster": Base(
        replace(_ANIMALS, head_multiplier=20.0, steps=300), taken="whole", classes=ANIMALS, **_VOC
    ),
    "new_heads": Base(
        replace(
            _ANIMALS,
            batch_norm="train",
            batch_norm_momentum=0.03,
            scale_range=(0.75, 1.25),
            base_lr=0.0003,
            head_multiplier=10.0,
            average_decay=0.98,
            steps=160,
        ),
        classes=ANIMALS,
        **_VOC,
    ),
    "xception": Base(
        scenes().changed(backbone="xception41", batch_size=4, steps=150, **_QUIET),
    ),
    "backbones": Base(scenes().changed(**_FROM_NOTHING, atrous_rates=(1, 2, 4))),
    "street_backbones": Base(
        replace(_STREET, weights=None, graft=False, base_lr=0.001, **_FROM_NOTHING), "camvid"
    ),
}

_DECODERS = {
    "decoder": Row(),
    "bilinear": Row({"decoder": False}),
    "dense": Row({"separable": False}),
}
_STRIDES = {
    f"{model}_{stride}{suffix}": Row(of=model, evaluation={"output_stride": stride, **views})
    for model in ("decoder", "bilinear")
    for stride in (32, 16, 8)
    for suffix, views in (
        ("", {}),
        ("_ms", {"scales": SIX_SCALES}),
        ("_ms_flip", {"scales": SIX_SCALES, "flip": True}),
    )
    if (stride, suffix) != (16, "")  # the row itself
}
_LONG = {
    "decoder_long": Row({"steps": 1200}),
    "bilinear_long": Row({"decoder": False, "steps": 1200}),
}
_DETAILS = {
    "one_3x3": Row({"refine": ((3, 256),)}),
    "reduced_8": Row({"reduced_channels": 8}),
    "reduced_64": Row({"reduced_channels": 64}),
}
_SETTLED = {f"{row}_settled": Row(of=row, settled=True) for row in ("decoder", "bilinear")}
_LONG_SETTLED = {f"{row}_settled": Row(of=row, settled=True) for row in _LONG}
_BACKBONES = {
    "xception41": Row(settled=True),
    "resnet50": Row(
        {"backbone": "resnet50"}, settled=True
    ),  # without its last unit (`ablations.measure`)
    # As many seconds of the processor: an update took .78 times Xception's.
    "resnet50_time": Row({"backbone": "resnet50", "steps": 257}, settled=True),
}
ROWS: dict[str, dict[str, Row]] = {
    "street": {
        **_DECODERS,
        "decoder_intel": Row(),  # `decoder` on the processor of the rows beside it
        **_LONG,
        **_DETAILS,
        **_STRIDES,
        **_SETTLED,
        **_LONG_SETTLED,
    },
    "cityscapes": {**_DECODERS, **_SETTLED, **_STRIDES},
    "scenes": {**_DECODERS, **_STRIDES},
    "random": _DECODERS,
    "short": {
        **_DECODERS,
        **_DETAILS,
        "reduced_16": Row({"reduced_channels": 16}),
        "reduced_32": Row({"reduced_channels": 32}),
        "three_3x3": Row({"refine": ((3, 256),) * 3}),
        "one_3x3_of_128": Row({"refine": ((3, 128),)}),
        "two_3x3_of_128": Row({"refine": ((3, 128),) * 2}),
        "one_1x1": Row({"refine": ((1, 256),)}),
        "conv3_conv2": Row({"refine": ((3, 256),), "decoder_strides": (8, 4)}),
        "no_image_pooling": Row({"image_pooling": False}),
        "no_atrous_branches": Row({"atrous_rates": ()}),
    },
    "animals": {**_DECODERS, **_STRIDES},
    "faster": _DECODERS,
    "new_heads": _DECODERS,
    "xception": {
        "decoder": Row(),
        "papers_relu": Row({"relu_after_depthwise": True}),
    },
    "backbones": _BACKBONES,
    "street_backbones": _BACKBONES,
}
