import numpy as np
import pytest
from PIL import Image

from atrous.classes import CAMVID, CITYSCAPES, VOC, numbered, unlabelled
from atrous.engines import built_in
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


@pytest.mark.parametrize("num_classes", [2, 254, 255, 256, 300])
def test_overlays_are_tinted_pixel_by_pixel(num_classes):
    random = np.random.default_rng(num_classes)
    labels = random.integers(0, num_classes, (12, 9)).repeat(3, axis=0).repeat(4, axis=1)
    unknown = unlabelled(num_classes)
    labels[5:20, 7:30] = unknown
    kind = np.uint8 if max(num_classes - 1, unknown) < 256 else np.uint16
    pixels = random.integers(0, 256, (*labels.shape, 3), np.uint8)
    palette = numbered(num_classes).palette
    shown = np.asarray(overlay.overlay(Image.fromarray(pixels), labels.astype(kind), palette))
    colors, borders = overlay.display_colors(palette), overlay.borders(labels)
    for place in np.ndindex(labels.shape):
        color = colors[labels[place]] if labels[place] < num_classes else np.zeros(3)
        opacity = 0.55 if color.any() else 0.0
        if borders[place]:
            color, opacity = np.full(3, 255), 1.0
        expected = (1 - opacity) * pixels[place] + opacity * color
        assert np.abs(shown[place] - expected).max() <= 1


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


def least_distances(colors: np.ndarray) -> np.ndarray:
    """Returns, for each pair of classes, how different they look to the eye that sees it least."""
    lab = overlay.seen(colors)
    return np.linalg.norm(lab[:, :, None] - lab[:, None], axis=-1).min(axis=0)


@pytest.mark.parametrize("name", built_in.names())
def test_every_pair_of_classes_of_a_built_in_model_can_be_told_apart_by_everybody(name):
    colors = overlay.display_colors(built_in.header(name).palette)
    distances = least_distances(colors)
    pairs = distances[np.triu_indices(len(colors), 1)]
    assert pairs.min() >= 0.06  # .02 is a just noticeable difference
    assert np.diagonal(distances, 1).min() >= 0.07  # neighbours in the legend


@pytest.mark.parametrize(("table", "least"), [(VOC, 0.07), (CITYSCAPES, 0.06), (CAMVID, 0.08)])
def test_colours_of_the_known_tables_can_be_told_apart_by_everybody(table, least):
    distances = least_distances(overlay.display_colors(table.palette))
    assert distances[np.triu_indices(len(table.classes), 1)].min() >= least


def test_the_eyes_are_those_of_the_published_simulation():
    red, green, yellow, blue = np.eye(3, dtype=np.uint8)[[0, 1, 0, 2]] * 255
    yellow = np.array([255, 255, 0], np.uint8)
    normal, protan, deutan, tritan = overlay.seen(np.stack([red, green, yellow, blue]))
    grey = overlay.seen(np.array([[255, 255, 255], [0, 0, 0]], np.uint8))
    assert np.allclose(grey[:, 0], [1, 0, 0], atol=5e-3)  # white is white to every eye
    assert np.allclose(grey[:, 1], 0, atol=1e-9)
    # Oklab of sRGB's red (Ottosson, 2020)
    assert np.allclose(normal[0], [0.628, 0.225, 0.126], atol=2e-3)
    # Without long or middle cones red and green lose their difference along the first axis.
    for eye in (protan, deutan):
        assert abs(eye[0, 1] - eye[1, 1]) < 0.3 * abs(normal[0, 1] - normal[1, 1])
    assert abs(tritan[2, 2] - tritan[3, 2]) < 0.5 * abs(normal[2, 2] - normal[3, 2])


def test_display_colours_keep_backgrounds_black_and_files_keep_their_palette():
    assert overlay.display_colors(VOC.palette)[0].tolist() == [0, 0, 0]
    labels = np.arange(21, dtype=np.uint8).reshape(3, 7)
    image = overlay.palette_image(labels, VOC.palette)
    assert image.getpalette()[:63] == [channel for color in VOC.palette for channel in color]


def test_legends_wrap_at_the_width_of_the_picture():
    narrow = overlay.legend(VOC.classes, VOC.palette, [1 / 21] * 21, width=300)
    wide = overlay.legend(VOC.classes, VOC.palette, [1 / 21] * 21, width=3000)
    assert (narrow.width, wide.width) == (300, 3000)
    assert narrow.height > wide.height
