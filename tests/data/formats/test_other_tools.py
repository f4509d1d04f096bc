"""Files as other tools write them: read as the tool means them, or refused; never other labels."""

import base64
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atrous.classes import pascal_palette
from atrous.data.doctor.diagnosis import examine
from atrous.data.doctor.survey import survey
from atrous.data.opening import open_dataset, recognise
from atrous.errors import AtrousError
from atrous.training.config import TrainConfig
from atrous.training.inputs import examine_data, open_data
from tests.data.formats.test_cvat import HEAD
from tests.data.formats.test_cvat import image as cvat_image
from tests.data.formats.test_labelme import labelme
from tests.data.trees import blocks, picture, save, write

SIZE = (72, 96)
SQUARE = [[10, 10], [30, 10], [30, 30], [10, 30]]
FLAT = [float(value) for point in SQUARE for value in point]
DRAWN = np.zeros(SIZE, np.uint8)
DRAWN[10:30, 10:30] = 1


def refused(path: Path, split: str = "val") -> str:
    """Returns the code with which a data set, or one of its samples, is refused."""
    try:
        dataset = open_dataset(path, split)
        for index in range(len(dataset)):
            dataset[index]
    except AtrousError as error:
        return error.code
    return "not refused"


def coco(folder: Path, name: str = "instances_val2017.json", **changes: Any) -> Path:
    """Writes two pictures with a square each, and whatever is changed of that."""
    document: dict[str, Any] = {
        "images": [
            {"id": id_, "file_name": f"{id_}.jpg", "height": SIZE[0], "width": SIZE[1]}
            for id_ in (1, 2)
        ],
        "annotations": [
            {"id": id_, "image_id": id_, "category_id": 1, "segmentation": [FLAT]} for id_ in (1, 2)
        ],
        "categories": [{"id": 1, "name": "car"}],
    }
    document |= changes
    for id_ in (1, 2):
        save(folder / "val2017" / f"{id_}.jpg", picture(id_))
    return write(folder / "annotations" / name, json.dumps(document))


def annotation(**changes: Any) -> dict[str, Any]:
    return {"id": 7, "image_id": 1, "category_id": 1, "segmentation": [FLAT]} | changes


