"""Label maps as annotations that labelling tools import: LabelMe, CVAT, YOLO, Label Studio.

A region is a connected set of pixels of one class. With a tolerance, regions become polygons whose
corners lie on the region's outline and whose edges stay within the tolerance of it. With tolerance
0, formats that have masks get the exact mask of each class (LabelMe, CVAT), and others the exact
outline (YOLO). The class ``background`` is left out: tools take pixels without a shape for it.
"""

import base64
import io
import json
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.errors import unknown_name
from atrous.images.decode import open_image, write
from atrous.predict.regions import Polygon, boxed, outlines, polygon_area, simplified
from atrous.predict.rle import encode_runs

TOLERANCE = 1.0  # pixels


class Picture(NamedTuple):
    """A finished picture: its file, the label file that `atrous predict` wrote, its name."""

    path: Path
    labels: Path
    size: tuple[int, int]  # (height, width)
    name: str  # relative path without suffix, unique among the pictures
    confidence: float | None = None  # mean probability of the labels

    @property
    def file_name(self) -> str:
        """The name with the picture's suffix, which it has already if two names differ by it."""
        suffix = self.path.suffix
        return self.name if self.name.endswith(suffix) else self.name + suffix


class Region(NamedTuple):
    """A region as polygon; `area` in pixels."""

    label: str
    polygon: Polygon  # (n, 2) corners (x, y); pixel (row, column) is [column, column + 1] wide
    area: int


def write_annotations(
    kind: str,
    pictures: Sequence[Picture],
    classes: Sequence[str],
    out: Path,
    *,
    tolerance: float = TOLERANCE,
) -> Path:
    """Writes annotations of pictures for a labelling tool.

    Args:
        kind: ``labelme``, ``cvat``, ``yolo`` or ``label-studio``.
        pictures: The finished pictures.
        classes: Names in the order of the label values.
        out: A folder; the annotations go into the folder ``kind`` below it.
        tolerance: Largest distance between a polygon and the region's outline, in pixels. 0: exact.

    Returns:
        The folder or file to import.

    Raises:
        AtrousError: An unknown kind of annotations.
    """
    if kind not in WRITERS:
        raise unknown_name("kind of annotations", kind, WRITERS)
    return WRITERS[kind](pictures, classes, out / kind, tolerance)


def regions_of(
    labels: NDArray[Any],
    classes: Sequence[str],
    tolerance: float = 0.0,
    left_out: Sequence[str] = ("background",),
) -> Iterator[Region]:
    """Yields the regions of a label map, large ones first, so that small ones are drawn over them.

    Args:
        labels: (H, W).
        classes: Names by label value; other values (unknown) have no region.
        tolerance: As in `write_annotations`.
        left_out: Classes without regions.
    """
    found = []
    for label in np.unique(labels[labels < len(classes)]).tolist():
        if classes[label] in left_out:
            continue
        for ring in outlines(labels == label):
            polygon = simplified(ring, tolerance)
            if len(polygon) >= 3:  # a region thinner than the tolerance may vanish
                found.append(Region(classes[label], polygon, polygon_area(ring)))
    yield from sorted(found, key=lambda region: -region.area)


def _labelme(
    pictures: Sequence[Picture], classes: Sequence[str], out: Path, tolerance: float
) -> Path:
    """Writes one JSON file for each picture; ``imagePath`` leads from the file to the picture."""
    for picture in pictures:
        path = out / f"{picture.name}.json"
        labels = read_labels(picture.labels, picture.size)
        height, width = labels.shape
        if tolerance:
            shapes = [
                _labelme_shape(region.label, "polygon", region.polygon.tolist())
                for region in regions_of(labels, classes, tolerance)
            ]
        else:
            shapes = [
                _labelme_shape(name, "mask", [[left, top], [right - 1, bottom - 1]], _png(mask))
                for name, mask, (left, top, right, bottom) in _masks(labels, classes)
            ]
        image_path = os.path.relpath(picture.path.absolute(), path.parent.absolute())
        content = {
            "version": "5.5.0", "flags": {}, "shapes": shapes,
            "imagePath": Path(image_path).as_posix(), "imageData": None,
            "imageHeight": height, "imageWidth": width,
        }  # fmt: skip
        write(path, json.dumps(content, indent=1).encode())
    return out


def _labelme_shape(label: str, kind: str, points: Any, mask: str | None = None) -> dict[str, Any]:
    return {
        "label": label, "points": points, "group_id": None, "description": "",
        "shape_type": kind, "flags": {}, "mask": mask,
    }  # fmt: skip


