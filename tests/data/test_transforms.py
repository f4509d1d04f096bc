from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as tv

from atrous.data.dataset import Sample
from atrous.data.scenes.procedural import scenes
from atrous.data.transforms import (
    Augmentation,
    augment,
    choose_window,
    distort_colors,
    for_channels,
    sample_generator,
)
from atrous.errors import AtrousError
from atrous.images.bands import Bands

EVERYTHING = Augmentation(crop_size=(48, 40), photometric=1.0)


def noise_sample(rows: int, columns: int, *, seed: int = 0, num_classes: int = 5) -> Sample:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    return Sample(image, rng.integers(0, num_classes, (rows, columns), dtype=np.uint8))


# No colour between two rows of a painted sample: red and blue lie 30 and 10 % of the way.
PADDING = (60, 20, 20)


def painted_sample(rows: int, columns: int, *, seed: int) -> Sample:
    """Red tells the class's first bit, which depends on the row; green the second, on the column;
    blue marks unlabelled rows. Each channel varies along one axis only, so that where bilinear
    passes halfway, nearest switches."""
    rng = np.random.default_rng(seed)
    row_bit, ignored = rng.random((2, rows, 1)) < [[[0.5]], [[0.2]]]
    column_bit = rng.random((1, columns)) < 0.5
    channels = np.broadcast_arrays(row_bit, column_bit, ignored)
    image = (np.stack(channels, axis=2) * 200).astype(np.uint8)
    target = np.where(ignored, 255, 2 * row_bit + column_bit).astype(np.uint8)
    return Sample(image, target)


def assert_painted(sample: Sample, augmentation: Augmentation) -> None:
    image, target = sample.image.astype(int), sample.target
    padding = (sample.image == augmentation.mean_pixel).all(axis=2)
    assert (target[padding] == 255).all()
    red, green, blue = (image > 100).transpose(2, 0, 1)
    expected = np.where(blue, 255, 2 * red + green)
    decided = (abs(image - 100) > 1).all(axis=2) & ~padding
    np.testing.assert_array_equal(target[decided], expected[decided])


@given(
    rows=st.integers(1, 90), columns=st.integers(1, 90), seed=st.integers(0, 999),
    crop=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    step=st.sampled_from([0.25, 0.0]),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_picture_and_target_stay_aligned(
    rows: int, columns: int, seed: int, crop: tuple[int, int], step: float
) -> None:
    augmentation = Augmentation(
        crop_size=crop, scale_step=step, mean_pixel=PADDING,
    )  # fmt: skip
    sample = painted_sample(rows, columns, seed=seed)
    assert_painted(augment(sample, augmentation, sample_generator(0, 0, seed)), augmentation)


@given(
    rows=st.integers(1, 70), columns=st.integers(1, 70), seed=st.integers(0, 999),
    labels=st.lists(st.sampled_from([0, 1, 2, 3, 18, 255]), min_size=1),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_no_label_value_is_invented(rows: int, columns: int, seed: int, labels: list[int]) -> None:
    rng = np.random.default_rng(seed)
    target = rng.choice(np.array(labels, np.uint8), (rows, columns))
    sample = Sample(rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8), target)
    result = EVERYTHING(Fixed(sample), 0, sample_generator(1, 2, seed))
    assert set(np.unique(result.target)) <= {*labels, 255}
    assert result.target.dtype == np.uint8


class Fixed:
    """A data set of the given samples."""

    classes, palette, names = (), (), ()

    def __init__(self, *samples: Sample) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def fingerprint(self) -> str:
        return ""


@given(rows=st.integers(1, 70), columns=st.integers(1, 70), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_D11_mask_all_ignored_stays_all_ignored(rows: int, columns: int, seed: int) -> None:
    sample = noise_sample(rows, columns)._replace(target=np.full((rows, columns), 255, np.uint8))
    result = EVERYTHING(Fixed(sample), 0, sample_generator(0, 0, seed))
    assert (result.target == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1), (2, 3), (40, 47)])
@pytest.mark.parametrize("augmentation", [Augmentation(crop_size=(48, 40)), EVERYTHING])
def test_D23_picture_smaller_than_the_crop_is_padded(
    size: tuple[int, int], augmentation: Augmentation
) -> None:
    sample = noise_sample(*size)
    for seed in range(14):
        result = augmentation(Fixed(sample), 0, sample_generator(seed, 0, 0))
        assert result.image.shape == (48, 40, 3)
        assert result.target.shape == (48, 40)
        if max(size) < 20:
            assert (result.target == 255).any()
            assert (result.target != 255).any() or augmentation is EVERYTHING  # turned away