# C2: ids


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"images": [{"id": 1, "file_name": f"{n}.jpg", "height": 72, "width": 96} for n in (1, 2)],
          "annotations": []}, "E-DATA-TWICE"),
        ({"images": [{"id": n, "file_name": "1.jpg", "height": 72, "width": 96} for n in (1, 2)]},
         "E-DATA-TWICE"),
        ({"annotations": [annotation(), annotation(image_id=2)]}, "E-DATA-TWICE"),
        ({"categories": [{"id": 1, "name": "car"}, {"id": 1, "name": "dog"}]}, "E-DATA-TWICE"),
        ({"annotations": [annotation(image_id=9)]}, "E-DATA-PAIRS"),
        ({"categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "car"}]}, "E-DATA-CLASSES"),
    ],
)  # fmt: skip
def test_C2_ids_that_contradict_each_other_are_refused(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    coco(tmp_path, **changes)
    assert refused(tmp_path) == code


def test_C2_annotations_of_no_image_are_left_out_only_where_allowed(tmp_path: Path) -> None:
    coco(tmp_path, annotations=[annotation(), annotation(id=8, image_id=99)])
    dataset = open_dataset(tmp_path, allow_unlabelled=True)
    np.testing.assert_array_equal(dataset[0].target, DRAWN)


def test_C2_categories_are_matched_by_name_over_the_files(tmp_path: Path) -> None:
    names = ["car", "dog", "cat"]
    for split, order in (("train", names), ("val", names[::-1])):
        categories = [{"id": id_, "name": name} for id_, name in enumerate(order, 1)]
        dog = annotation(category_id=order.index("dog") + 1)
        cat = annotation(id=8, image_id=2, category_id=order.index("cat") + 1)
        coco(tmp_path, f"instances_{split}.json", categories=categories, annotations=[dog, cat])
    for split in ("train", "val"):
        dataset = open_dataset(tmp_path, split)
        for index, name in enumerate(("dog", "cat")):
            found = {dataset.classes[k] for k in np.unique(dataset[index].target)}
            assert found == {"background", name}


# C3: objects that cannot be drawn


@pytest.mark.parametrize("segmentation", [[], None, [[]], {}, "box"])
def test_C3_coco_box_among_polygons_is_refused(tmp_path: Path, segmentation: object) -> None:
    box = annotation(image_id=1, bbox=[40, 40, 20, 20], segmentation=segmentation)
    coco(tmp_path, annotations=[annotation(id=1), box])
    assert refused(tmp_path) in ("E-DATA-ANNOTATION", "E-SHAPE")
    diagnosis = examine(survey(recognise(tmp_path), workers=1))
    assert not diagnosis.healthy


@pytest.mark.parametrize(
    "shape",
    [
        '<cuboid label="dog" xtl1="1" ytl1="1" xbr1="9" ybr1="9"/>',
        '<skeleton label="dog"><points label="1" points="1,1"/></skeleton>',
        '<polyline label="dog" points="1,1;5,5"/>',
        '<points label="dog" points="1,1;5,5"/>',
        '<tag label="dog"/>',
        '<hologram label="dog" points="1,1;5,5;7,1"/>',
    ],
)
def test_C3_cvat_shapes_without_an_outline_are_refused_and_those_without_area_skipped(
    tmp_path: Path, shape: str
) -> None:
    write(tmp_path / "annotations.xml", HEAD + cvat_image("a.jpg", shape, "val") + "</annotations>")
    save(tmp_path / "a.jpg", picture())
    if "cuboid" in shape or "hologram" in shape:
        assert refused(tmp_path) == "E-DATA-ANNOTATION"
    else:
        assert not open_dataset(tmp_path)[0].target.any()


# C4: lists of splits


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("train.txt", "images/{0}.jpg annotations/{0}.png"),  # PaddleSeg
        ("train_list.txt", "images\\{0}.jpg annotations\\{0}.png"),
        ("train.txt", "/images/{0}.jpg /annotations/{0}.png"),  # DrSleep
        ("train.txt", "images/{0}.jpg,annotations/{0}.png"),
        ("train.txt", "images/{0}.jpg\tannotations/{0}.png"),
        ("train.txt", "{0}"),
        ("train.txt", "{0}.jpg"),
        ("train.txt", "/home/me/set/images/{0}.jpg"),
        ("splits/train.txt", "{0}"),  # mmsegmentation
        ("ImageSets/Segmentation/train.txt", "{0}"),
    ],
)
def test_C4_lists_beside_the_folders_are_the_splits(tmp_path: Path, name: str, line: str) -> None:
    for number in range(6):
        save(tmp_path / "images" / f"my p{number}.jpg", picture(number))
        save(tmp_path / "annotations" / f"my p{number}.png", blocks(3, number))
    write(tmp_path / "classes.txt", "a\nb\nc")
    for split, members in (("train", (5, 0, 3)), ("val", (1, 2))):
        lines = "\r\n".join(line.format(f"my p{number}") for number in members)
        write(tmp_path / name.replace("train", split), "\ufeff" + lines)
    for split, members in (("train", (5, 0, 3)), ("val", (1, 2))):
        dataset = open_dataset(tmp_path, split)
        assert dataset.names == tuple(f"images/my p{number}.jpg" for number in members)
        for index, number in enumerate(members):
            np.testing.assert_array_equal(dataset[index].target, blocks(3, number))


def test_C4_masks_of_other_names_are_those_the_list_names(tmp_path: Path) -> None:
    save(tmp_path / "photos/one.jpg", picture())
    save(tmp_path / "painted/x17.png", blocks(3))
    write(tmp_path / "val.txt", "photos/one.jpg painted/x17.png")
    np.testing.assert_array_equal(open_dataset(tmp_path)[0].target, blocks(3))


