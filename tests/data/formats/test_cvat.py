from pathlib import Path

import numpy as np
import pytest

from atrous.data.opening import open_dataset
from atrous.errors import AtrousError
from tests.data.trees import picture, save, write

SIZE = (72, 96)
HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><job><labels>
<label><name>dog</name><color>#ff00cc</color></label>
<label><name>cat</name><color>#0102ff</color></label>
</labels></job></meta>
"""
SHAPES = """
<polygon label="dog" source="manual" occluded="0" z_order="1"
  points="20.0,10.0;40.0,10.0;40.0,30.0;20.0,30.0"/>
<box label="cat" occluded="0" xtl="10" ytl="20" xbr="30" ybr="40" z_order="0"/>
<mask label="cat" rle="1,2,1,2" left="80" top="5" width="3" height="2" z_order="2"/>
<points label="dog" points="1,1"/><tag label="dog"/>
"""


def image(name: str, shapes: str, subset: str = "") -> str:
    return (
        f'<image id="0" name="{name}" subset="{subset}" width="{SIZE[1]}" height="{SIZE[0]}">'
        f"{shapes}</image>"
    )


def cvat(root: Path, *images: str) -> Path:
    return write(root / "annotations.xml", HEAD + "".join(images) + "</annotations>")


def test_shapes_are_painted_by_their_depth(tmp_path: Path) -> None:
    cvat(tmp_path, image("a.jpg", SHAPES, "val"), image("sub/b.jpg", "", "train"))
    save(tmp_path / "images/val/a.jpg", picture())
    save(tmp_path / "images/train/sub/b.jpg", picture())
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("background", "dog", "cat")
    assert dataset.palette == ((0, 0, 0), (255, 0, 204), (1, 2, 255))
    expected = np.zeros(SIZE, np.uint8)
    expected[20:40, 10:30] = 2
    expected[10:30, 20:40] = 1
    expected[5:7, 80:83][np.array([[False, True, True], [False, True, True]])] = 2
    np.testing.assert_array_equal(dataset[0].target, expected)
    assert not open_dataset(tmp_path, "train")[0].target.any()


def test_turned_box_and_ellipse_cover_what_they_look_like(tmp_path: Path) -> None:
    box = '<box label="dog" xtl="20" ytl="30" xbr="60" ybr="40" rotation="90"/>'
    ellipse = '<ellipse label="cat" cx="80" cy="30" rx="10" ry="20"/>'
    cvat(tmp_path, image("a.jpg", box + ellipse, "val"))
    save(tmp_path / "a.jpg", picture())
    target = open_dataset(tmp_path / "annotations.xml")[0].target
    expected = np.zeros(SIZE, np.uint8)
    expected[15:55, 35:45] = 1
    np.testing.assert_array_equal(target[:, :60], expected[:, :60])
    assert abs(int((target == 2).sum()) - np.pi * 10 * 20) < 10


def test_without_subsets_a_fifth_is_val(tmp_path: Path) -> None:
    cvat(tmp_path, *(image(f"p{i}.jpg", SHAPES) for i in range(6)))
    for i in range(6):
        save(tmp_path / "images" / f"p{i}.jpg", picture())
    assert (len(open_dataset(tmp_path)), len(open_dataset(tmp_path, "train"))) == (2, 4)


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ('<polygon label="dog" points="1,1;2,2"/>', "E-SHAPE"),
        ('<polygon label="dog" points="1,1;2,nan;3,1"/>', "E-SHAPE"),
        ('<polygon label="dog" points="1,1;2,200;3,1"/>', "E-SHAPE"),
        ('<polygon label="dog" points="1,1;2"/>', "E-DATA-ANNOTATION"),
        ('<polygon label="dog"/>', "E-DATA-ANNOTATION"),
        ('<polygon label="cow" points="1,1;2,2;3,1"/>', "E-DATA-ANNOTATION"),
        (
            '<mask label="dog" rle="1,2" left="0" top="0" width="2" height="2"/>',
            "E-DATA-ANNOTATION",
        ),
        ('<mask label="dog" rle="x" left="0" top="0" width="2" height="2"/>', "E-DATA-ANNOTATION"),
        ('<mask label="dog" rle="4" left="95" top="0" width="2" height="2"/>', "E-SHAPE"),
        ('<mask label="dog" rle="4" left="a" top="0" width="2" height="2"/>', "E-DATA-ANNOTATION"),
    ],
)
def test_D19_broken_shape_is_named(tmp_path: Path, shape: str, code: str) -> None:
    cvat(tmp_path, image("a.jpg", shape, "val"))
    save(tmp_path / "a.jpg", picture())
    with pytest.raises(AtrousError, match=code) as caught:
        open_dataset(tmp_path)[0]
    assert caught.value.where.endswith("annotations.xml")


@pytest.mark.parametrize(
    "text",
    [
        '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "x">]><annotations>&b;</annotations>',
        '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        "<annotations>",
        "",
        "<other/>",
        "<annotations><track/></annotations>",
    ],
)
def test_unsafe_broken_and_other_files_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(AtrousError) as caught:
        open_dataset(write(tmp_path / "annotations.xml", text))
    assert caught.value.code == "E-DATA-ANNOTATION"


def test_billion_laughs_are_refused_at_once(tmp_path: Path) -> None:
    entities = '<!ENTITY a0 "ha">' + "".join(
        f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12)
    )
    text = f"<!DOCTYPE annotations [{entities}]><annotations>&a11;</annotations>"
    with pytest.raises(AtrousError, match="E-DATA-ANNOTATION"):
        open_dataset(write(tmp_path / "annotations.xml", text))
