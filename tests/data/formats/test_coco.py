import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atrous.classes import COCO_STUFF, COCO_STUFF_VALUES, pascal_palette
from atrous.data.opening import open_dataset, recognise
from atrous.errors import AtrousError
from atrous.predict.rle import encode_coco
from tests import reference
from tests.data.trees import blocks, picture, save, write

SIZE = (72, 96)
CATEGORIES = [
    {"id": 18, "name": "dog", "supercategory": "animal"},
    {"id": 3, "name": "car", "color": [9, 8, 7]},
    {"id": 90, "name": "toothbrush"},
]


def outline(rng: np.random.Generator, corners: int) -> list[float]:
    return (rng.random((corners, 2)) * (SIZE[1], SIZE[0])).round(2).ravel().tolist()


def instances(rng: np.random.Generator, count: int = 6) -> dict[str, Any]:
    """Returns a file of two pictures, the first with outlines, run lengths and a crowd."""
    blob = np.zeros(SIZE, np.bool_)
    blob[10:30, 20:70] = rng.random((20, 50)) < 0.8
    entries: list[dict[str, Any]] = [
        {"segmentation": [outline(rng, 5), outline(rng, 8)]} for _ in range(count)
    ]
    entries += [
        {"segmentation": encode_coco(blob), "iscrowd": 0},
        {
            "segmentation": {"size": list(SIZE), "counts": reference.run_lengths(blob.T)},
            "iscrowd": 1,
        },
    ]
    for number, entry in enumerate(entries):
        entry |= {"id": number, "image_id": 7, "category_id": (3, 18, 90)[number % 3]}
        entry |= {"area": 1.0, "bbox": [0, 0, 1, 1], "iscrowd": entry.get("iscrowd", 0)}
    images = [
        {"id": id_, "file_name": f"{id_:012d}.jpg", "height": SIZE[0], "width": SIZE[1]}
        for id_ in (7, 8)
    ]
    return {"images": images, "annotations": entries, "categories": CATEGORIES, "info": {}}


def coco(root: Path, document: dict[str, Any], name: str = "instances_val2017.json") -> Path:
    path = write(root / "annotations" / name, json.dumps(document))
    for image in document["images"]:
        save(root / "val2017" / image["file_name"], picture(image["id"]))
    return path


def test_classes_are_background_and_the_categories_by_id(tmp_path: Path) -> None:
    coco(tmp_path, instances(np.random.default_rng(0)))
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("background", "car", "dog", "toothbrush")
    assert dataset.palette == ((0, 0, 0), (9, 8, 7), *pascal_palette(4)[2:])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # its own
def test_instances_equal_pycocotools_painted_by_area(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    api = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    path = coco(tmp_path, instances(np.random.default_rng(seed)))
    theirs = api.COCO(str(path))
    masks = [
        (theirs.annToMask(a).astype(bool), a["category_id"]) for a in theirs.loadAnns(range(8))
    ]
    expected = np.zeros(SIZE, np.uint8)
    order = sorted(masks, key=lambda pair: -int(pair[0].sum()))
    for mask, category in order:
        expected[mask] = {3: 1, 18: 2, 90: 3}[category]
    dataset = open_dataset(tmp_path)
    np.testing.assert_array_equal(dataset[0].target, expected)
    assert not dataset[1].target.any()  # no annotation: all background
    capsys.readouterr()


def test_background_of_a_file_is_used_if_it_has_one(tmp_path: Path) -> None:
    document = instances(np.random.default_rng(0))
    document["categories"] = [{"id": 1, "name": "background"}, *CATEGORIES]
    coco(tmp_path, document)
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("background", "car", "dog", "toothbrush")


def test_a_file_itself_and_its_siblings_are_the_splits(tmp_path: Path) -> None:
    document = instances(np.random.default_rng(0))
    path = coco(tmp_path, document)
    write(tmp_path / "annotations/instances_train2017.json", json.dumps(document))
    write(tmp_path / "annotations/captions_val2017.json", "{}")
    for image in document["images"]:
        save(tmp_path / "images/train2017" / image["file_name"], picture(image["id"] + 5))
    assert set(recognise(path).splits) == {"train", "val"}
    train, val = (open_dataset(path, split) for split in ("train", "val"))
    assert not np.array_equal(train[0].image, val[0].image)
    np.testing.assert_array_equal(train[0].target, val[0].target)


def test_export_with_a_file_in_each_splits_folder(tmp_path: Path) -> None:
    document = instances(np.random.default_rng(0))
    for folder in ("train", "valid"):
        write(tmp_path / folder / "_annotations.coco.json", json.dumps(document))
        for image in document["images"]:
            save(tmp_path / folder / image["file_name"], picture(image["id"]))
    assert len(open_dataset(tmp_path, "val")) == len(open_dataset(tmp_path, "train")) == 2


def test_stuff_leaves_the_rest_unlabelled(tmp_path: Path) -> None:
    document = instances(np.random.default_rng(0), count=0)
    coco(tmp_path, document, "stuff_val2017.json")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("car", "dog", "toothbrush")
    target = dataset[0].target
    assert set(np.unique(target)) == {1, 255}
    assert (dataset[1].target == 255).all()


def test_pixel_maps_become_171_classes(tmp_path: Path) -> None:
    values = np.array([*COCO_STUFF_VALUES, 255], np.uint8)
    labels = values[np.arange(72 * 96) % len(values)].reshape(SIZE)
    save(tmp_path / "val2017/1.jpg", picture())
    save(tmp_path / "stuffthingmaps/val2017/1.png", labels)
    dataset = open_dataset(tmp_path)
    assert dataset.classes == COCO_STUFF.classes
    assert (dataset.classes[0], dataset.classes[80], dataset.classes[170]) == (
        "person", "banner", "wood",
    )  # fmt: skip
    expected = np.array([*range(171), 255], np.uint8)[np.arange(72 * 96) % 172].reshape(SIZE)
    np.testing.assert_array_equal(dataset[0].target, expected)


def panoptic(root: Path, segments: list[dict[str, int]]) -> np.ndarray:
    """Makes one picture whose segments have ids beyond 8 and 16 bits; returns their places."""
    places = blocks(4)
    ids = np.array([0, 7, 7 + 256 * 5, 65536 * 3 + 2], np.uint32)[places]
    colors = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
    document = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}],
        "categories": CATEGORIES,
    }
    write(root / "annotations/panoptic_val2017.json", json.dumps(document))
    save(root / "annotations/panoptic_val2017/1.png", colors)
    save(root / "val2017/1.jpg", picture())
    return places


