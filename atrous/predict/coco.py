"""Regions of many pictures in one JSON file, in COCO's instance format."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atrous.images.decode import atomic
from atrous.predict.annotate import read_labels, regions_of
from atrous.predict.batch import Outcome
from atrous.predict.regions import coco_annotation


class CocoRegions:
    """Collects the regions of finished pictures as polygons.

    Category ids are label values plus 1. Pixels of the unknown are left out. The ids of pictures
    are their places among all pictures of the call, so that files of several shards can be joined.

    Args:
        classes: Names in the order of the label values.
        tolerance: Largest distance between a polygon and the region's outline, in pixels. 0: exact.
        background: Whether the class ``background`` has regions too.
    """

    def __init__(
        self, classes: Sequence[str], *, tolerance: float = 0.0, background: bool = True
    ) -> None:
        self._classes, self._tolerance = classes, tolerance
        self._left_out = () if background else ("background",)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, outcome: Outcome) -> None:
        """Adds the regions of a picture without an error."""
        assert outcome.record is not None
        height, width = outcome.record["size"]
        image = {"id": outcome.place, "file_name": outcome.name}
        self._images.append({**image, "height": height, "width": width})
        labels = read_labels(outcome.record["labels"], (height, width))
        for region in regions_of(labels, self._classes, self._tolerance, self._left_out):
            ids = {"id": len(self._annotations) + 1, "image_id": outcome.place}
            ids["category_id"] = self._classes.index(region.label) + 1
            self._annotations.append(coco_annotation(region.polygon, region.area, **ids))

    def write(self, path: Path) -> int:
        """Writes the file and returns the number of regions."""
        categories = [
            {"id": i, "name": name}
            for i, name in enumerate(self._classes, start=1)
            if name not in self._left_out
        ]
        content = {
            "images": self._images,
            "categories": categories,
            "annotations": self._annotations,
        }
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
        return len(self._annotations)
