"""Recipes: every number of a training run, with its source.

A recipe is a function that returns a `TrainConfig`. Sources: DeepLabv3+ (arXiv:1802.02611),
DeepLabv3 (arXiv:1706.05587), the authors' code and their answers in its issue tracker
(tensorflow/models). "Paper" gives the authors' scores, "Here" gives the scores of this project.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from atrous.architecture import Architecture
from atrous.training.config import TrainConfig


def network(backbone: str, **options: Any) -> Architecture:
    """Returns a network for a recipe; the data set decides the number of classes."""
    return Architecture(backbone, num_classes=0, **options)


def scenes() -> TrainConfig:
    """Painted landscapes, MobileNetV2: nothing to download, nothing to prepare.

    atrous train scenes --out runs/scenes

    Crops are whole pictures, because image pooling sees whole pictures in evaluation. The atrous
    rates suit features of 8x10, and batch norm's momentum suits a run of some hundred steps.

    Paper: has no such data. Here: .906 to .909 mean IoU on 100 scenes of each of three other seeds
    after 2 min 37 s on two idle cores with AVX-512 (`benchmarks/scenes.py`).
    """
    return TrainConfig(
        recipe="scenes",
        data="scenes",
        network=network("mobilenet_v2", atrous_rates=(1, 2, 4), refine=((3, 128), (3, 128))),
        steps=1_150,
        batch_size=6,
        crop_size=(128, 160),
        scale_range=(1.0, 1.0),
        optimizer="adamw",
        base_lr=0.004,
        schedule="cosine",
        weight_decay=0.01,
        batch_norm_momentum=0.03,
        cache_megabytes=200,
        evaluate_every=250,
        save_every=250,
        samples=8,
    )


def camvid() -> TrainConfig:
    """CamVid, eleven classes at 480x360: what the built-in model `street` was before `street_end`.

    atrous train camvid --data camvid --out runs/camvid

    The start is MLCommons' DeepLabv3+ for 31 classes of ADE20K, which knows streets. ASPP's atrous
    branches are added to it. Crops are whole pictures.

    Paper: not reported. Here: see docs/results.md; an hour and a quarter on one core.
    """
    return TrainConfig(
        recipe="camvid",
        data="camvid",
        weights="mobilenetv2_ade20k_31_quant",
        graft=True,
        network=network("mobilenet_v2"),
        steps=1_200,
        batch_size=8,
        crop_size=(361, 481),
        scale_range=(0.75, 2.0),
        photometric=0.5,
        optimizer="adamw",
        base_lr=0.0005,
        head_multiplier=2.0,
        weight_decay=0.01,
        class_balance=0.33,
        batch_norm_momentum=0.03,
        average_decay=0.99,
        cache_megabytes=500,
        evaluate_every=150,
        save_every=50,
    )


def street() -> TrainConfig:
    """Streets in Cityscapes' 19 classes, the first stage: Cityscapes and CamVid together.

    python scripts/street_data.py --cityscapes cityscapes_small --camvid camvid --out street_data
    atrous train street --data street_data --out runs/street_first

    As `camvid`, from the same start. The learning rate stays, so that the run can go on at any
    length: `street_end` brings it to zero.

    Paper: not reported. Here: see docs/results.md.
    """
    return replace(
        camvid(),
        recipe="street",
        data="street_data",
        steps=1_600,
        crop_size=(289, 449),
        scale_range=(0.75, 1.75),
        base_lr=0.0004,
        schedule="constant",
        average_decay=0.995,
        precision="bf16",
        cache_megabytes=2_000,
        evaluate_every=400,
    )


def street_end() -> TrainConfig:
    """Streets, the last stage: the built-in model `street`.

    atrous train street_end --data street_data --weights runs/street_first --out runs/street

    Goes on from an average of weights; the learning rate falls to zero in a straight line. The
    built-in model went through these stages twice (docs/results.md has every command).

    Paper: not reported. Here: see docs/results.md.
    """
    return replace(
        street(),
        recipe="street_end",
        weights="runs/street_first",
        graft=False,
        schedule="linear",
        average_decay=0.99,
    )


def voc_animals() -> TrainConfig:
    """Animals of PASCAL VOC (cat, dog, cow, horse, sheep, persons): the former model `animals`.

    atrous train voc_animals --data VOC2012 --out runs/animals

    The start is Google's MobileNetV2 for VOC, which has neither atrous branches nor a decoder. Both
    are added so that the network at first computes what Google's computes. The backbone stays
    frozen: Google trained it on these pictures and more, and trained on these alone it gets worse
    at cows and sheep. Crops are about as large as whole pictures, which image pooling sees in
    evaluation.

    Paper: not reported (never compare it with a score over all 21 classes).
    Here: see docs/results.md.
    """
    return TrainConfig(
        recipe="voc_animals",
        data="voc2012",
        train_split="train_aug",
        weights="mobilenetv2_voc_quant",
        graft=True,
        network=network("mobilenet_v2"),
        steps=600,
        batch_size=8,
        crop_size=(337, 449),
        scale_range=(1.25, 1.5),
        optimizer="adamw",
        base_lr=0.0003,
        freeze_backbone=True,
        weight_decay=0.01,
        batch_norm="frozen",
        average_decay=0.985,
        cache_megabytes=1_500,
        evaluate_every=300,
        save_every=50,
    )


def voc_resnet101() -> TrainConfig:
    """PASCAL VOC 2012 trainaug, ResNet-101, output stride 16 (arXiv:1802.02611, Table 3).

    atrous train voc_resnet101 --data VOC2012 --out runs/voc_resnet101

    Paper: 78.85 % mean IoU on val (single scale), 79.35 % evaluated at stride 8. Here: not run.
    ResNets decay weights by 1e-4 and use multi-grid (1, 2, 4) and dense 3x3 convolutions.
    """
    return TrainConfig(
        recipe="voc_resnet101",
        data="VOC2012",
        train_split="trainaug",
        weights="imagenet",
        network=network("resnet101", separable=False, multi_grid=(1, 2, 4)),
        weight_decay=1e-4,
        batch_norm="sync",
    )


def voc_xception65() -> TrainConfig:
    """PASCAL VOC 2012 trainaug, Xception-65, output stride 16 (arXiv:1802.02611, Table 5).

    atrous train voc_xception65 --data VOC2012 --out runs/voc

    Paper: 79.79 % mean IoU on val (decoder, separable convolutions, single scale); 82.20 % from
    COCO weights. Here: not run. 30,000 steps of 16 crops at learning rate 0.007.
    """
    return TrainConfig(
        recipe="voc_xception65",
        data="VOC2012",
        train_split="trainaug",
        weights="imagenet",
        network=network("xception65"),
        batch_norm="sync",
    )


def voc_xception65_trainval() -> TrainConfig:
    """The second stage for VOC's test server: trainval, output stride 8, frozen batch norm.

    It starts from a run of voc_xception65, which `--weights` names.

    atrous train voc_xception65_trainval --data VOC2012 --weights runs/voc --out runs/voc_test

    DeepLabv3, Sec. 4.1: another 30,000 steps on the official trainval set at learning rate 0.001
    (the authors' code says 1e-4; tensorflow/models #6377). Paper: 87.8 % on test from COCO
    weights, multi-scale and flipped. Here: not run.
    """
    return TrainConfig(
        recipe="voc_xception65_trainval",
        data="VOC2012",
        train_split="trainval",
        weights="voc_xception65",
        network=network("xception65", output_stride=8),
        base_lr=0.001,
        batch_norm="frozen",
    )


def imagenet_xception65() -> TrainConfig:
    """ImageNet-1k, Xception-65: the backbone every other recipe of Xception starts from.

    atrous train imagenet_xception65 --data imagenet --out runs/imagenet
    atrous train voc_xception65 --data VOC2012 --weights runs/imagenet --out runs/voc

    The paper's Sec. 4: Nesterov momentum 0.9, learning rate 0.05 times 0.94 every 2 epochs, weight
    decay 4e-5, pictures of 299x299. The authors had 50 GPUs that updated the weights
    asynchronously, each with 32 pictures, so an update here has 32 pictures too. Two epochs are
    int(2 * 1,281,167 / 32) updates. The head, with dropout of half the features, is from the
    authors' code.

    Neither source gives the number of epochs (here a hundred) or the crops (here
    `data/area_crop.py`). Two numbers of the authors' segmentation code do not apply: stride 16 and
    biases that learn twice as fast.

    Paper: 79.81 % top-1, 94.83 % top-5 on val (Table 4). Here: not run; some 4,000,000 updates.
    """
    return TrainConfig(
        recipe="imagenet_xception65",
        task="classification",
        data="imagenet",
        network=network("xception65", output_stride=32),
        steps=4_003_600,
        batch_size=32,
        crop_size=(299, 299),
        base_lr=0.05,
        optimizer="nesterov",
        schedule="staircase",
        decay_steps=80_072,
        weight_decay=4e-5,
        bias_multiplier=1.0,
        evaluate_every=80_072,
        save_every=1_000,
    )


def coco_xception65() -> TrainConfig:
    """COCO, VOC's classes, Xception-65: the weights VOC training then starts from.

    atrous train coco_xception65 --data coco --out runs/coco
    atrous train voc_xception65 --data VOC2012 --weights runs/coco --base-lr 1e-4 --out runs/voc

    DeepLabv3, Sec. 4.1, keeps VOC's classes of COCO, makes all others background, and takes the
    pictures of trainval (without minival) with more than 1,000 annotated pixels, some 60,000. This
    recipe takes all pictures of train2017. The authors: 500,000 steps (300,000 should do) of 16 at
    learning rate 0.007 (tensorflow/models #4234); then VOC at 1e-4.

    Paper: 82.20 % mean IoU on VOC val after that. Here: not run.
    """
    return TrainConfig(
        recipe="coco_xception65",
        data="coco",
        names=_VOC_OF_COCO,
        weights="imagenet",
        network=network("xception65"),
        steps=500_000,
        batch_norm="sync",
        evaluate_every=10_000,
        save_every=1_000,
    )


# VOC's classes in VOC's order, each with COCO's name where that differs.
_VOC_OF_COCO = (
    "background", "aeroplane=airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat",
    "chair", "cow", "diningtable=dining table", "dog", "horse", "motorbike=motorcycle", "person",
    "pottedplant=potted plant", "sheep", "sofa=couch", "train", "tvmonitor=tv",
)  # fmt: skip


def cityscapes_xception65() -> TrainConfig:
    """Cityscapes fine, Xception-65, crops of 769 (arXiv:1802.02611, Table 7).

    atrous train cityscapes_xception65 --data cityscapes --out runs/cityscapes

    90,000 steps at learning rate 0.01 with batch norm trained on large batches (tensorflow/models
    #3677; 0.007 gave users 74.7). Paper: 78.79 % mean IoU on val. Here: not run.
    """
    return TrainConfig(
        recipe="cityscapes_xception65",
        data="cityscapes",
        weights="imagenet",
        network=network("xception65"),
        steps=90_000,
        base_lr=0.01,
        crop_size=(769, 769),
        batch_norm="sync",
        evaluate_every=5_000,
    )


def cityscapes_xception71() -> TrainConfig:
    """Cityscapes fine, Xception-71 (arXiv:1802.02611, Table 7).

    atrous train cityscapes_xception71 --data cityscapes --out runs/cityscapes71

    As cityscapes_xception65. Paper: 79.55 % mean IoU on val, without image pooling. Here: not run,
    and with image pooling.
    """
    return replace(
        cityscapes_xception65(), recipe="cityscapes_xception71", network=network("xception71")
    )


def ade20k_xception65() -> TrainConfig:
    """ADE20K, 150 classes, Xception-65.

    atrous train ade20k_xception65 --data ADEChallengeData2016 --out runs/ade20k

    150,000 steps on crops of 513 (the authors' instructions; their demonstration's batch is 4).
    Paper: not reported; the authors' zoo: 45.65 % mean IoU and 82.52 % of pixels on val, at stride
    8, multi-scale and flipped; users measure 39 to 40 % with that model (tensorflow/models #7003).
    Here: not run.
    """
    return TrainConfig(
        recipe="ade20k_xception65",
        data="ADEChallengeData2016",
        weights="imagenet",
        network=network("xception65"),
        steps=150_000,
        batch_norm="sync",
        evaluate_every=10_000,
        save_every=1_000,
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        scenes,
        camvid,
        street,
        street_end,
        voc_animals,
        voc_resnet101,
        voc_xception65,
        voc_xception65_trainval,
        imagenet_xception65,
        coco_xception65,
        cityscapes_xception65,
        cityscapes_xception71,
        ade20k_xception65,
    )
}