@pytest.mark.parametrize("kind", ["labelme", "cvat", "coco"])
def test_C4_lists_are_followed_in_formats_without_splits(tmp_path: Path, kind: str) -> None:
    names = [f"p{number}" for number in range(5)]
    if kind == "labelme":
        for name in names:
            labelme(tmp_path, name, [{"label": "car", "points": SQUARE}])
    elif kind == "cvat":
        images = "".join(cvat_image(f"{name}.jpg", "") for name in names)
        write(tmp_path / "annotations.xml", HEAD + images + "</annotations>")
    else:
        images_of_coco = [
            {"id": i, "file_name": f"{name}.jpg", "height": 72, "width": 96}
            for i, name in enumerate(names)
        ]
        categories = [{"id": 0, "name": "c"}]
        document = {"images": images_of_coco, "annotations": [], "categories": categories}
        write(tmp_path / "result.json", json.dumps(document))
    for name in names:
        save(tmp_path / f"{name}.jpg", picture())
    write(tmp_path / "train.txt", "p1.jpg\np0")
    write(tmp_path / "val.txt", "p4.jpg")
    assert [Path(n).stem for n in open_dataset(tmp_path, "train").names] == ["p1", "p0"]
    assert [Path(n).stem for n in open_dataset(tmp_path, "val").names] == ["p4"]


@pytest.mark.parametrize("name", ["train.csv", "fold1_val.txt", "train.lst"])
def test_C4_lists_of_an_unknown_kind_are_named_loudly(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5):
        save(tmp_path / "images" / f"{number}.jpg", picture(number))
        save(tmp_path / "masks" / f"{number}.png", blocks(3, number))
    write(tmp_path / name, "0\n1\n")
    with caplog.at_level(logging.WARNING):
        open_dataset(tmp_path)
    assert name in caplog.text


def test_C4_list_that_names_a_missing_picture_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "images/a.jpg", picture())
    save(tmp_path / "masks/a.png", blocks(3))
    write(tmp_path / "val.txt", "a\nb\n")
    assert refused(tmp_path) == "E-DATA-PAIRS"


# C5: valid in its own tool


def png(mask: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ({"shape_type": "polygon", "points": [[-50, 10], [20, 10], [20, 30], [-50, 30]]},
         slice(10, 30), slice(0, 20)),
        ({"shape_type": "polygon", "points": [[80, 50], [1e6, 50], [1e6, 1e6], [80, 1e6]]},
         slice(50, 72), slice(80, 96)),
        ({"shape_type": "rectangle", "points": [[-9, -9], [12, 8]]}, slice(0, 8), slice(0, 12)),
        ({"shape_type": "oriented_rectangle", "points": SQUARE}, slice(10, 30), slice(10, 30)),
        ({"shape_type": None, "points": SQUARE}, slice(10, 30), slice(10, 30)),
        ({"shape_type": "", "points": SQUARE}, slice(10, 30), slice(10, 30)),
        ({"points": SQUARE}, slice(10, 30), slice(10, 30)),
        ({"shape_type": "mask", "points": [[90, 60], [110, 80]], "mask": png(np.ones((21, 21)))},
         slice(60, 72), slice(90, 96)),
        ({"shape_type": "mask", "points": [[-4, -3], [9, 9]], "mask": png(np.ones((13, 14)))},
         slice(0, 10), slice(0, 10)),
    ],
)  # fmt: skip
def test_C5_labelme_shapes_over_the_border_are_clipped(
    tmp_path: Path, shape: dict[str, Any], rows: slice, columns: slice
) -> None:
    labelme(tmp_path / "val", "a", [{"label": "car"} | shape])
    expected = np.zeros(SIZE, np.uint8)
    expected[rows, columns] = 1
    np.testing.assert_array_equal(open_dataset(tmp_path)[0].target, expected)


def test_C5_labelme_circle_over_the_border_is_clipped(tmp_path: Path) -> None:
    shape = {"label": "car", "shape_type": "circle", "points": [[0, 0], [0, 20]]}
    labelme(tmp_path / "val", "a", [shape])
    target = open_dataset(tmp_path)[0].target
    assert abs(int(target.sum()) - np.pi * 400 / 4) < 15
    assert not target[21:].any()


