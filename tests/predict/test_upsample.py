"""Exact labels equal interpolating everything, bit for bit."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.errors import AtrousError
from atrous.predict import upsample
from atrous.predict.upsample import labels, plain_labels, probability, undecided_share
from tests import reference


def smooth(random: np.random.Generator, height: int, width: int, classes: int) -> np.ndarray:
    """Returns logits with regions, like a network's."""
    rows, columns = np.mgrid[:height, :width]
    centres = random.uniform(0, [[height, width]], (classes, 2))
    distance = np.hypot(rows[..., None] - centres[:, 0], columns[..., None] - centres[:, 1])
    return (20 - distance).astype(np.float32)


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 70), (70, 1), (65, 97), (64, 96), (66, 95), (33, 33), (3, 2)]
)
@pytest.mark.parametrize("kind", ["random", "smooth"])
def test_labels_equal_the_plain_ones(stride: int, size: tuple[int, int], kind: str) -> None:
    random = np.random.default_rng(0)
    shape = (-(-size[0] // stride), -(-size[1] // stride))
    if kind == "random":
        coarse = random.normal(0, 5, (*shape, 21)).astype(np.float32)
    else:
        coarse = smooth(random, *shape, 21)
    assert (labels(coarse, stride, size) == plain_labels(coarse, stride, size)).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    units=st.integers(0, 60),
    magnitude=st.sampled_from([1e-42, 1e-30, 1e-3, 1.0, 30.0, 1e6, 1e30]),
    stride=st.sampled_from([4, 8, 16]),
)
def test_near_ties_are_labelled_as_the_plain_ones(
    seed: int, units: int, magnitude: float, stride: int
) -> None:
    """Classes that lead by a few units in the last place at all corners, or tie."""
    random = np.random.default_rng(seed)
    base = random.normal(0, magnitude, (6, 7, 1)).astype(np.float32)
    coarse = np.repeat(base, 4, axis=2)
    step = np.spacing(np.abs(coarse).max()) if seed % 2 else np.spacing(np.abs(coarse))
    coarse = coarse + random.integers(-units, units + 1, coarse.shape) * step
    coarse = coarse.astype(np.float32)
    size = (6 * stride - 1, 7 * stride - 2)
    assert (labels(coarse, stride, size) == plain_labels(coarse, stride, size)).all()


def test_a_lead_of_one_unit_can_be_lost_to_rounding() -> None:
    """The reason for the margin: winner at every corner, yet not everywhere inside."""
    random = np.random.default_rng(1)
    lost = 0
    for _ in range(300):
        first = random.uniform(1, 2, (2, 2, 1)).astype(np.float32)
        second = np.nextafter(first, np.float32(9))
        coarse = np.concatenate([first, second], axis=2)
        plain = plain_labels(coarse, 16, (17, 17))
        lost += (plain == 0).any()
        assert (labels(coarse, 16, (17, 17)) == plain).all()
    assert lost > 0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    units=st.integers(0, 80),
    magnitude=st.sampled_from([1e-42, 1e-3, 1.0, 1e6, 1e29]),
    stride=st.sampled_from([2, 4, 16]),
)
def test_a_third_class_near_the_mean_of_two_is_not_overlooked(
    seed: int, units: int, magnitude: float, stride: int
) -> None:
    """Two classes swap the lead; a third is a few units in the last place around their mean."""
    random = np.random.default_rng(seed)
    swing = random.normal(0, magnitude, (5, 6))
    middle = random.normal(0, magnitude, (5, 6))
    planes = [middle + swing, middle - swing, middle, middle]
    coarse = np.stack(planes, axis=-1).astype(np.float32)[..., random.permutation(4)]
    coarse += random.integers(-units, units + 1, coarse.shape) * np.spacing(np.abs(coarse).max())
    size = (5 * stride - 1, 6 * stride - 2)
    assert (labels(coarse, stride, size) == plain_labels(coarse, stride, size)).all()


def test_equal_logits_give_the_lowest_class() -> None:
    coarse = np.ones((3, 3, 5), np.float32)
    assert (labels(coarse, 4, (9, 9)) == 0).all()


