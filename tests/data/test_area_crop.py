import numpy as np
import pytest

from atrous.data.area_crop import AreaCrop, central_crop
from atrous.data.dataset import Sample
from atrous.data.transforms import sample_generator

HEIGHT, WIDTH = 120, 200


class Ramps:
    """One picture: red is the column, green the row, blue nothing."""

    classes = ("a", "b", "c")

    def __getitem__(self, index: int) -> Sample:
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[..., 0] = np.arange(WIDTH)
        image[..., 1] = np.arange(HEIGHT)[:, None]
        return Sample(image, np.full((HEIGHT, WIDTH), 2, np.uint8))


def _crop(crop: AreaCrop, index: int = 0, *, seed: int = 1, epoch: int = 0) -> Sample:
    return crop(Ramps(), index, sample_generator(seed, epoch, index))  # type: ignore[arg-type]


def test_a_crop_has_the_size_asked_for_and_one_class() -> None:
    image, target = _crop(AreaCrop((33, 47)))
    assert image.shape == (33, 47, 3)
    assert image.dtype == np.uint8
    assert target.tolist() == [[2]]


def test_a_crop_is_a_function_of_seed_epoch_and_index() -> None:
    crop = AreaCrop((16, 16), photometric=0.5)
    first = _crop(crop)
    np.testing.assert_array_equal(first.image, _crop(crop).image)
    for other in (_crop(crop, 1), _crop(crop, seed=2), _crop(crop, epoch=1)):
        assert (other.image != first.image).any()


def test_area_and_aspect_fill_their_ranges_evenly() -> None:
    areas, aspects, mirrored = [], [], 0
    for index in range(400):
        image, _ = _crop(AreaCrop((41, 41)), index)
        left, right = int(image[0, 0, 0]), int(image[0, -1, 0])
        top, bottom = int(image[0, 0, 1]), int(image[-1, 0, 1])
        mirrored += left > right
        height, width = bottom - top, abs(right - left)
        areas.append(height * width / ((HEIGHT - 1) * (WIDTH - 1)))
        aspects.append(width / height)
    # Ends of a crop are whole pixels and whole levels: a few hundredths of slack. A picture of
    # 120x200 has no crop of aspect 4:3 above 0.8 of its area: the largest come out less often.
    assert 0.06 < min(areas) < 0.12
    assert 0.7 < max(areas) <= 1
    fitting = np.array(areas)[np.array(areas) < 0.4]
    assert np.histogram(fitting, 4, (0.08, 0.4))[0].min() > 25
    fallback = WIDTH / HEIGHT
    drawn = [a for a in aspects if abs(a - fallback) > 0.02]
    assert min(drawn) == pytest.approx(3 / 4, abs=0.05)
    assert max(drawn) == pytest.approx(4 / 3, abs=0.08)
    assert np.median(drawn) == pytest.approx(1, abs=0.06)
    assert 160 < mirrored < 240


def test_without_a_range_all_of_the_picture_is_resized() -> None:
    whole = AreaCrop((HEIGHT, WIDTH), 0.0, 0.0, (1.0, 1.0), (WIDTH / HEIGHT, WIDTH / HEIGHT))
    np.testing.assert_array_equal(_crop(whole).image, Ramps()[0].image)


@pytest.mark.parametrize("size", [(7, 9), (105, 175), (299, 299)])
def test_evaluation_sees_seven_eighths_of_height_and_width(size: tuple[int, int]) -> None:
    """TensorFlow's `central_crop(0.875)` leaves int((120 - 105) / 2) = 7 rows and 12 columns."""
    image = central_crop(Ramps()[0].image, size).numpy()
    assert image.shape == (3, *size)
    expected = np.linspace(12, WIDTH - 13, size[1])
    assert np.abs(image[0, 0] - expected).max() <= 1
    assert np.abs(image[1, :, 0] - np.linspace(7, HEIGHT - 8, size[0])).max() <= 1
    corners = image[0, 0, [0, -1]].tolist(), image[1, [0, -1], 0].tolist()
    assert corners == ([12, WIDTH - 13], [7, HEIGHT - 8])


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (5, 4000)])
def test_pictures_of_any_shape_are_cropped(size: tuple[int, int]) -> None:
    class One:
        def __getitem__(self, index: int) -> Sample:
            return Sample(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8))

    crop = AreaCrop((8, 8))(One(), 0, sample_generator(0, 0, 0))  # type: ignore[arg-type]
    assert crop.image.shape == (8, 8, 3)
    assert central_crop(One()[0].image, (8, 8)).shape == (3, 8, 8)
