"""Annotations give the labels back when the project reads them as a data set."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image

import atrous
from atrous.errors import AtrousError
from atrous.evaluation.boundary import contours, squared_distance
from atrous.predict.annotate import Picture, brush_rle, regions_of, write_annotations
from atrous.predict.overlay import palette_image
from atrous.predict.regions import outlines, simplified

CLASSES = ("background", "cat", "dog", "tree house")
SIZES = ((40, 61), (33, 20))


def label_map(size, seed):
    """Discs over one another: regions with holes, with islands in them, and along the edges."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    labels = np.zeros(size, np.uint8)
    for index in (1, 2, 0, 3, 1):
        y, x = random.uniform(0, size[0]), random.uniform(0, size[1])
        labels[(rows - y) ** 2 + (columns - x) ** 2 < random.uniform(20, 150)] = index
    return labels


@pytest.fixture
def pictures(tmp_path):
    found = []
    for number, size in enumerate(SIZES):
        path = tmp_path / "photos" / f"picture {number}.png"
        labels = tmp_path / "masks" / f"{number}.labels.png"
        for file in (path, labels):
            file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((*size, 3), 99, np.uint8)).save(path)
        palette = tuple((i, i, i) for i in range(len(CLASSES)))
        palette_image(label_map(size, number), palette).save(labels, "PNG")
        found.append(Picture(path, labels, size, path.stem))
    return found


def read_back(kind, pictures, target, tmp_path):
    """Returns the labels that the project's own readers find, in the order of CLASSES."""
    folder = target if target.is_dir() else target.parent
    if kind != "labelme":
        (folder / "images").mkdir()
        for picture in pictures:
            name = folder / "images" / f"{picture.name}.png"
            name.write_bytes(picture.path.read_bytes())
    found = {}
    for split in ("train", "val"):  # where the data set has no split, one is made by name
        try:
            data = atrous.data.open_dataset(target if kind == "yolo" else folder, split)
        except AtrousError:  # all pictures are in the other split
            continue
        order = np.array([CLASSES.index(name) for name in data.classes])
        for index in range(len(data)):
            image, labels = data[index]
            found[image.shape[:2]] = order[labels]
    return [found[picture.size] for picture in pictures]


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("kind", ["labelme", "cvat", "yolo"])
def test_annotations_read_back_give_the_labels_within_the_tolerance(
    kind, tolerance, pictures, tmp_path
):
    target = write_annotations(kind, pictures, CLASSES, tmp_path / "out", tolerance=tolerance)
    for number, found in enumerate(read_back(kind, pictures, target, tmp_path)):
        true = label_map(SIZES[number], number)
        if tolerance == 0:
            np.testing.assert_array_equal(found, true)
        distance = np.sqrt(squared_distance(contours(true), 10))
        # A border lies half a pixel from the pixels beside it.
        assert distance[found != true].max(initial=0) <= tolerance + 0.5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tolerance", [0.0, 1.0, 3.0])
def test_simplified_outlines_stay_within_the_tolerance_and_have_fewer_corners(seed, tolerance):
    for ring in outlines(label_map((60, 80), seed) == 1):
        polygon = simplified(ring, tolerance)
        assert {tuple(p) for p in polygon.tolist()} <= {tuple(p) for p in ring.tolist()}
        ends = np.roll(polygon, -1, axis=0)
        for point in ring:
            along, offset = ends - polygon, point - polygon
            lengths = np.maximum((along**2).sum(1), 1)
            share = np.clip((along * offset).sum(1) / lengths, 0, 1)[:, None]
            assert np.hypot(*(offset - share * along).T).min() <= tolerance + 1e-9
        assert len(polygon) < len(ring) or tolerance < 1


def test_large_regions_come_first_and_background_has_none():
    regions = list(regions_of(label_map((40, 61), 0), CLASSES))
    assert [r.area for r in regions] == sorted((r.area for r in regions), reverse=True)
    assert {r.label for r in regions} <= set(CLASSES[1:])


def decoded_brush(data, pixels):
    """Reads Label Studio's run lengths back, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def take(count):
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values = []
    while len(values) < total:
        repeated, length = take(1), take(sizes[take(2)]) + 1
        values += [take(word)] * length if repeated else [take(word) for _ in range(length)]
    return np.array(values, np.uint8).reshape(pixels, 4)[:, 3]


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
def test_brush_masks_of_label_studio_decode_to_the_mask(share):
    mask = np.random.default_rng(0).random((47, 400)) < share
    mask[:20] = share > 0  # a run longer than 16 bits can say, with its four channels
    np.testing.assert_array_equal(decoded_brush(brush_rle(mask), mask.size), 255 * mask.ravel())


def test_tasks_of_label_studio_name_picture_class_and_size(pictures, tmp_path):
    target = write_annotations("label-studio", pictures, CLASSES, tmp_path)
    tasks = json.loads(target.read_text())
    assert [task["data"]["image"] for task in tasks] == [str(p.path) for p in pictures]
    for task, picture in zip(tasks, pictures, strict=True):
        for result in task["predictions"][0]["result"]:
            assert (result["original_height"], result["original_width"]) == picture.size
            mask = decoded_brush(result["value"]["rle"], np.prod(picture.size))
            index = CLASSES.index(result["value"]["brushlabels"][0])
            true = label_map(picture.size, pictures.index(picture)) == index
            np.testing.assert_array_equal(mask > 0, true.ravel())


def test_tasks_of_label_studio_are_valid_for_its_own_sdk(pictures, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK's own
        interface = pytest.importorskip(
            "label_studio_sdk.label_interface", reason="needs: pip install label-studio-sdk"
        )
        target = write_annotations("label-studio", pictures, CLASSES, tmp_path)
        names = "".join(f'<Label value="{name}"/>' for name in CLASSES[1:])
        configuration = interface.LabelInterface(
            '<View><Image name="image" value="$image"/>'
            f'<BrushLabels name="label" toName="image">{names}</BrushLabels></View>'
        )
        for task in json.loads(target.read_text()):
            (prediction,) = task["predictions"]
            assert configuration.validate_prediction(prediction, return_errors=True) == []
            prediction["result"][0]["value"]["brushlabels"] = ["no such class"]
            assert configuration.validate_prediction(prediction, return_errors=True) != []


def test_unknown_kind_names_the_nearest(tmp_path):
    with pytest.raises(AtrousError, match=r"(?s)E-UNKNOWN-NAME.*labelme"):
        write_annotations("label_me", [], CLASSES, tmp_path)
