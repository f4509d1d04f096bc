import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atrous.data.opening import open_dataset, recognise
from atrous.errors import AtrousError
from tests.data.trees import picture, save, write

SIZE = (72, 96)


def png(mask: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


MASK = np.eye(5, dtype=bool)
SHAPES: list[dict[str, Any]] = [
    {"label": "dog", "shape_type": "rectangle", "points": [[10, 40], [30, 20]]},
    {"label": "cat", "shape_type": "polygon", "points": [[20, 10], [40, 10], [40, 30], [20, 30]]},
    {"label": "dog", "shape_type": "circle", "points": [[70, 50], [70, 60]]},
    {"label": "cat", "shape_type": "mask", "points": [[80, 5], [84, 9]], "mask": png(MASK)},
    {"label": "__ignore__", "points": [[0, 0], [5, 0], [5, 5], [0, 5]]},
]


def labelme(folder: Path, name: str, shapes: list[dict[str, Any]], **more: Any) -> Path:
    document = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg"}
    document |= {"imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1]} | more
    save(folder / f"{name}.jpg", picture())
    return write(folder / f"{name}.json", json.dumps(document))


def test_shapes_are_painted_in_their_order(tmp_path: Path) -> None:
    labelme(tmp_path / "val", "a", SHAPES)
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("background", "cat", "dog")
    target = dataset[0].target
    expected = np.zeros(SIZE, np.uint8)
    expected[20:40, 10:30] = 2
    expected[10:30, 20:40] = 1  # later, so on top
    expected[5:10, 80:85][MASK] = 1
    expected[0:5, 0:5] = 255
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    distance = np.hypot(columns - 70, rows - 50)
    sure = np.abs(distance - 10) > 0.7  # the outline itself is drawn with 64 corners
    expected[distance < 10] = 2
    np.testing.assert_array_equal(target[sure], expected[sure])


def test_without_splits_a_fifth_is_val(tmp_path: Path) -> None:
    for i in range(6):
        labelme(tmp_path, f"p{i}", SHAPES)
    assert (len(open_dataset(tmp_path)), len(open_dataset(tmp_path, "train"))) == (2, 4)


def test_labels_file_gives_the_order_and_refuses_others(tmp_path: Path) -> None:
    labelme(tmp_path / "val", "a", SHAPES)
    write(tmp_path / "labels.txt", "__ignore__\n_background_\ndog\ncat\n")
    assert open_dataset(tmp_path).classes == ("background", "dog", "cat")
    write(tmp_path / "labels.txt", "dog\ncow\n")
    with pytest.raises(AtrousError, match=r"'cat'.*E-DATA-ANNOTATION") as caught:
        open_dataset(tmp_path)[0]
    assert "shape 1" in caught.value.what


def test_picture_elsewhere_is_found_by_its_path(tmp_path: Path) -> None:
    labelme(tmp_path / "val/json", "a", SHAPES, imagePath="..\\pictures\\b.jpg")
    (tmp_path / "val/pictures").mkdir()
    (tmp_path / "val/json/a.jpg").rename(tmp_path / "val/pictures/b.jpg")
    assert len(open_dataset(tmp_path)) == 1


def test_D12_picture_without_a_file_is_named(tmp_path: Path) -> None:
    labelme(tmp_path / "val", "a", SHAPES)
    save(tmp_path / "val/b.jpg", picture())
    with pytest.raises(AtrousError, match=r"(?s): 1\n.*b\.jpg.*E-DATA-PAIRS"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, allow_unlabelled=True)) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"points": [[1, 1], [2, 2]], "shape_type": "polygon"}, "E-SHAPE"),
        ({"points": [[1, float("nan")], [2, 2], [3, 1]], "shape_type": "polygon"}, "E-SHAPE"),
        ({"points": [[200, 1], [220, 2], [203, 9]], "shape_type": "polygon"}, "E-SHAPE"),
        ({"points": "x"}, "E-DATA-ANNOTATION"),
        ({"shape_type": "spiral"}, "E-DATA-ANNOTATION"),
        ({"shape_type": "mask"}, "E-DATA-ANNOTATION"),
        ({"shape_type": "mask", "mask": "AAAA"}, "E-IMAGE-FORMAT"),
        ({"shape_type": "mask", "mask": png(MASK), "points": [[900, 900]]}, "E-SHAPE"),
    ],
)
def test_D19_broken_shape_names_file_and_number(
    tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    shapes = [*SHAPES[:2], SHAPES[2] | change]
    labelme(tmp_path / "val", "a", shapes)
    with pytest.raises(AtrousError, match=code) as caught:
        open_dataset(tmp_path)[0]
    if code != "E-IMAGE-FORMAT":
        assert "shape 2" in caught.value.what


def test_D13_other_size_is_refused(tmp_path: Path) -> None:
    labelme(tmp_path / "val", "a", SHAPES, imageHeight=10)
    with pytest.raises(AtrousError, match="E-DATA-ANNOTATION"):
        open_dataset(tmp_path)[0]


@pytest.mark.parametrize("text", ['{"shapes": 3}', '{"shapes": [', '{"shapes": [{}]}'])
def test_file_that_is_broken_is_refused(tmp_path: Path, text: str) -> None:
    save(tmp_path / "val/a.jpg", picture())
    write(tmp_path / "val/a.json", text)
    with pytest.raises(AtrousError) as caught:
        recognise(tmp_path)
    assert caught.value.code == "E-DATA-ANNOTATION"