@pytest.mark.parametrize("kind", ["line", "point", "points", "linestrip"])
def test_C5_labelme_lines_and_points_are_no_classes_and_cover_nothing(
    tmp_path: Path, kind: str
) -> None:
    line = {"label": "wire", "shape_type": kind, "points": [[1, 1], [50, 50]]}
    labelme(tmp_path / "val", "a", [{"label": "car", "points": SQUARE}, line])
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("background", "car")
    np.testing.assert_array_equal(dataset[0].target, DRAWN)


def test_C5_labelme_is_recognised_whatever_the_order_of_keys(tmp_path: Path) -> None:
    save(tmp_path / "val/a.jpg", picture())
    document = {"imageData": "A" * 300_000, "imagePath": "a.jpg",
                "shapes": [{"points": SQUARE, "label": "car"}]}  # fmt: skip
    text = b"\xef\xbb\xbf" + json.dumps(document).encode()
    write(tmp_path / "val/a.json", text)
    np.testing.assert_array_equal(open_dataset(tmp_path)[0].target, DRAWN)


def test_C5_coco_is_recognised_whatever_the_order_of_keys(tmp_path: Path) -> None:
    document = json.loads(coco(tmp_path, "x.json").read_bytes())
    document["annotations"][0]["note"] = "x" * 200_000
    for keys in (("annotations", "categories", "images"), ("categories", "images", "annotations")):
        text = json.dumps({key: document[key] for key in keys})
        write(tmp_path / "annotations/x.json", b"\xef\xbb\xbf" + text.encode())
        assert len(open_dataset(tmp_path, "all")) == 2


@pytest.mark.parametrize("folder", ["SegmentationClass", "SegmentationClassPNG"])
def test_C5_labelme2voc_without_lists(tmp_path: Path, folder: str) -> None:
    for number in range(5):
        save(tmp_path / "JPEGImages" / f"{number}.jpg", picture(number))
        mask = np.where(blocks(4, number) == 3, 255, blocks(4, number)).astype(np.uint8)
        save(tmp_path / folder / f"{number}.png", mask, palette=pascal_palette(256))
        write(tmp_path / "SegmentationClass" / f"{number}.npy", b"x")
        save(tmp_path / "SegmentationClassVisualization" / f"{number}.jpg", picture(number))
    write(tmp_path / "class_names.txt", "_background_\ncat\ndog\n")
    dataset = open_dataset(tmp_path, "all")
    assert dataset.classes == ("background", "cat", "dog")
    np.testing.assert_array_equal(dataset[2].target == 255, blocks(4, 2) == 3)
    assert len(open_dataset(tmp_path, "train")) == 4


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("img_dir/{}/a.jpg", "ann_dir/{}/a.png"),  # mmsegmentation
        ("Images/{}/a.jpg", "Masks/{}/a.png"),
        ("IMAGES/{}/a.JPG", "LABELS/{}/a.PNG"),
        ("{}/Images/a.jpg", "{}/Masks/a.png"),
        ("JPEGImages/{}/a.jpg", "Annotations/{}/a.png"),
        ("images/{}/a.jpg", "masks/{}/a.jpg.png"),
        ("images/{}/a.jpg", "ground_truth/{}/a_segmentation.png"),  # ISIC
        ("images/{}/a_leftImg8bit.png", "labels/{}/a_gtFine_labelTrainIds.png"),
        ("Train/a.jpg", "Train_Masks/a.png"),
    ],
)
def test_C5_folders_of_any_case_and_of_mmsegmentation(
    tmp_path: Path, image: str, mask: str
) -> None:
    for number, split in enumerate(("train", "val")):
        other = split.capitalize() if "Train" in image else split
        save(tmp_path / image.format(split).replace("Train", other), picture(number))
        name = mask.format(split).replace("_gtFine", "" if "leftImg" in image else "_gtFine")
        save(tmp_path / name.replace("Train_", f"{other}_"), blocks(3, number))
    for number, split in enumerate(("train", "val")):
        np.testing.assert_array_equal(open_dataset(tmp_path, split)[0].target, blocks(3, number))


