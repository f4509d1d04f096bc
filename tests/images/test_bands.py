"""Channels: what a preview shows, and what is refused."""

import numpy as np
import pytest

from atrous.errors import AtrousError
from atrous.images.bands import PLAIN, Bands


def test_a_photograph_is_shown_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    assert PLAIN.shown(image) is image


def test_a_preview_takes_channels_by_name():
    image = np.arange(4, dtype=np.uint8).reshape(1, 1, 4)
    names = ("blue", "green", "red", "nir")
    assert Bands(names).shown(image).tolist() == [[[2, 1, 0]]]
    assert Bands(names, preview=("nir", "red", "green")).shown(image).tolist() == [[[3, 2, 1]]]
    assert Bands(("a", "b", "c", "d")).shown(image).tolist() == [[[0, 1, 2]]]
    assert Bands(("height",)).shown(image[..., 3:]).tolist() == [[[3, 3, 3]]]


def test_a_preview_of_other_values_shows_two_deviations_either_side_of_the_mean():
    bands = Bands(("height",), "float32", mean=(100.0,), std=(10.0,))
    image = np.array([70, 80, 100, 120, 500, np.nan], np.float32).reshape(1, 6, 1)
    assert bands.shown(image)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 0]


def test_a_preview_without_a_known_mean_shows_the_pictures_own_range():
    image = np.linspace(3000, 4000, 101).astype(np.uint16).reshape(1, 101, 1)
    shown = Bands(("nir",), "uint16").shown(image)[0, :, 0]
    assert (shown[0], shown[-1]) == (0, 255)
    assert Bands(("nir",), "float32").shown(np.full((2, 2, 1), np.nan, np.float32)).max() == 0


@pytest.mark.parametrize(
    "image",
    [np.zeros((3, 4, 3), np.uint16), np.zeros((3, 4, 2), np.uint8), np.zeros((3, 4), np.uint16)],
)
def test_other_channels_and_types_are_refused(image):
    with pytest.raises(AtrousError) as caught:
        Bands(("a", "b"), "uint16").checked(image)
    assert caught.value.code == "E-IMAGE-BANDS"


def test_float_channels_hold_every_type():
    for kind in (np.uint8, np.int16, np.float64):
        found = Bands(("a",), "float32").checked(np.ones((2, 2), kind))
        assert found.dtype == np.float32
        assert found.shape == (2, 2, 1)
