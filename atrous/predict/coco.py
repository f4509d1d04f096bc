"""Regions of many pictures in one JSON file, in COCO's instance format."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atrous.images.decode import write
from atrous.predict.annotate import read_labels, regions_of
from atrous.predict.batch import Outcome
from atrous.predict.regions import coco_annotation


def write_coco(
    path: Path,
    outcomes: Sequence[Outcome],
    classes: Sequence[str],
    *,
    tolerance: float = 0.0,
    background: bool = True,
) -> int:
    """Writes the regions of pictures without an error; returns the number of regions.

    Category ids are label values plus 1. Pixels of the unknown are left out. The ids of pictures
    are their places among all pictures of the call, so that files of several shards can be joined.

    Args:
        path: The file.
        outcomes: Of the pictures.
        classes: Names in the order of the label values.
        tolerance: Largest distance between a polygon and the region's outline, in pixels. 0: exact.
        background: Whether the class ``background`` has regions too.
    """
    left_out = () if background else ("background",)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for outcome in outcomes:
        assert outcome.record is not None
        height, width = outcome.record["size"]
        image = {"id": outcome.place, "file_name": outcome.name}
        images.append({**image, "height": height, "width": width})
        labels = read_labels(outcome.record["labels"], (height, width))
        for region in regions_of(labels, classes, tolerance, left_out):
            ids = {"id": len(annotations) + 1, "image_id": outcome.place}
            ids["category_id"] = classes.index(region.label) + 1
            annotations.append(coco_annotation(region.polygon, region.area, **ids))
    categories = [
        {"id": i, "name": name} for i, name in enumerate(classes, start=1) if name not in left_out
    ]
    content = {"images": images, "categories": categories, "annotations": annotations}
    write(path, json.dumps(content).encode())
    return len(annotations)
