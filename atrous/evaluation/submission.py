"""Files for benchmark servers: archives of masks for VOC and Cityscapes, JSON for COCO-Stuff.

Formats: the VOC 2012 development kit's documentation, Sec. 5; cityscapesScripts' evaluation; and
COCO's results format with the stuff challenge's categories.
"""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.classes import CITYSCAPES, VOC
from atrous.data.formats import cityscapes
from atrous.errors import AtrousError
from atrous.evaluation.networks import open_network, prepared
from atrous.evaluation.views import Views, segment
from atrous.images.decode import atomic, read_image
from atrous.predict.rle import encode_coco

Benchmark = Literal["voc", "cityscapes", "coco-stuff"]
Result = tuple[str, NDArray[Any]]  # a picture's name without suffix, and its labels (H, W)

VOC_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"  # comp6: trained on any data
COCO_CLASSES = 182  # of COCO-Stuff's label maps: class i is category i + 1
COCO_THINGS = 91  # ids up to here are things; the stuff challenge merges them into OTHER
COCO_OTHER = 183


def predictions(
    model: Any, pictures: Iterable[Path], views: Views, *, output_stride: int | None = None
) -> Iterator[Result]:
    """Yields the predicted labels of pictures.

    Args:
        model: As in `evaluate`.
        pictures: Their files.
        views: Scales, flip, padding and window.
        output_stride: None: the model's own.

    Raises:
        AtrousError: A picture cannot be read, or two pictures have the same name.
    """
    network, _ = open_network(model)
    seen: set[str] = set()
    with prepared(network, output_stride):
        for path in pictures:
            if path.stem in seen:
                raise AtrousError(
                    "E-SUBMISSION-TWICE", "two pictures of this name", where=path,
                    fix="the benchmark knows pictures by name alone; leave one out",
                )  # fmt: skip
            seen.add(path.stem)
            image = np.asarray(read_image(path))
            yield path.stem, segment(network, image, views, where=path)[0]


def write(benchmark: Benchmark, results: Iterable[Result], num_classes: int, path: Path) -> int:
    """Writes results in the format of a benchmark's server; the file is whole or absent.

    Args:
        benchmark: ``voc`` (a .tar.gz), ``cityscapes`` (a .zip) or ``coco-stuff`` (a .json).
        results: Names and labels of pictures.
        num_classes: The model's number of classes; it must be the benchmark's.
        path: The file.

    Returns:
        The number of pictures.

    Raises:
        AtrousError: The wrong number of classes, or a COCO picture whose name is not a number.
    """
    writer, expected = {
        "voc": (_write_voc, len(VOC.classes)),
        "cityscapes": (_write_cityscapes, len(CITYSCAPES.classes)),
        "coco-stuff": (_write_coco, COCO_CLASSES),
    }[benchmark]
    if num_classes != expected:
        raise AtrousError(
            "E-CLASSES",
            f"{benchmark} has {expected} classes, in a fixed order; the model has {num_classes}",
            fix="use a model trained on this benchmark's classes",
        )
    count = 0

    def counted() -> Iterator[Result]:
        nonlocal count
        for result in results:
            count += 1
            yield result

    with atomic(path) as temporary:
        writer(counted(), temporary)
    return count


def _write_voc(results: Iterable[Result], path: Path) -> None:
    """Writes masks with VOC's palette; the server takes indices 0..20."""
    palette = [channel for color in VOC.palette for channel in color]
    with tarfile.open(path, "w:gz") as archive:
        for name, labels in results:
            mask = Image.fromarray(labels.astype(np.uint8), "P")
            mask.putpalette(palette)
            data = _png(mask)
            entry = tarfile.TarInfo(f"{VOC_FOLDER}/{name}.png")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def _write_cityscapes(results: Iterable[Result], path: Path) -> None:
    """Writes grey masks of raw ids; names start with CITY_SEQUENCE_FRAME for the server."""
    # PNG files are compressed already.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, labels in results:
            mask = Image.fromarray(cityscapes.submission(labels.astype(np.uint8)))
            archive.writestr(f"{name.removesuffix('_leftImg8bit')}.png", _png(mask))


def _write_coco(results: Iterable[Result], path: Path) -> None:
    """Writes one run-length encoded mask for each category of each picture."""
    segments: list[dict[str, object]] = []
    for name, labels in results:
        if not name.isdecimal():
            raise AtrousError(
                "E-SUBMISSION-NAME",
                "COCO knows pictures by number",
                where=name,
                fix="keep COCO's file names, such as 000000000139.jpg",
            )
        categories = labels.astype(np.int64) + 1
        categories[categories <= COCO_THINGS] = COCO_OTHER
        segments += [
            {
                "image_id": int(name),
                "category_id": int(category),
                "segmentation": encode_coco(categories == category),
            }
            for category in np.unique(categories)
        ]
    path.write_text(json.dumps(segments), encoding="utf-8")


def _png(mask: Image.Image) -> bytes:
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return buffer.getvalue()