def test_most_cells_of_smooth_logits_are_decided() -> None:
    coarse = smooth(np.random.default_rng(0), 65, 65, 8)
    assert 0 < undecided_share(coarse) < 0.2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_logits_that_are_not_finite_or_huge_are_labelled_as_the_plain_ones(value: float) -> None:
    coarse = np.random.default_rng(0).normal(0, 1, (5, 5, 4)).astype(np.float32)
    coarse[2, 2, 1] = value
    coarse[2, 3, 2] = -value
    with np.errstate(invalid="ignore", over="ignore"):
        assert (labels(coarse, 4, (17, 17)) == plain_labels(coarse, 4, (17, 17))).all()


def test_upsampling_is_align_corners_at_exact_sizes() -> None:
    coarse = np.random.default_rng(0).normal(0, 5, (9, 13, 6)).astype(np.float32)
    planes = torch.from_numpy(coarse).permute(2, 0, 1)[None]
    full = F.interpolate(planes, (33, 49), mode="bilinear", align_corners=True)[0]
    ours = upsample.upsampled_rows(coarse, 4, 0, 33, 49)
    np.testing.assert_allclose(ours, full.permute(1, 2, 0).numpy(), atol=1e-5)


def test_many_classes_take_two_bytes() -> None:
    coarse = np.random.default_rng(0).normal(0, 1, (5, 6, 300)).astype(np.float32)
    found = labels(coarse, 4, (18, 22))
    assert found.dtype == np.uint16
    assert (found == plain_labels(coarse, 4, (18, 22))).all()


def test_logits_that_lie_class_by_class_get_the_same_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coarse = smooth(np.random.default_rng(3), 40, 30, 21)
    planes = np.ascontiguousarray(coarse.transpose(2, 0, 1))
    for chunk in (upsample.CHUNK_BYTES, 100_000):  # in one block, and rows of the planes in several
        monkeypatch.setattr(upsample, "CHUNK_BYTES", chunk)
        found = labels(planes.transpose(1, 2, 0), 8, (315, 233))
        assert (found == plain_labels(coarse, 8, (315, 233))).all()
    assert (planes.transpose(1, 2, 0) == coarse).all()  # which were not worked on in place


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = np.random.default_rng(0).normal(0, 5, (40, 31, 7)).astype(np.float32)
    whole = labels(coarse, 8, (313, 245))
    chance = probability(coarse, 8, (313, 245), 3)
    monkeypatch.setattr(upsample, "CHUNK_BYTES", 3000)
    assert (labels(coarse, 8, (313, 245)) == whole).all()
    assert (probability(coarse, 8, (313, 245), 3) == chance).all()


def test_probabilities_are_the_softmax() -> None:
    coarse = np.random.default_rng(0).normal(0, 5, (5, 6, 4)).astype(np.float32)
    planes = torch.from_numpy(upsample.upsampled_rows(coarse, 4, 0, 18, 23))
    expected = planes.softmax(2)[..., 2].numpy()
    np.testing.assert_allclose(probability(coarse, 4, (18, 23), 2), expected, atol=1e-6)
    with pytest.raises(AtrousError):
        probability(coarse, 4, (18, 23), 4)


def test_P04_many_classes_of_a_big_picture_stay_in_bounds() -> None:
    """150 classes at 4096 x 4096 would be 10 GB of logits; here the same at a quarter a side."""
    import tracemalloc

    coarse = np.random.default_rng(0).normal(0, 5, (256, 256, 150)).astype(np.float32)  # 39 MB
    tracemalloc.start()
    labels(coarse, 4, (1024, 1024))
    probability(coarse, 4, (1024, 1024), 7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * upsample.CHUNK_BYTES  # the full-resolution logits are 630 MB


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (20, 29), (1, 40)])
@pytest.mark.parametrize("stride", [1, 4, 16])
def test_labels_match_naive_loop(size: tuple[int, int], stride: int) -> None:
    draw = np.random.default_rng(0)
    shape = (-(-size[0] // stride), -(-size[1] // stride), 5)
    coarse = draw.normal(size=shape).astype(np.float32)
    expected = reference.upsample(coarse, stride, size)
    assert np.array_equal(labels(coarse, stride, size), expected.argmax(2))


def test_probabilities_match_naive_softmax() -> None:
    coarse = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    logits = reference.upsample(coarse, 4, (11, 14))
    exponentials = np.exp(logits)
    for index in range(5):
        expected = exponentials[..., index] / exponentials.sum(2)
        found = probability(coarse, 4, (11, 14), index)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)