@pytest.mark.parametrize(
    "name",
    ["images\\val\\{}", "C:\\data\\val\\{}", ".\\{}", "../../label-studio/data/upload/3/{}",
     "val2017/{}", "./{}", "/home/me/{}"],
)  # fmt: skip
def test_C5_paths_of_other_machines_in_coco(tmp_path: Path, name: str) -> None:
    images = [
        {"id": id_, "file_name": name.format(f"{id_}.jpg"), "height": 72, "width": 96}
        for id_ in (1, 2)
    ]
    coco(tmp_path, images=images)
    dataset = open_dataset(tmp_path)
    assert dataset.names == ("val2017/1.jpg", "val2017/2.jpg")
    np.testing.assert_array_equal(
        dataset[1].image, np.asarray(Image.open(tmp_path / "val2017/2.jpg"))
    )


@pytest.mark.parametrize(
    ("document", "folder"),
    [
        ("annotations/panoptic_val2017.json", "annotations/panoptic_val2017"),
        ("annotations/panoptic_val2017.json", "panoptic_val2017"),
        ("annotations/panoptic_val2017.json", "annotations/panoptic_val2017/panoptic_val2017"),
        ("annotations/panoptic_val2017.json", "panoptic/val2017"),
        ("annotations/panoptic_val2017.json", "masks/panoptic_val2017"),
        ("panoptic_val2017.json", "panoptic_val2017"),
    ],
)
def test_C5_panoptic_folders(tmp_path: Path, document: str, folder: str) -> None:
    content = {
        "categories": [{"id": 5, "name": "road"}],
        "annotations": [{"image_id": 1, "file_name": "a_panoptic.png",
                         "segments_info": [{"id": 3, "category_id": 5}]}],
        "images": [{"id": 1, "file_name": "a.jpg", "height": 72, "width": 96}],
    }  # fmt: skip
    write(tmp_path / document, json.dumps(content))
    save(tmp_path / "val2017/a.jpg", picture())
    save(tmp_path / folder / "a_panoptic.png", np.stack([3 * DRAWN, 0 * DRAWN, 0 * DRAWN], axis=-1))
    np.testing.assert_array_equal(open_dataset(tmp_path)[0].target, np.where(DRAWN, 0, 255))


def test_C5_no_advice_is_to_delete_a_valid_shape() -> None:
    formats = Path(__file__).parents[3] / "atrous/data/formats"
    assert all("delete the shape" not in path.read_text() for path in formats.glob("*.py"))


# C6: bookkeeping entries


@pytest.mark.parametrize("root", ["things", "car"])
def test_C6_roboflows_root_category_is_no_class(tmp_path: Path, root: str) -> None:
    categories = [
        {"id": 0, "name": root, "supercategory": "none"},
        {"id": 1, "name": "car", "supercategory": root},
    ]
    coco(tmp_path, categories=categories)
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("background", "car")
    np.testing.assert_array_equal(dataset[0].target, DRAWN)


def test_C6_a_root_category_that_is_used_is_a_class(tmp_path: Path) -> None:
    categories = [
        {"id": 1, "name": "vehicle", "supercategory": "none"},
        {"id": 2, "name": "car", "supercategory": "vehicle"},
    ]
    coco(tmp_path, categories=categories)
    assert open_dataset(tmp_path).classes == ("background", "vehicle", "car")


@pytest.mark.parametrize("name", ["_background_", "Background", "background", "BACKGROUND"])
def test_C6_background_under_any_name_is_one_class(tmp_path: Path, name: str) -> None:
    coco(tmp_path / "coco", categories=[{"id": 0, "name": name}, {"id": 1, "name": "car"}])
    assert open_dataset(tmp_path / "coco").classes == ("background", "car")
    save(tmp_path / "yolo/images/val/a.jpg", picture())
    write(tmp_path / "yolo/labels/val/a.txt", "1 0.1 0.1 0.5 0.1 0.5 0.5")
    write(tmp_path / "yolo/data.yaml", f"val: images/val\nnames: [{name}, car]")
    dataset = open_dataset(tmp_path / "yolo")
    assert dataset.classes == ("background", "car")
    assert set(np.unique(dataset[0].target)) == {0, 1}


