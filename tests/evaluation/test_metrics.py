"""Counts and scores, against a naive loop, scikit-learn, torchmetrics and the authors' rule."""

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)

from atrous.errors import AtrousError
from atrous.evaluation import metrics
from atrous.evaluation.metrics import confusion_matrix

Maps = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def naive(target: NDArray[np.integer], labels: NDArray[np.integer], k: int, ignore: int = 255):
    counts = np.zeros((k, k), np.int64)
    for true, predicted in zip(target.ravel().tolist(), labels.ravel().tolist(), strict=True):
        if true != ignore:
            counts[true, predicted] += 1
    return counts


def noise(seed: int, k: int, shape: tuple[int, ...] = (37, 53)) -> Maps:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, k, shape).astype(np.uint8)
    target[rng.random(shape) < 0.1] = 255
    return target, rng.integers(0, k, shape).astype(np.uint8)


def blocks(seed: int, k: int) -> Maps:
    """Piecewise constant maps, as real ones are: they take the path that counts runs."""
    target, labels = noise(seed, k, (6, 7))
    big = np.kron(target, np.ones((9, 40), np.uint8))
    return big, np.roll(np.kron(labels, np.ones((9, 40), np.uint8)), 5, axis=1)


@pytest.mark.parametrize("make", [noise, blocks])
@pytest.mark.parametrize("k", [1, 2, 21, 255])
def test_confusion_matrix_matches_naive_loop(make, k):
    target, labels = make(k, k)
    counts = confusion_matrix(target, labels, k)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, naive(target, labels, k))


@pytest.mark.parametrize("make", [noise, blocks])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_confusion_matrix_is_the_same_for_every_integer_type(make, dtype):
    target, labels = make(1, 21)
    counts = confusion_matrix(target.astype(dtype), labels.astype(np.int64), 21)
    np.testing.assert_array_equal(counts, naive(target, labels, 21))


def test_more_than_255_classes_are_counted():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 300, (40, 40)).astype(np.uint16)
    labels = rng.integers(0, 300, (40, 40)).astype(np.uint16)
    target[:5] = 65535
    counts = confusion_matrix(target, labels, 300)
    np.testing.assert_array_equal(counts, naive(target, labels, 300, ignore=65535))


@pytest.mark.parametrize("make", [noise, blocks])
def test_confusion_matrix_matches_scikit_learn(make):
    target, labels = make(2, 21)
    valid = target != 255
    expected = sklearn.metrics.confusion_matrix(target[valid], labels[valid], labels=np.arange(21))
    np.testing.assert_array_equal(confusion_matrix(target, labels, 21), expected)


@pytest.mark.parametrize("make", [noise, blocks])
def test_confusion_matrix_matches_torchmetrics(make):
    target, labels = make(3, 21)
    expected = multiclass_confusion_matrix(
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(target.astype(np.int64)),
        num_classes=21,
        ignore_index=255,
    )
    np.testing.assert_array_equal(confusion_matrix(target, labels, 21), expected.numpy())


@settings(max_examples=50, deadline=None)
@given(
    pixels=st.lists(
        st.tuples(st.sampled_from([0, 1, 2, 3, 255]), st.integers(0, 3), st.integers(1, 30)),
        max_size=20,
    )
)
def test_runs_of_any_length_are_counted(pixels):
    target = np.repeat([p[0] for p in pixels], [p[2] for p in pixels]).astype(np.uint8)
    labels = np.repeat([p[1] for p in pixels], [p[2] for p in pixels]).astype(np.uint8)
    np.testing.assert_array_equal(confusion_matrix(target, labels, 4), naive(target, labels, 4))


def test_ignored_pixels_do_not_count_whatever_was_predicted_there():
    target, labels = noise(4, 5)
    anything = np.where(target == 255, 200, labels).astype(np.uint8)
    np.testing.assert_array_equal(
        confusion_matrix(target, anything, 5), confusion_matrix(target, labels, 5)
    )


@pytest.mark.parametrize("make", [noise, blocks])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("which", ["target", "prediction"])
def test_out_of_range_value_is_refused_and_named(make, dtype, which):
    target, labels = make(5, 5)
    target[0, 0] = 1
    (target if which == "target" else labels)[0, 0] = 17
    with pytest.raises(AtrousError, match=rf"{which}.* 5 .* 17 .*E-METRICS-RANGE") as caught:
        confusion_matrix(target.astype(dtype), labels.astype(dtype), 5)
    assert caught.value.code == "E-METRICS-RANGE"


def test_negative_value_is_refused():
    with pytest.raises(AtrousError, match=r" -1 .*E-METRICS-RANGE"):
        confusion_matrix(np.array([0, -1]), np.array([0, 0]), 2)


def test_different_shapes_are_refused():
    with pytest.raises(AtrousError, match=r"\(2, 2\).*\(2, 3\).*E-METRICS-SHAPE"):
        confusion_matrix(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 2)