def test_augmentation_equals_the_plain_definition() -> None:
    augmentation = Augmentation(crop_size=(65, 80))
    for index in range(40):
        image, target = noise_sample(40 + index, 77, seed=index)
        ours = augment(Sample(image, target), augmentation, sample_generator(0, 0, index))
        draws = sample_generator(0, 0, index)
        (height, width), top, left, *_ = choose_window(target.shape, augmentation, draws)
        flip = draws.random() < 0.5
        # Sec. 3.2 of the authors' code as written: resize, pad, crop, flip, all in float.
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double()
        whole = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=True)
        padding = (0, max(80 - width, 0), 0, max(65 - height, 0))
        padded = F.pad(whole - 128, padding)[0] + 128
        plain = padded[:, top : top + 65, left : left + 80].permute(1, 2, 0).numpy()
        labels = plain_nearest(target, (height, width))
        labels = np.pad(labels, ((0, padding[3]), (0, padding[1])), constant_values=255)
        labels = labels[top : top + 65, left : left + 80]
        if flip:
            plain, labels = plain[:, ::-1], labels[:, ::-1]
        np.testing.assert_array_equal(ours.target, labels)
        assert abs(ours.image - plain).max() < 1.05


def plain_nearest(target: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    result = np.empty(size, np.uint8)
    for i in range(size[0]):
        for j in range(size[1]):
            row = i * (target.shape[0] - 1) / (size[0] - 1)
            column = j * (target.shape[1] - 1) / (size[1] - 1)
            result[i, j] = target[int(row + 0.5), int(column + 0.5)]
    return result


def test_scales_are_the_seven_of_the_paper_equally_often() -> None:
    target = np.zeros((100, 140), np.uint8)
    sizes = [
        choose_window(target.shape, Augmentation(), sample_generator(0, 0, i)).size
        for i in range(3500)
    ]
    counts = Counter(sizes)
    expected = {(int(100 * s), int(140 * s)) for s in (0.5, 0.75, 1, 1.25, 1.5, 1.75, 2)}
    assert set(counts) == expected
    # Binomial with mean 500 and deviation 20.7: five deviations.
    assert all(abs(count - 500) < 104 for count in counts.values())


def test_crop_offsets_are_uniform_and_flips_are_half() -> None:
    target = np.zeros((12, 9), np.uint8)
    augmentation = Augmentation(crop_size=(10, 9), scale_range=(1, 1))
    tops = Counter(
        choose_window(target.shape, augmentation, sample_generator(0, 0, i)).top
        for i in range(3000)
    )
    assert set(tops) == {0, 1, 2}
    assert all(abs(count - 1000) < 5 * 25.8 for count in tops.values())
    sample = Sample(np.zeros((12, 9, 3), np.uint8), np.tile(np.arange(9, dtype=np.uint8), (12, 1)))
    first = [
        augment(sample, augmentation, sample_generator(0, 0, i)).target[0, 0] for i in range(800)
    ]
    assert set(first) == {0, 8}
    assert abs(first.count(0) - 400) < 5 * 14.2


def test_same_seed_epoch_and_index_give_the_same_sample() -> None:
    dataset = scenes(0, 6, size=(64, 64))

    def sample(seed: int, epoch: int, index: int) -> Sample:
        return EVERYTHING(dataset, index, sample_generator(seed, epoch, index))

    one, again = sample(1, 2, 3), sample(1, 2, 3)
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.target, again.target)
    others = [sample(0, 2, 3), sample(1, 3, 3), sample(1, 2, 4), sample(2, 1, 3)]
    assert all((one.image != other.image).any() for other in others)