def test_C6_points_of_a_cvat_skeleton_are_no_classes(tmp_path: Path) -> None:
    labels = (
        "<label><name>person</name><type>skeleton</type></label>"
        "<label><name>nose</name><type>points</type><parent>person</parent></label>"
        "<label><name>car</name><type>any</type></label>"
    )
    shape = f'<polygon label="car" points="{";".join(f"{x},{y}" for x, y in SQUARE)}"/>'
    text = f"<annotations><meta><task><labels>{labels}</labels></task></meta>"
    write(tmp_path / "annotations.xml", text + cvat_image("a.jpg", shape, "val") + "</annotations>")
    save(tmp_path / "a.jpg", picture())
    dataset = open_dataset(tmp_path)
    assert "nose" not in dataset.classes
    np.testing.assert_array_equal(dataset[0].target == dataset.classes.index("car"), DRAWN == 1)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("[yes, no]", ("yes", "no")),
        ("{0: on, 1: off}", ("on", "off")),
        ("\n  0: y\n  1: n", ("y", "n")),
        ("[1, 2]", ("1", "2")),
        ("[1.0, 012]", ("1.0", "012")),
        ("[null, ~]", ("null", "~")),
        ("['true', \"false\"]", ("true", "false")),
    ],
)
def test_C6_names_in_yaml_are_names(tmp_path: Path, written: str, names: tuple[str, ...]) -> None:
    save(tmp_path / "images/val/a.jpg", picture())
    save(tmp_path / "masks/val/a.png", blocks(2))
    write(tmp_path / "data.yaml", f"val: images/val\nnames: {written}\nnc: 2\n")
    assert open_dataset(tmp_path).classes == names


# C7 and two-valued masks


