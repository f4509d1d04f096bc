"""Table of weights published by others: name, address, hash, network, published scores.

Sources: the model zoo page of tensorflow/models (research/deeplab/g3doc/model_zoo.md), the files
of google-coral/test_data and mlcommons/mobile_models, and Intel's Open Model Zoo for one hash.
The scores are those that the publishers state. `Entry.measured` holds the results that this
project measured itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from atrous.errors import AtrousError, unknown_name


class Score(NamedTuple):
    """A published mean IoU and how it was measured."""

    mean_iou: float
    data: str
    output_stride: int
    scales: str = "1.0"
    flip: bool = False

    def __str__(self) -> str:
        flip = ", flip" if self.flip else ""
        scales = f", scales {self.scales}" if self.scales != "1.0" else ""
        return f"{self.mean_iou:.2%} {self.data}, output stride {self.output_stride}{scales}{flip}"


@dataclass(frozen=True)
class Entry:
    """One published file.

    Args:
        name: Name on the command line.
        url: Address at its publisher.
        network: Backbone and head.
        trained_on: Data sets in order. Each has its own terms, which `licence` does not cover.
        megabytes: Published size.
        scores: Published scores.
        digest: ``sha256:`` or ``sha384:`` of the file. None: the publisher states no hash and this
            project never had the file, so the user must give the hash.
        size: Bytes, if known.
        measured: Results of this project.
        licence: Licence of the file.
    """

    name: str
    url: str
    network: str
    trained_on: str
    megabytes: float
    scores: tuple[Score, ...] = ()
    digest: str | None = None
    size: int | None = None
    measured: str = "not run"
    licence: str = "Apache-2.0"

    @property
    def file(self) -> str:
        """The name of the file at its publisher."""
        return self.url.rsplit("/", 1)[-1]


def _at(address: str) -> Callable[..., Entry]:
    """Returns what makes an entry from a name, the file at an address, and further columns."""
    return lambda name, file, *columns, **more: Entry(name, address.format(file), *columns, **more)


_google = _at("http://download.tensorflow.org/models/{}.tar.gz")
_coral = _at("https://github.com/google-coral/test_data/raw/master/{}.tflite")
_mlcommons = _at("https://github.com/mlcommons/mobile_models/raw/main/v0_7/tflite/{}.tflite")

_VAL, _TEST, _CITY, _CITY_TEST = "VOC val", "VOC test", "Cityscapes val", "Cityscapes test"
_ALL, _CITY_ALL = ("0.5-1.75", True), ("0.75-1.25", True)
_VOC_AUG = "ImageNet, COCO, VOC 2012 trainaug"
_VOC_TRAINVAL = "ImageNet, COCO, VOC 2012 trainval"
_FINE = "Cityscapes train_fine"
_PLAIN_V2 = "mobilenet_v2, no atrous branches, no decoder"

# fmt: off
ENTRIES: tuple[Entry, ...] = (
    _google("mobilenetv2_dm05_coco_voc_trainaug", "deeplabv3_mnv2_dm05_pascal_trainaug_2018_10_01",
            f"half {_PLAIN_V2}", _VOC_AUG, 7.6, (Score(.7019, _VAL, 16),)),
    _google("mobilenetv2_dm05_coco_voc_trainval", "deeplabv3_mnv2_dm05_pascal_trainval_2018_10_01",
            f"half {_PLAIN_V2}", _VOC_TRAINVAL, 7.6, (Score(.7183, _TEST, 8),)),
    _google("mobilenetv2_coco_voc_trainaug", "deeplabv3_mnv2_pascal_train_aug_2018_01_29",
            _PLAIN_V2, _VOC_AUG, 23, (Score(.7532, _VAL, 16), Score(.7733, _VAL, 8, *_ALL)),
            # Intel's Open Model Zoo, models/public/deeplabv3/model.yml
            digest="sha384:d3f2b27bb00c485ca45d68731f7198a23926cb865dd010fc444bcad9158e3341"
                   "3cd60da2588a9be3ff1e8c9b4557362b", size=23_882_985),
    _google("mobilenetv2_coco_voc_trainval", "deeplabv3_mnv2_pascal_trainval_2018_01_29",
            _PLAIN_V2, _VOC_TRAINVAL, 23, (Score(.8025, _TEST, 8, *_ALL),)),
    _google("xception65_coco_voc_trainaug", "deeplabv3_pascal_train_aug_2018_01_04",
            "xception65, ASPP, decoder", _VOC_AUG, 439,
            (Score(.8220, _VAL, 16), Score(.8358, _VAL, 8, *_ALL))),
    _google("xception65_coco_voc_trainval", "deeplabv3_pascal_trainval_2018_01_04",
            "xception65, ASPP, decoder", _VOC_TRAINVAL, 439, (Score(.8780, _TEST, 8, *_ALL),)),
    _google("mobilenetv2_coco_cityscapes_trainfine", "deeplabv3_mnv2_cityscapes_train_2018_02_05",
            _PLAIN_V2, f"ImageNet, COCO, {_FINE}", 23,
            (Score(.7071, _CITY, 16), Score(.7357, _CITY, 8, *_CITY_ALL))),
    _google("mobilenetv3_large_cityscapes_trainfine",
            "deeplab_mnv3_large_cityscapes_trainfine_2019_11_15",
            "mobilenet_v3_large, LR-ASPP", _FINE, 17, (Score(.7241, _CITY, 32),)),
    _google("mobilenetv3_small_cityscapes_trainfine",
            "deeplab_mnv3_small_cityscapes_trainfine_2019_11_15",
            "mobilenet_v3_small, LR-ASPP", _FINE, 5, (Score(.6899, _CITY, 32),)),
    _google("xception65_cityscapes_trainfine", "deeplabv3_cityscapes_train_2018_02_06",
            "xception65, ASPP, decoder", f"ImageNet, {_FINE}", 439,
            (Score(.7879, _CITY, 16), Score(.8042, _CITY, 8, *_CITY_ALL))),
    _google("xception71_dpc_cityscapes_trainfine",
            "deeplab_cityscapes_xception71_trainfine_2018_09_08",
            "xception71, dense prediction cell, decoder", f"ImageNet, COCO, {_FINE}", 445,
            (Score(.8031, _CITY, 16),)),
    _google("xception71_dpc_cityscapes_trainval",
            "deeplab_cityscapes_xception71_trainvalfine_2018_09_08",
            "xception71, dense prediction cell, decoder",
            "ImageNet, COCO, Cityscapes trainval_fine and coarse", 446,
            (Score(.8266, _CITY_TEST, 8, "0.75-2", True),)),
    _google("mobilenetv2_ade20k_train", "deeplabv3_mnv2_ade20k_train_2018_12_03",
            "mobilenet_v2, no atrous branches, decoder", "ImageNet, ADE20K train", 24.8,
            (Score(.3204, "ADE20K val at 257", 16),)),
    _google("xception65_ade20k_train", "deeplabv3_xception_ade20k_train_2018_05_29",
            "xception65, ASPP, decoder", "ImageNet, ADE20K train", 439,
            (Score(.4565, "ADE20K val at 513", 8, *_ALL),)),
    _coral("mobilenetv2_voc_quant", "deeplabv3_mnv2_pascal_quant",
           f"{_PLAIN_V2}, uint8", "VOC 2012", 2.2, size=2_193_224,
           digest="sha256:350af47fd346ea6d74b58833a351f583ba860e9806ec5bd292ff8d8f1f249398",
           measured="dequantised, 7 classes of 223 pictures of VOC 2012 val (docs/results.md): "
           ".8169 padded to 513, .8355 at native size"),
    _mlcommons("mobilenetv2_ade20k_31_quant", "deeplabv3_mnv2_ade20k_uint8",
               "mobilenet_v2, no atrous branches, decoder, uint8", "31 classes of ADE20K", 2.3,
               size=2_348_952,
               digest="sha256:2d58c681d81b5e181816b81cc815b82edf3daad905b4d7d35afade80aee93b5f"),
    _google("xception41_imagenet", "xception_41_2018_05_09", "xception41, backbone", "ImageNet",
            288),
    _google("xception65_imagenet", "deeplabv3_xception_2018_01_04", "xception65, backbone",
            "ImageNet", 447),
    _google("xception65_imagenet_coco", "xception_65_coco_pretrained_2018_10_02",
            "xception65, backbone", "ImageNet, COCO", 292),
    _google("xception71_imagenet", "xception_71_2018_05_09", "xception71, backbone", "ImageNet",
            474),
    _google("resnet50_imagenet", "resnet_v1_50_2018_05_04", "resnet50, backbone", "ImageNet", 274),
    _google("resnet101_imagenet", "resnet_v1_101_2018_05_04", "resnet101, backbone", "ImageNet",
            477),
    _coral("mobilenetv2_imagenet_quant", "mobilenet_v2_1.0_224_quant",
           "mobilenet_v2, backbone, uint8", "ImageNet", 3.6, size=3_610_798,
           digest="sha256:7aad0c74c5e3c06e5eb3c827e13304fdd68a83da6087d92ee169c24ff9fd4776"),
    _coral("mobilenetv2_imagenet_ptq", "tf2_mobilenet_v2_1.0_224_ptq",
           "mobilenet_v2, backbone, int8 by channel", "ImageNet", 4.1, size=4_070_174,
           digest="sha256:5d3137241276e79c86d14a74fe43581398ae0e815191d3dba45495b810840e8c"),
)
# fmt: on
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
    """Returns an entry's file: from the cache, or downloaded.

    Args:
        name: Name of the entry.
        digest: SHA-256 of the file, needed if the entry has no hash.

    Raises:
        AtrousError: ``E-DOWNLOAD-NO-HASH`` if no hash is known and none is given; or as
            `download.fetch`.
    """
    from atrous.weights.download import fetch  # needs the train extra; this table does not

    found = entry(name)
    if digest is None and found.digest is None:
        raise AtrousError(
            "E-DOWNLOAD-NO-HASH",
            f"the publisher of {name} states no hash, and no file is downloaded without one",
            where=found.url,
            fix="give the file's SHA-256 with --sha256 if a source you trust states it, or "
            "download the file yourself and name its path",
        )
    return fetch(found.url, digest or found.digest or "", size=found.size)