def _png(mask: NDArray[np.bool_]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _cvat(pictures: Sequence[Picture], classes: Sequence[str], out: Path, tolerance: float) -> Path:
    """Writes annotations.xml, «CVAT for images 1.1»; CVAT matches pictures by their names."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    known = ElementTree.SubElement(task, "labels")
    for name in classes:
        if name != "background":
            label = ElementTree.SubElement(known, "label")
            ElementTree.SubElement(label, "name").text = name
            ElementTree.SubElement(label, "attributes")
    for number, picture in enumerate(pictures):
        labels = read_labels(picture.labels, picture.size)
        height, width = labels.shape
        image = ElementTree.SubElement(
            root, "image", id=str(number), name=picture.file_name,
            width=str(width), height=str(height),
        )  # fmt: skip
        if tolerance:
            for region in regions_of(labels, classes, tolerance):
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in region.polygon.tolist())
                ElementTree.SubElement(
                    image, "polygon", label=region.label, source="auto", occluded="0",
                    points=points, z_order="0",
                )  # fmt: skip
            continue
        for name, mask, (left, top, right, bottom) in _masks(labels, classes):
            ElementTree.SubElement(
                image, "mask", label=name, source="auto", occluded="0",
                rle=", ".join(map(str, encode_runs(mask.ravel()))), left=str(left), top=str(top),
                width=str(right - left), height=str(bottom - top), z_order="0",
            )  # fmt: skip
    ElementTree.indent(root)
    write(out / "annotations.xml", ElementTree.tostring(root, "utf-8", xml_declaration=True))
    return out / "annotations.xml"


def _yolo(pictures: Sequence[Picture], classes: Sequence[str], out: Path, tolerance: float) -> Path:
    """Writes ``labels/NAME.txt`` and data.yaml; the pictures belong into ``images/``."""
    names = [name for name in classes if name != "background"]
    for picture in pictures:
        labels = read_labels(picture.labels, picture.size)
        height, width = labels.shape
        lines = []
        for region in regions_of(labels, classes, tolerance):
            shares = (region.polygon / (width, height)).ravel()
            numbers = " ".join(f"{value:.6f}" for value in shares)
            lines.append(f"{names.index(region.label)} {numbers}\n")
        write(out / "labels" / f"{picture.name}.txt", "".join(lines).encode())
    listed = "".join(f"  {index}: {json.dumps(name)}\n" for index, name in enumerate(names))
    head = "# Copy the pictures into images/.\npath: .\ntrain: images\nval: images\nnames:\n"
    write(out / "data.yaml", (head + listed).encode())
    return out / "data.yaml"


def _label_studio(
    pictures: Sequence[Picture], classes: Sequence[str], out: Path, tolerance: float
) -> Path:
    """Writes tasks.json: tasks with predictions, as brush masks of each class.

    The labelling configuration needs ``<Image name="image" value="$image"/>`` and
    ``<BrushLabels name="label" toName="image">``.
    """
    tasks = []
    for picture in pictures:
        labels = read_labels(picture.labels, picture.size)
        height, width = labels.shape
        results: list[dict[str, Any]] = []
        for index, name in enumerate(classes):
            mask = labels == index
            if name == "background" or not mask.any():
                continue
            results.append({
                "id": f"{len(results)}", "type": "brushlabels", "from_name": "label",
                "to_name": "image", "original_width": width, "original_height": height,
                "image_rotation": 0,
                "value": {"format": "rle", "rle": brush_rle(mask), "brushlabels": [name]},
            })  # fmt: skip
        prediction: dict[str, Any] = {"model_version": "atrous", "result": results}
        if picture.confidence is not None:
            prediction["score"] = picture.confidence
        tasks.append({"data": {"image": str(picture.path)}, "predictions": [prediction]})
    write(out / "tasks.json", json.dumps(tasks).encode())
    return out / "tasks.json"


WRITERS: Mapping[str, Callable[[Sequence[Picture], Sequence[str], Path, float], Path]] = {
    "labelme": _labelme,
    "cvat": _cvat,
    "yolo": _yolo,
    "label-studio": _label_studio,
}


def brush_rle(mask: NDArray[np.bool_]) -> list[int]:
    """Returns a mask in Label Studio's run lengths, as bytes.

    The format packs bits: 32 bits for the number of values, 5 for the size of a value less one (8
    bits), four times 4 for the sizes of run lengths less one (3, 4, 8 and 16 bits). A run is a 1, 2
    bits for which of the four sizes, its length less one, and the value. The values are the RGBA
    channels of the mask, row by row: every pixel is 4 times 0 or 4 times 255.
    """
    sizes = (3, 4, 8, 16)
    bits = [f"{4 * mask.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in sizes)]
    value = 0
    for length in encode_runs(mask.ravel()):
        left = 4 * length
        while left:
            run = min(left, 1 << sizes[-1])
            which = next(i for i, size in enumerate(sizes) if run <= 1 << size)
            bits.append(f"1{which:02b}{run - 1:0{sizes[which]}b}{value:08b}")
            left -= run
        value = 255 - value
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _masks(
    labels: NDArray[Any], classes: Sequence[str]
) -> Iterator[tuple[str, NDArray[np.bool_], tuple[int, int, int, int]]]:
    """Yields name, mask within its box, and the box (left, top, right, bottom) of each class."""
    for label in np.unique(labels[labels < len(classes)]).tolist():
        if classes[label] != "background":
            mask = labels == label
            yield classes[label], *boxed(mask)


def read_labels(path: str | Path, size: tuple[int, int]) -> NDArray[Any]:
    """Returns the labels (H, W) that `atrous predict` wrote for a picture of this size."""
    with open_image(path, max_pixels=size[0] * size[1]) as image:
        return np.asarray(image)