SEGMENTS = [
    {"id": 7, "category_id": 90},
    {"id": 7 + 256 * 5, "category_id": 3},
    {"id": 65536 * 3 + 2, "category_id": 18},
]


def test_panoptic_segments_become_their_categories(tmp_path: Path) -> None:
    places = panoptic(tmp_path, SEGMENTS)
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("car", "dog", "toothbrush")
    expected = np.array([255, 2, 0, 1], np.uint8)[places]
    np.testing.assert_array_equal(dataset[0].target, expected)


def test_panoptic_segment_nobody_describes_is_refused(tmp_path: Path) -> None:
    panoptic(tmp_path, SEGMENTS[:2])
    with pytest.raises(AtrousError, match=r"196610.*E-DATA-ANNOTATION"):
        open_dataset(tmp_path)[0]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"segmentation": [[1, 2, 3]]}, "E-DATA-ANNOTATION"),
        ({"segmentation": [[1, 2, 3, 4]]}, "E-SHAPE"),
        ({"segmentation": [[1, 2, 3, 4, 5, None]]}, "E-SHAPE"),
        ({"segmentation": [[1, 2, 3, 4, 5, 500]]}, "E-SHAPE"),
        ({"segmentation": {"size": [3, 3], "counts": "9"}}, "E-DATA-ANNOTATION"),
        ({"segmentation": {"size": [72, 96], "counts": [5]}}, "E-DATA-ANNOTATION"),
        ({"segmentation": None}, "E-DATA-ANNOTATION"),
        ({"category_id": 4}, "E-DATA-ANNOTATION"),
        ({"category_id": "x"}, "E-DATA-ANNOTATION"),
    ],
)
def test_D19_broken_annotation_names_file_and_number(
    tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    document = instances(np.random.default_rng(0))
    document["annotations"][2] |= change
    coco(tmp_path, document)
    with pytest.raises(AtrousError, match=code) as caught:
        open_dataset(tmp_path)[0]
    assert "annotation 2" in caught.value.what
    assert caught.value.where.endswith("instances_val2017.json")


def test_D13_size_that_is_not_the_pictures_is_refused(tmp_path: Path) -> None:
    document = instances(np.random.default_rng(0))
    document["images"][0] |= {"height": SIZE[1], "width": SIZE[0]}
    coco(tmp_path, document)
    with pytest.raises(AtrousError, match="E-DATA-ANNOTATION"):
        open_dataset(tmp_path)[0]


def test_D12_listed_picture_that_is_missing_is_named(tmp_path: Path) -> None:
    document = instances(np.random.default_rng(0))
    coco(tmp_path, document)
    (tmp_path / "val2017/000000000008.jpg").unlink()
    with pytest.raises(AtrousError, match=r"(?s)000000000008.*E-DATA-PAIRS"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, allow_unlabelled=True)) == 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"images": 3}', '{"images": [], "annotations": []}']
)
def test_file_that_is_no_coco_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(AtrousError) as caught:
        open_dataset(write(tmp_path / "instances_val2017.json", text))
    assert caught.value.code == "E-DATA-ANNOTATION"


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    document = instances(np.random.default_rng(0))
    path = coco(tmp_path, document)
    assert open_dataset(tmp_path)[0].target.any()
    document["annotations"] = []
    path.write_text(json.dumps(document))
    assert not open_dataset(tmp_path)[0].target.any()
