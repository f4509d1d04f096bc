"""Labelled pictures in the seven forms people have them, for `finetune.py` and its tests."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.classes import pascal_palette
from atrous.predict.annotate import Picture, regions_of, write_annotations
from atrous.predict.regions import coco_annotation

OUTLINES = ("labelme", "cvat", "coco", "yolo")
KINDS = (*OUTLINES, "index", "colour", "binary")

Labelled = Iterable[tuple[NDArray[np.uint8], NDArray[Any]]]


def write_set(
    kind: str, pictures: Labelled, classes: Sequence[str], root: Path, *, objects: int = 1
) -> Path:
    """Writes a data set without splits, as a labelling tool or a script would.

    Args:
        kind: One of `KINDS`.
        pictures: Pictures (H, W, 3) and labels (H, W); 255 is unlabelled. Tools draw outlines to
            the visible border, so for `OUTLINES` an unlabelled pixel gets the nearest label.
        classes: Names by label; the first is "background".
        root: The data set becomes the folder ``kind`` below.
        objects: First label that is white in the masks of 0 and 255 (``binary``).

    Returns:
        The folder.
    """
    folder = root / kind
    masks = root / "label maps" if kind in OUTLINES else folder / "masks"
    files = []
    for index, (image, labels) in enumerate(pictures):
        picture, mask = folder / "images" / f"{index:03d}.png", masks / f"{index:03d}.png"
        for path, pixels in ((picture, image), (mask, _mask(kind, labels, objects))):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        files.append(Picture(picture, mask, (image.shape[0], image.shape[1]), picture.stem))
    if kind == "coco":
        _write_coco(files, classes, folder)
    elif kind in OUTLINES:
        write_annotations(kind, files, classes, root)
    elif kind == "index":
        (folder / "classes.txt").write_text("\n".join(classes))
    elif kind == "colour":
        rows = zip(classes, pascal_palette(len(classes)), strict=True)
        lines = [f"{name},{r},{g},{b}\n" for name, (r, g, b) in (*rows, ("void", _VOID))]
        (folder / "class_dict.csv").write_text("name,r,g,b\n" + "".join(lines))
    if kind == "yolo":  # its pictures have no split yet
        text = (folder / "data.yaml").read_text()
        (folder / "data.yaml").write_text(text.replace("val: images\n", ""))
    return folder


_VOID = (224, 224, 192)


def _mask(kind: str, labels: NDArray[Any], objects: int) -> NDArray[np.uint8]:
    """Returns the pixels of a mask file."""
    labels = labels.astype(np.uint8)
    if kind == "binary":
        return np.where((labels >= objects) & (labels < 255), 255, 0).astype(np.uint8)
    if kind == "colour":
        table = np.array([*pascal_palette(255), _VOID], np.uint8)
        return table[labels]
    return _nearest(labels) if kind in OUTLINES else labels


def _nearest(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Gives each unlabelled pixel the label of the nearest labelled one."""
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(
        labels == 255, return_distances=False, return_indices=True
    )
    return labels[rows, columns]


def _write_coco(files: Sequence[Picture], classes: Sequence[str], folder: Path) -> None:
    images, annotations = [], []
    for number, file in enumerate(files):
        height, width = file.size
        images.append({"id": number, "file_name": file.path.name, "height": height, "width": width})
        for region in regions_of(np.asarray(Image.open(file.labels)), classes):
            ids = {"id": len(annotations), "image_id": number}
            category = classes.index(region.label)
            annotations.append(
                coco_annotation(region.polygon, region.area, category_id=category, **ids)
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(classes) if index]
    content = {"images": images, "categories": categories, "annotations": annotations}
    path = folder / "annotations" / "instances.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
