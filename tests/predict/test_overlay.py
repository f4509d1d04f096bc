import numpy as np
from PIL import Image

from atrous.classes import VOC, numbered
from atrous.predict import overlay


def test_index_pictures_keep_indices_and_carry_the_palette(tmp_path):
    labels = np.arange(21, dtype=np.uint8).reshape(3, 7)
    overlay.palette_image(labels, VOC.palette).save(tmp_path / "labels.png")
    image = Image.open(tmp_path / "labels.png")
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), labels)
    assert image.convert("RGB").getpixel((1, 0)) == VOC.palette[1]


def test_more_than_256_classes_make_a_sixteen_bit_picture(tmp_path):
    labels = np.array([[0, 300]], np.uint16)
    overlay.palette_image(labels, numbered(301).palette).save(tmp_path / "labels.png")
    assert np.asarray(Image.open(tmp_path / "labels.png")).tolist() == [[0, 300]]


def test_backgrounds_are_not_tinted_and_borders_are_white():
    picture = Image.new("RGB", (4, 1), (10, 20, 30))
    labels = np.array([[0, 0, 15, 15]], np.uint8)
    shown = overlay.overlay(picture, labels, VOC.palette)
    assert shown.getpixel((0, 0)) == (10, 20, 30)
    assert shown.getpixel((1, 0)) == (255, 255, 255)
    assert shown.getpixel((3, 0)) not in ((10, 20, 30), (255, 255, 255))


def test_borders_lie_where_a_right_or_lower_neighbour_differs():
    labels = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]], np.uint8)
    assert overlay.borders(labels).tolist() == [
        [False, True, False],
        [True, True, True],
        [False, False, False],
    ]


def test_brightened_colours_keep_their_hue_and_stay_distinct():
    colors = overlay.brightened(VOC.palette)
    assert len({tuple(color) for color in colors}) == 21
    assert colors[0].tolist() == [0, 0, 0]
    assert colors[8].tolist() == [128, 0, 0]  # cat: half the brightness of red, as a geometric mean


def test_legends_wrap_at_the_width_of_the_picture():
    narrow = overlay.legend(VOC.classes, VOC.palette, [1 / 21] * 21, width=300)
    wide = overlay.legend(VOC.classes, VOC.palette, [1 / 21] * 21, width=3000)
    assert (narrow.width, wide.width) == (300, 3000)
    assert narrow.height > wide.height
