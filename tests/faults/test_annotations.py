import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from atrous.data.doctor.diagnosis import examine
from atrous.data.doctor.survey import survey
from atrous.data.opening import open_dataset, recognise
from atrous.errors import AtrousError
from tests.data.formats.test_coco import SEGMENTS, coco, instances, panoptic
from tests.data.formats.test_cvat import SHAPES as CVAT_SHAPES
from tests.data.formats.test_cvat import cvat, image
from tests.data.formats.test_labelme import SHAPES as LABELME_SHAPES
from tests.data.formats.test_labelme import labelme
from tests.data.formats.test_shards import shards
from tests.data.formats.test_voc import save_sbd
from tests.data.trees import blocks, folders, picture, save, voc, write
from tests.faults.mutations import damage


def of_coco(root: Path) -> Path:
    return coco(root, instances(np.random.default_rng(0), count=2))


def of_panoptic(root: Path) -> Path:
    panoptic(root, SEGMENTS)
    return root / "annotations/panoptic_val2017.json"


def of_labelme(root: Path) -> Path:
    return labelme(root / "val", "a", LABELME_SHAPES)


def of_cvat(root: Path) -> Path:
    save(root / "a.jpg", picture())
    return cvat(root, image("a.jpg", CVAT_SHAPES, "val"))


def of_yolo(root: Path) -> Path:
    save(root / "images/val/a.jpg", picture())
    write(root / "data.yaml", "val: images/val\nnames: [cat, dog]\n")
    return write(root / "labels/val/a.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0 0 1 0 1 1 0 1\n")


def of_yaml(root: Path) -> Path:
    folders(root, count=1)
    text = "val: images/val\nmasks_dir: masks\nnames:\n  0: a\n  1: b\n  2: c\nnc: 3\n"
    return write(
        root / "data.yaml", text + "label_mapping: {7: ignore_label}\ncolors: {a: [1, 2, 3]}\n"
    )


def of_sbd(root: Path) -> Path:
    write(root / "train.txt")
    write(root / "val.txt", "a")
    save(root / "img/a.jpg", picture())
    return save_sbd(root / "cls/a.mat", blocks(21))


def of_shards(root: Path) -> Path:
    shards(root)
    return root / "set/val-000000.tar"


def of_voc_list(root: Path) -> Path:
    voc(root, {"val": 3})
    return root / "ImageSets/Segmentation/val.txt"


def of_classes(root: Path) -> Path:
    folders(root, count=1)
    (root / "classes.txt").unlink()
    content = {"classes": ["a", "b", "c"], "palette": [[1, 2, 3]] * 3, "void": [7]}
    return write(root / "classes.json", json.dumps(content))


MAKERS = (
    of_coco, of_panoptic, of_labelme, of_cvat, of_yolo, of_yaml, of_sbd, of_shards, of_voc_list,
    of_classes,
)  # fmt: skip


@pytest.mark.parametrize("make", MAKERS)
def test_D19_damaged_annotations_are_read_or_refused(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path)
    whole = path.read_bytes()
    root = tmp_path / "set" if make is of_shards else tmp_path
    for seed in range(40):
        rng = np.random.default_rng(seed)
        path.write_bytes(damage(whole, rng))
        try:
            dataset = open_dataset(root)
            for index in range(len(dataset)):
                dataset[index]
        except AtrousError:
            pass
        try:
            layout = recognise(root)
        except AtrousError:
            continue
        examine(survey(layout, workers=1))  # never raises once the layout is known


ODD = (
    None,
    [],
    {},
    "x",
    "",
    -1,
    1e308,
    float("nan"),
    True,
    [[]],
    [1, "a"],
    10**30,
    "\x00",
    {"a": 1},
)


def scramble(document: object, rng: np.random.Generator) -> None:
    """Replaces or removes one value somewhere in a document, in place."""
    node, places = document, []
    while isinstance(node, (dict, list)) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        places.append((node, keys[int(rng.integers(len(keys)))]))
        node = places[-1][0][places[-1][1]]
    holder, key = places[int(rng.integers(len(places)))]
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = ODD[int(rng.integers(len(ODD)))]


@pytest.mark.parametrize("make", [of_coco, of_panoptic, of_labelme, of_classes, of_yaml])
def test_D19_odd_values_in_annotations_are_read_or_refused(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    path = make(tmp_path)
    whole = path.read_text()
    for seed in range(60):
        document = yaml.safe_load(whole) if path.suffix == ".yaml" else json.loads(whole)
        scramble(document, np.random.default_rng(seed))
        is_yaml = path.suffix == ".yaml"
        path.write_text(yaml.safe_dump(document) if is_yaml else json.dumps(document))
        try:
            dataset = open_dataset(tmp_path, allow_unlabelled=True)
            for index in range(len(dataset)):
                dataset[index]
            examine(survey(recognise(tmp_path), workers=1))
        except AtrousError:
            continue
