"""The weights others publish, by name: where they are, how they are checked, what they scored.

Sources: the model zoo page of tensorflow/models (research/deeplab/g3doc/model_zoo.md), the files
of google-coral/test_data and mlcommons/mobile_models, and Intel's Open Model Zoo for one hash.
Published scores are their publishers'; nothing here was measured by this project unless
`Entry.measured` says so.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from atrous.errors import AtrousError, unknown_name
from atrous.weights.download import fetch

_GOOGLE = "http://download.tensorflow.org/models/"
_CORAL = "https://github.com/google-coral/test_data/raw/master/"
_MLCOMMONS = "https://github.com/mlcommons/mobile_models/raw/main/v0_7/tflite/"


class Score(NamedTuple):
    """A mean IoU somebody published, and how it was got."""

    mean_iou: float
    data: str
    output_stride: int | None = None
    scales: str = "1.0"
    flip: bool = False

    def __str__(self) -> str:
        stride = f", output stride {self.output_stride}" if self.output_stride else ""
        flip = ", flip" if self.flip else ""
        return f"{self.mean_iou:.2%} on {self.data}{stride}, scales {self.scales}{flip}"


@dataclass(frozen=True)
class Entry:
    """One published file.

    Args:
        name: What to call it on the command line.
        url: Where its publisher keeps it.
        network: Backbone and head.
        trained_on: Data sets, each with terms of its own, in order.
        megabytes: As published.
        digest: ``sha256:`` or ``sha384:`` of the file; None where nobody published one and this
            project has not had the file in hand: such a file needs the user's own hash.
        size: Bytes, where known.
        scores: Published ones.
        measured: What this project measured.
        licence: Of the file; the training data's terms are not part of it.
    """

    name: str
    url: str
    network: str
    trained_on: tuple[str, ...]
    megabytes: float
    digest: str | None = None
    size: int | None = None
    scores: tuple[Score, ...] = ()
    measured: str = "not run"
    licence: str = "Apache-2.0"


_VOC_SCALES = "0.5-1.75"
_CITY_SCALES = "0.75-1.25"

ENTRIES: tuple[Entry, ...] = (
    Entry(
        "mobilenetv2_dm05_coco_voc_trainaug",
        f"{_GOOGLE}deeplabv3_mnv2_dm05_pascal_trainaug_2018_10_01.tar.gz",
        "mobilenet_v2 x0.5, no ASPP branches, no decoder",
        ("ImageNet", "COCO", "VOC 2012 trainaug"),
        7.6,
        scores=(Score(0.7019, "VOC 2012 val", 16),),
    ),
    Entry(
        "mobilenetv2_dm05_coco_voc_trainval",
        f"{_GOOGLE}deeplabv3_mnv2_dm05_pascal_trainval_2018_10_01.tar.gz",
        "mobilenet_v2 x0.5, no ASPP branches, no decoder",
        ("ImageNet", "COCO", "VOC 2012 trainval"),
        7.6,
        scores=(Score(0.7183, "VOC 2012 test", 8),),
    ),
    Entry(
        "mobilenetv2_coco_voc_trainaug",
        f"{_GOOGLE}deeplabv3_mnv2_pascal_train_aug_2018_01_29.tar.gz",
        "mobilenet_v2, no ASPP branches, no decoder",
        ("ImageNet", "COCO", "VOC 2012 trainaug"),
        23,
        # Open Model Zoo, models/public/deeplabv3/model.yml
        digest="sha384:d3f2b27bb00c485ca45d68731f7198a23926cb865dd010fc444bcad9158e3341"
        "3cd60da2588a9be3ff1e8c9b4557362b",
        size=23_882_985,
        scores=(
            Score(0.7532, "VOC 2012 val", 16),
            Score(0.7733, "VOC 2012 val", 8, _VOC_SCALES, True),
        ),
    ),
    Entry(
        "mobilenetv2_coco_voc_trainval",
        f"{_GOOGLE}deeplabv3_mnv2_pascal_trainval_2018_01_29.tar.gz",
        "mobilenet_v2, no ASPP branches, no decoder",
        ("ImageNet", "COCO", "VOC 2012 trainval"),
        23,
        scores=(Score(0.8025, "VOC 2012 test", 8, _VOC_SCALES, True),),
    ),
    Entry(
        "xception65_coco_voc_trainaug",
        f"{_GOOGLE}deeplabv3_pascal_train_aug_2018_01_04.tar.gz",
        "xception65, ASPP, decoder",
        ("ImageNet", "COCO", "VOC 2012 trainaug"),
        439,
        scores=(
            Score(0.8220, "VOC 2012 val", 16),
            Score(0.8358, "VOC 2012 val", 8, _VOC_SCALES, True),
        ),
    ),
    Entry(
        "xception65_coco_voc_trainval",
        f"{_GOOGLE}deeplabv3_pascal_trainval_2018_01_04.tar.gz",
        "xception65, ASPP, decoder",
        ("ImageNet", "COCO", "VOC 2012 trainval"),
        439,
        scores=(Score(0.8780, "VOC 2012 test", 8, _VOC_SCALES, True),),
    ),
    Entry(
        "mobilenetv2_coco_cityscapes_trainfine",
        f"{_GOOGLE}deeplabv3_mnv2_cityscapes_train_2018_02_05.tar.gz",
        "mobilenet_v2, no ASPP branches, no decoder",
        ("ImageNet", "COCO", "Cityscapes train_fine"),
        23,
        scores=(
            Score(0.7071, "Cityscapes val", 16),
            Score(0.7357, "Cityscapes val", 8, _CITY_SCALES, True),
        ),
    ),
    Entry(
        "mobilenetv3_large_cityscapes_trainfine",
        f"{_GOOGLE}deeplab_mnv3_large_cityscapes_trainfine_2019_11_15.tar.gz",
        "mobilenet_v3_large, LR-ASPP",
        ("Cityscapes train_fine",),
        17,
        scores=(Score(0.7241, "Cityscapes val", 32),),
    ),
    Entry(
        "mobilenetv3_small_cityscapes_trainfine",
        f"{_GOOGLE}deeplab_mnv3_small_cityscapes_trainfine_2019_11_15.tar.gz",
        "mobilenet_v3_small, LR-ASPP",
        ("Cityscapes train_fine",),
        5,
        scores=(Score(0.6899, "Cityscapes val", 32),),
    ),
    Entry(
        "xception65_cityscapes_trainfine",
        f"{_GOOGLE}deeplabv3_cityscapes_train_2018_02_06.tar.gz",
        "xception65, ASPP, decoder",
        ("ImageNet", "Cityscapes train_fine"),
        439,
        scores=(
            Score(0.7879, "Cityscapes val", 16),
            Score(0.8042, "Cityscapes val", 8, _CITY_SCALES, True),
        ),
    ),
    Entry(
        "xception71_dpc_cityscapes_trainfine",
        f"{_GOOGLE}deeplab_cityscapes_xception71_trainfine_2018_09_08.tar.gz",
        "xception71, dense prediction cell, decoder",
        ("ImageNet", "COCO", "Cityscapes train_fine"),
        445,
        scores=(Score(0.8031, "Cityscapes val", 16),),
    ),
    Entry(
        "xception71_dpc_cityscapes_trainval",
        f"{_GOOGLE}deeplab_cityscapes_xception71_trainvalfine_2018_09_08.tar.gz",
        "xception71, dense prediction cell, decoder",
        ("ImageNet", "COCO", "Cityscapes trainval_fine", "Cityscapes coarse"),
        446,
        scores=(Score(0.8266, "Cityscapes test", 8, "0.75-2", True),),
    ),
    Entry(
        "mobilenetv2_ade20k_train",
        f"{_GOOGLE}deeplabv3_mnv2_ade20k_train_2018_12_03.tar.gz",
        "mobilenet_v2, no ASPP branches, decoder",
        ("ImageNet", "ADE20K train"),
        24.8,
        scores=(Score(0.3204, "ADE20K val, longest side 257", 16),),
    ),
    Entry(
        "xception65_ade20k_train",
        f"{_GOOGLE}deeplabv3_xception_ade20k_train_2018_05_29.tar.gz",
        "xception65, ASPP, decoder",
        ("ImageNet", "ADE20K train"),
        439,
        scores=(Score(0.4565, "ADE20K val, longest side 513", 8, _VOC_SCALES, True),),
    ),
    Entry(
        "deeplabv3_mnv2_pascal_quant",
        f"{_CORAL}deeplabv3_mnv2_pascal_quant.tflite",
        "mobilenet_v2, no ASPP branches, no decoder, uint8",
        ("ImageNet", "COCO", "VOC 2012 trainaug"),
        2.2,
        digest="sha256:350af47fd346ea6d74b58833a351f583ba860e9806ec5bd292ff8d8f1f249398",
        size=2_193_224,
    ),
    Entry(
        "deeplabv3_mnv2_ade20k_uint8",
        f"{_MLCOMMONS}deeplabv3_mnv2_ade20k_uint8.tflite",
        "mobilenet_v2, no ASPP branches, decoder, uint8",
        ("ImageNet", "ADE20K train, 31 classes"),
        2.3,
        digest="sha256:2d58c681d81b5e181816b81cc815b82edf3daad905b4d7d35afade80aee93b5f",
        size=2_348_952,
    ),
    Entry(
        "xception41_imagenet",
        f"{_GOOGLE}xception_41_2018_05_09.tar.gz",
        "xception41, backbone",
        ("ImageNet",),
        288,
    ),
    Entry(
        "xception65_imagenet",
        f"{_GOOGLE}deeplabv3_xception_2018_01_04.tar.gz",
        "xception65, backbone",
        ("ImageNet",),
        447,
    ),
    Entry(
        "xception65_imagenet_coco",
        f"{_GOOGLE}xception_65_coco_pretrained_2018_10_02.tar.gz",
        "xception65, backbone and COCO head",
        ("ImageNet", "COCO"),
        292,
    ),
    Entry(
        "xception71_imagenet",
        f"{_GOOGLE}xception_71_2018_05_09.tar.gz",
        "xception71, backbone",
        ("ImageNet",),
        474,
    ),
    Entry(
        "resnet50_beta_imagenet",
        f"{_GOOGLE}resnet_v1_50_2018_05_04.tar.gz",
        "resnet50, backbone",
        ("ImageNet",),
        274,
    ),
    Entry(
        "resnet101_beta_imagenet",
        f"{_GOOGLE}resnet_v1_101_2018_05_04.tar.gz",
        "resnet101, backbone",
        ("ImageNet",),
        477,
    ),
    Entry(
        "mobilenet_v2_imagenet_quant",
        f"{_CORAL}mobilenet_v2_1.0_224_quant.tflite",
        "mobilenet_v2, backbone, uint8",
        ("ImageNet",),
        3.6,
        digest="sha256:7aad0c74c5e3c06e5eb3c827e13304fdd68a83da6087d92ee169c24ff9fd4776",
        size=3_610_798,
    ),
    Entry(
        "mobilenet_v2_imagenet_ptq",
        f"{_CORAL}tf2_mobilenet_v2_1.0_224_ptq.tflite",
        "mobilenet_v2, backbone, int8 per channel",
        ("ImageNet",),
        4.1,
        digest="sha256:5d3137241276e79c86d14a74fe43581398ae0e815191d3dba45495b810840e8c",
        size=4_070_174,
    ),
)
_BY_NAME = {entry.name: entry for entry in ENTRIES}


def names() -> tuple[str, ...]:
    """Returns the names of all entries."""
    return tuple(_BY_NAME)


def entry(name: str) -> Entry:
    """Returns an entry.

    Raises:
        AtrousError: Unknown, with the nearest names.
    """
    if name not in _BY_NAME:
        raise unknown_name("published model", name, _BY_NAME)
    return _BY_NAME[name]


def download(name: str, *, digest: str | None = None) -> Path:
    """Returns an entry's file, from the cache or downloaded.

    Args:
        name: Of the entry.
        digest: The file's SHA-256, needed where the entry has none.

    Raises:
        AtrousError: No hash is known and none was given; or as `download.fetch`.
    """
    found = entry(name)
    if digest is None and found.digest is None:
        raise AtrousError(
            "E-DOWNLOAD-NO-HASH",
            f"{name}: its publisher gives no hash, and nothing is downloaded without one",
            where=found.url,
            fix="give the file's SHA-256 (--sha256) if you have it from somebody you trust, "
            "or download the file yourself and name its path",
        )
    return fetch(found.url, digest or found.digest or "", size=found.size)