def test_C7_missing_test_folder_refuses_only_who_asks_for_test(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        save(tmp_path / "images" / split / "a.jpg", picture(number))
        save(tmp_path / "masks" / split / "a.png", blocks(3, number))
    text = "train: images/train\nval: images/val\ntest: images/test\nnames: [a, b, c]\n"
    write(tmp_path / "data.yaml", text)
    assert len(open_dataset(tmp_path, "train")) == len(open_dataset(tmp_path, "val")) == 1
    assert refused(tmp_path, "test") == "E-DATA-YAML"
    diagnosis = examine(survey(recognise(tmp_path), workers=1))
    assert diagnosis.healthy
    assert "E-DATA-YAML" in {finding.code for finding in diagnosis.findings}


CLASS_FILES: dict[str, tuple[str, str]] = {
    "none": ("", ""),
    "one name": ("classes.txt", "road\n"),
    "two names": ("labels.txt", "ground\nroad\n"),
    "json": ("classes.json", json.dumps({"classes": ["ground", "road"]})),
    "colours": ("labelmap.txt", "ground:0,0,0::\nroad:255,255,255::\n"),
    "background alone": ("classes.txt", "_background_\n"),
}
NAMES = {
    "none": ("background", "foreground"),
    "one name": ("background", "road"),
    "background alone": ("background", "foreground"),
}


@pytest.mark.parametrize("classes", CLASS_FILES)
@pytest.mark.parametrize("value", [255, 1])
def test_C7_masks_of_two_values_are_two_classes(tmp_path: Path, classes: str, value: int) -> None:
    for number in range(6):
        mask = blocks(2, number) if number else np.zeros(SIZE, np.uint8)  # the first is empty
        save(tmp_path / "images" / f"{number}.jpg", picture(number))
        save(tmp_path / "masks" / f"{number}.png", mask * np.uint8(value))
    name, content = CLASS_FILES[classes]
    if name:
        write(tmp_path / name, content)
    dataset = open_dataset(tmp_path, "all")
    assert dataset.classes == NAMES.get(classes, ("ground", "road"))
    np.testing.assert_array_equal(dataset[3].target, blocks(2, 3))
    diagnosis = examine(survey(recognise(tmp_path), workers=1))
    assert diagnosis.healthy


def one_bit(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask * np.uint8(255)).convert("1").save(path)


def in_colour(path: Path, mask: np.ndarray) -> None:
    save(path, np.stack([mask * np.uint8(255)] * 3, axis=-1))


def with_palette(path: Path, mask: np.ndarray) -> None:
    save(path, mask, palette=((0, 0, 0), (255, 255, 255)))


def half_grey(path: Path, mask: np.ndarray) -> None:
    save(path, mask * np.uint8(128))


@pytest.mark.parametrize("store", [one_bit, in_colour, with_palette, half_grey])
@pytest.mark.parametrize("layout", ["folders", "yaml", "side by side"])
def test_C7_two_values_are_two_classes_in_any_kind_of_file(
    tmp_path: Path, store: Callable[[Path, np.ndarray], None], layout: str
) -> None:
    images, masks = ("", "") if layout == "side by side" else ("images", "masks")
    for split in ("train", "val"):
        save(tmp_path / split / images / "a.jpg", picture())
        (tmp_path / split / masks).mkdir(exist_ok=True)
        store(tmp_path / split / masks / "a.png", blocks(2))
    if layout == "yaml":
        text = "train: train/images\nval: val/images\nmasks_dir: masks\nnames: [background, road]"
        write(tmp_path / "data.yaml", text)
    if layout == "yaml" and store is half_grey:  # 128 is none of the two named classes
        assert refused(tmp_path) == "E-DATA-LABEL"
        return
    dataset = open_dataset(tmp_path)
    assert len(dataset.classes) == 2
    np.testing.assert_array_equal(dataset[0].target, blocks(2))


@pytest.mark.parametrize(
    "layout", ["{0}/a.jpg {0}annot/a.png", "JPEGImages/{0}.jpg SegmentationClass/{0}.png"]
)
def test_C7_two_values_are_two_classes_in_devkits_with_a_class_file(
    tmp_path: Path, layout: str
) -> None:
    for number, split in enumerate(("train", "val")):
        image, mask = layout.format(split).split()
        save(tmp_path / image, picture(number))
        save(tmp_path / mask, blocks(2, number) * np.uint8(255))
        write(tmp_path / "ImageSets/Segmentation" / f"{split}.txt", split)
    write(tmp_path / "classes.txt", "road\n")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("background", "road")
    np.testing.assert_array_equal(dataset[0].target, blocks(2, 1))


def test_C7_unlabelled_stays_unlabelled_where_masks_hold_both_classes(tmp_path: Path) -> None:
    mask = np.where(blocks(3) == 2, 255, blocks(3)).astype(np.uint8)
    save(tmp_path / "images/val/a.jpg", picture())
    save(tmp_path / "masks/val/a.png", mask)
    write(tmp_path / "classes.txt", "ground\nroad\n")
    np.testing.assert_array_equal(open_dataset(tmp_path)[0].target, mask)


@pytest.mark.parametrize(
    ("given", "classes"),
    [(("road",), ("background", "road")), (("sea", "land"), ("sea", "land")),
     (("a", "b", "c"), ("a", "b", "c"))],
)  # fmt: skip
def test_names_are_given_to_masks_nobody_named(
    tmp_path: Path, given: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    save(tmp_path / "images/val/a.jpg", picture())
    save(tmp_path / "masks/val/a.png", blocks(2) * np.uint8(255))
    dataset = open_dataset(tmp_path, names=given)
    assert dataset.classes == classes
    np.testing.assert_array_equal(dataset[0].target, blocks(2))


def test_a_wrong_number_of_names_is_refused(tmp_path: Path) -> None:
    coco(tmp_path)
    assert open_dataset(tmp_path, names=["lorry"]).classes == ("background", "lorry")
    with pytest.raises(AtrousError) as caught:
        open_dataset(tmp_path, names=["a", "b", "c"])
    assert caught.value.code == "E-DATA-CLASSES"


def test_one_class_is_refused_before_training_with_the_doctors_words(tmp_path: Path) -> None:
    for split in ("train", "val"):
        save(tmp_path / "images" / split / "a.jpg", picture())
        save(tmp_path / "masks" / split / "a.png", np.zeros(SIZE, np.uint8))
    write(tmp_path / "classes.txt", "a\nb\nc")
    first = examine(survey(recognise(tmp_path), workers=1)).findings[0]
    config = TrainConfig(data=str(tmp_path))
    with pytest.raises(AtrousError) as by_training:
        examine_data(config, *open_data(config))
    assert first.code == by_training.value.code == "E-DATA-ONE-CLASS"
    assert first.what == by_training.value.what