def test_number_of_threads_changes_nothing() -> None:
    dataset = scenes(0, 2, size=(300, 300))
    large = replace(EVERYTHING, crop_size=(400, 400))

    def samples() -> list[Sample]:
        return [large(dataset, 0, sample_generator(0, 0, i)) for i in range(6)]

    single, threads = samples(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        double = samples()
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(single, double, strict=True):
        np.testing.assert_array_equal(one.image, two.image)


def test_contrast_is_torchvisions() -> None:
    image = torch.from_numpy(noise_sample(20, 20).image).permute(2, 0, 1)
    for factor in (0.5, 0.9, 1.0, 1.4):
        ours = distort_colors(image, 1.0, Scripted(factor))
        theirs = tv.adjust_contrast(image, factor)
        assert (ours.int() - theirs.int()).abs().max() <= 1


class Scripted:
    """Draws no change of brightness, saturation and hue, and the given one of contrast."""

    def __init__(self, factor: float) -> None:
        self.amounts = iter((1.0, factor, 1.0, 0.0))

    def uniform(self, low: float, high: float) -> float:
        return next(self.amounts)

    def random(self) -> float:
        return 0.0


def test_library_randomness_is_neither_used_nor_changed() -> None:
    dataset = scenes(0, 3, size=(64, 64))
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (the state others may use)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    EVERYTHING(dataset, 0, sample_generator(0, 0, 0))
    after = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]


def test_input_is_never_changed() -> None:
    image, target = noise_sample(60, 60)
    copies = image.copy(), target.copy()
    for index in range(10):
        EVERYTHING(Fixed(Sample(image, target)), 0, sample_generator(0, 0, index))
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(target, copies[1])


def test_photometric_changes_colours_but_neither_target_nor_padding() -> None:
    sample = noise_sample(30, 30)
    plain = Augmentation(crop_size=(64, 64), flip=0, scale_range=(1, 1))
    distorted = Augmentation(crop_size=(64, 64), flip=0, scale_range=(1, 1), photometric=1.0)
    before = augment(sample, plain, sample_generator(0, 0, 0))
    after = augment(sample, distorted, sample_generator(0, 0, 0))
    np.testing.assert_array_equal(before.target, after.target)
    assert (after.image[before.target == 255] == 128).all()
    changed = (before.image != after.image)[before.target != 255]
    assert changed.mean() > 0.9


def test_sixteen_bit_targets_keep_type_and_ignore_value() -> None:
    target = np.full((20, 20), 700, np.uint16)
    sample = Sample(np.zeros((20, 20, 3), np.uint8), target)
    options = Augmentation(crop_size=(64, 64))
    result = augment(sample, options, sample_generator(0, 0, 0))
    assert result.target.dtype == np.uint16
    assert set(np.unique(result.target)) == {700, 65535}


@pytest.mark.parametrize(
    "options",
    [
        {"crop_size": (0, 5)}, {"scale_range": (2.0, 0.5)}, {"flip": 1.5}, {"photometric": -1.0},
    ],
)  # fmt: skip
def test_impossible_augmentation_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(AtrousError, match="E-AUGMENTATION"):
        Augmentation(**options)  # type: ignore[arg-type]


def test_changes_of_colour_act_on_red_green_and_blue_alone() -> None:
    rng = np.random.default_rng(0)
    for kind, bands in (
        (np.uint8, Bands(("nir", "blue", "green", "red"), mean=(90.0,) * 4)),
        (np.uint16, Bands(("nir", "blue", "green", "red"), "uint16", mean=(900.0,) * 4)),
    ):
        image = rng.integers(0, np.iinfo(kind).max, (40, 48, 4), kind)
        sample = Sample(image, rng.integers(0, 3, (40, 48), np.uint8))
        whole = Augmentation((40, 48), (1.0, 1.0), flip=0.0, photometric=1.0)
        varied = augment(sample, for_channels(whole, bands), sample_generator(0, 0, 0)).image
        assert np.array_equal(varied[..., 0], image[..., 0])
        assert all(
            (varied[..., channel] != image[..., channel]).mean() > 0.5 for channel in (1, 2, 3)
        )
        without = for_channels(whole, replace(bands, names=("a", "b", "c", "d")))
        assert np.array_equal(augment(sample, without, sample_generator(0, 0, 0)).image, image)


def test_padding_is_the_mean_of_each_channel() -> None:
    bands = Bands(("red", "nir"), "uint16", mean=(700.4, 3000.6))
    sample = Sample(np.ones((5, 6, 2), np.uint16), np.zeros((5, 6), np.uint8))
    padded = for_channels(Augmentation((8, 8), (1.0, 1.0), flip=0.0), bands)
    image, target = augment(sample, padded, sample_generator(0, 0, 0))
    assert image[-1, -1].tolist() == [700, 3001]
    assert (image[:5, :6] == 1).all()
    assert target[-1, -1] == 255
