#!/usr/bin/env python3
"""Makes one data set of street scenes, in Cityscapes' 19 classes, of a Cityscapes and CamVid.

python scripts/street_data.py --cityscapes cityscapes_small --camvid camvid --out street_data

The new folder holds links to the pictures of both, masks with Cityscapes' train ids, and a dataset
YAML with three splits:

- train: both training sets, CamVid's pictures three times, so that they are a third of all, or as
  often as --copies says;
- val: every second validation picture of each, to choose by;
- test: the other validation pictures, by which nothing is chosen.

CamVid's eleven classes (SegNet's) are unions of Cityscapes'. Each becomes its most frequent part,
which is right once the parts are merged again: Building (with walls) is building, Car (with trucks
and buses) car, SignSymbol (with traffic lights and lettering) traffic sign, Tree (with hedges and
grass) vegetation. A Bicyclist is a rider above and a bicycle below.
"""

import argparse
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from scipy import ndimage

from atrous.classes import CITYSCAPES
from atrous.data.dataset import FileDataset, Target
from atrous.data.opening import open_dataset

RIDER = 0.55  # of a bicyclist's height; the rest is the bicycle

CAMVID = {
    "Sky": "sky",
    "Building": "building",
    "Pole": "pole",
    "Road": "road",
    "Pavement": "sidewalk",
    "Tree": "vegetation",
    "SignSymbol": "traffic sign",
    "Fence": "fence",
    "Car": "car",
    "Pedestrian": "person",
    "Bicyclist": "rider",
}


def main() -> None:
    """Writes the data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cityscapes", type=Path, required=True)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist")
    parser.add_argument("--copies", type=int, default=3, help="of each training picture of CamVid")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True)
    for split in ("train", "val", "test"):
        (asked.out / "images" / split).mkdir(parents=True)
        (asked.out / "masks" / split).mkdir(parents=True)
    for name, path in (("cityscapes", asked.cityscapes), ("camvid", asked.camvid)):
        copies = asked.copies if name == "camvid" else 1
        write(opened(path, "train"), name, ("train",), asked.out, copies)
        write(opened(path, "val"), name, ("val", "test"), asked.out)
    splits = {split: f"images/{split}" for split in ("train", "val", "test")}
    colors = dict(zip(CITYSCAPES.classes, map(list, CITYSCAPES.palette), strict=True))
    names = dict(enumerate(CITYSCAPES.classes))
    content = {"path": ".", **splits, "masks_dir": "masks", "names": names, "colors": colors}
    (asked.out / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def opened(path: Path, split: str) -> FileDataset:
    """Opens a set of files."""
    data = open_dataset(path, split)
    assert isinstance(data, FileDataset), path
    return data


def write(
    data: FileDataset, name: str, splits: tuple[str, ...], out: Path, copies: int = 1
) -> None:
    """Writes a set's pictures, to one split after the other in turn."""
    camvid = data.classes != CITYSCAPES.classes
    for index, item in enumerate(data.items):
        split = splits[index % len(splits)]
        labels = data[index].target
        mask = Image.fromarray(cityscapes_ids(labels, data.classes) if camvid else labels)
        for copy in range(copies):
            stem = f"{name}_{copy}_{item.image.stem}" if copies > 1 else f"{name}_{item.image.stem}"
            link = out / "images" / split / f"{stem}{item.image.suffix}"
            link.symlink_to(item.image.resolve())
            mask.save(out / "masks" / split / f"{stem}.png")


def cityscapes_ids(labels: Target, classes: tuple[str, ...]) -> Target:
    """Returns CamVid's labels (H, W) as Cityscapes' train ids."""
    ids = np.full(256, 255, np.uint8)
    ids[: len(classes)] = [CITYSCAPES.classes.index(CAMVID[name]) for name in classes]
    found = ids[labels]
    parts, _ = ndimage.label(labels == classes.index("Bicyclist"))
    for rows, columns in ndimage.find_objects(parts):
        lower = slice(rows.start + round(RIDER * (rows.stop - rows.start)), rows.stop)
        part = found[lower, columns]
        part[part == CITYSCAPES.classes.index("rider")] = CITYSCAPES.classes.index("bicycle")
    return found


if __name__ == "__main__":
    main()