def test_empty_map_counts_nothing():
    empty = np.zeros((0, 5), np.uint8)
    assert confusion_matrix(empty, empty, 3).sum() == 0


@pytest.mark.parametrize("target", [0, 1])
def test_scores_of_two_classes_match_scikit_learn(target):
    true, labels = np.random.default_rng(3).integers(0, 2, (2, 500))
    found = metrics.of_two_classes(naive(true, labels, 2), target)
    precision, recall, f_score, _ = sklearn.metrics.precision_recall_fscore_support(
        true, labels, average="binary", pos_label=target
    )
    assert found == pytest.approx({"dice": f_score, "precision": precision, "recall": recall})
    nothing = metrics.of_two_classes(np.array([[9, 0], [0, 0]]), 1)
    assert all(math.isnan(value) for value in nothing.values())


@pytest.mark.parametrize("make", [noise, blocks])
def test_scores_match_scikit_learn(make):
    target, labels = make(6, 7)
    valid = target != 255
    true, predicted = target[valid], labels[valid]
    counts = confusion_matrix(target, labels, 7)
    jaccard = sklearn.metrics.jaccard_score(true, predicted, average=None, labels=range(7))
    np.testing.assert_allclose(metrics.class_iou(counts), jaccard)
    assert metrics.mean_iou(counts) == pytest.approx(jaccard.mean())
    assert metrics.pixel_accuracy(counts) == pytest.approx(
        sklearn.metrics.accuracy_score(true, predicted)
    )
    assert metrics.mean_over_present(metrics.class_accuracy(counts)) == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(true, predicted)
    )
    assert metrics.frequency_weighted_iou(counts) == pytest.approx(
        sklearn.metrics.jaccard_score(true, predicted, average="weighted")
    )


def test_scores_match_torchmetrics_where_every_class_is_present():
    target, labels = noise(7, 7)
    pair = torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(target.astype(np.int64))
    counts = confusion_matrix(target, labels, 7)
    options = {"num_classes": 7, "ignore_index": 255}
    assert metrics.mean_iou(counts) == pytest.approx(
        float(multiclass_jaccard_index(*pair, **options))
    )
    assert metrics.mean_over_present(metrics.class_accuracy(counts)) == pytest.approx(
        float(multiclass_accuracy(*pair, average="macro", **options))
    )


def test_absent_class_is_left_out():
    counts = np.array([[8, 2, 0], [0, 10, 0], [0, 0, 0]])
    np.testing.assert_array_equal(metrics.class_iou(counts), [8 / 10, 10 / 12, np.nan])
    assert metrics.mean_iou(counts) == pytest.approx((8 / 10 + 10 / 12) / 2)


def test_class_only_predicted_counts_as_zero():
    counts = np.array([[8, 0, 2], [0, 10, 0], [0, 0, 0]])
    np.testing.assert_array_equal(metrics.class_iou(counts), [0.8, 1, 0])
    assert metrics.mean_iou(counts) == pytest.approx(1.8 / 3)
    # ... but a class without labels has no accuracy.
    assert metrics.mean_over_present(metrics.class_accuracy(counts)) == pytest.approx((0.8 + 1) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_mean_iou_is_the_authors_rule(seed):
    """tf.metrics.mean_iou: diagonal over (rows + columns - diagonal), mean over non-zero ones."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 100, (9, 9))
    counts[rng.random(9) < 0.4] = 0
    counts[:, rng.random(9) < 0.4] = 0
    denominator = counts.sum(0) + counts.sum(1) - np.diagonal(counts)
    num_valid = (denominator != 0).sum()
    safe = np.where(denominator > 0, denominator, 1)
    expected = (np.diagonal(counts) / safe).sum() / num_valid
    assert metrics.mean_iou(counts) == pytest.approx(expected)


def test_scores_of_nothing_are_not_numbers():
    counts = np.zeros((3, 3), np.int64)
    for score in (
        metrics.mean_iou,
        metrics.pixel_accuracy,
        lambda nothing: metrics.mean_over_present(metrics.class_accuracy(nothing)),
        metrics.frequency_weighted_iou,
    ):
        assert math.isnan(score(counts))


def test_mean_over_chosen_classes_keeps_the_full_matrix_in_each_iou():
    counts = np.array([[8, 2, 0], [0, 10, 0], [3, 0, 7]])
    ious = metrics.class_iou(counts)
    assert metrics.mean_over_present(ious, [0, 2]) == pytest.approx((8 / 13 + 7 / 10) / 2)


def test_counts_beyond_32_bits_add_up():
    big = np.full((2, 2), 2**40, np.int64)
    assert metrics.pixel_accuracy(big) == pytest.approx(0.5)
    assert (big + big).dtype == np.int64
