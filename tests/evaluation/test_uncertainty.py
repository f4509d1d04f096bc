"""Intervals against a naive bootstrap and known distributions; calibration against a loop."""

import numpy as np
import pytest

from atrous.evaluation import metrics, uncertainty
from atrous.evaluation.uncertainty import BINS, Reliability


def counts(seed: int, pictures: int = 40, k: int = 3):
    """Per-picture counts of pictures that differ in difficulty."""
    rng = np.random.default_rng(seed)
    result = np.zeros((pictures, 3, k), np.int64)
    for i in range(pictures):
        target = rng.integers(0, k, 400)
        labels = np.where(rng.random(400) < rng.uniform(0.5, 1), target, rng.integers(0, k, 400))
        matrix = metrics.confusion_matrix(target, labels, k)
        result[i] = np.diagonal(matrix), matrix.sum(1), matrix.sum(0)
    return result


def test_resamples_match_a_naive_bootstrap():
    per_picture = counts(0)
    found = uncertainty.mean_iou_resamples(per_picture, resamples=2000)
    rng = np.random.default_rng(99)
    naive = []
    for _ in range(3000):
        drawn = per_picture[rng.integers(0, 40, 40)].sum(0)
        naive.append((drawn[0] / (drawn[1] + drawn[2] - drawn[0])).mean())
    assert found.mean() == pytest.approx(np.mean(naive), abs=0.002)
    assert found.std() == pytest.approx(np.std(naive), rel=0.1)
    assert uncertainty.interval(found) == pytest.approx(
        tuple(np.quantile(naive, [0.025, 0.975])), abs=0.004
    )


def test_interval_covers_the_truth_about_as_often_as_it_says():
    truth = metrics.mean_over_present(metrics.iou(*counts(12345, 2000).sum(0)))
    covered = 0
    for seed in range(40):
        samples = uncertainty.mean_iou_resamples(counts(seed), resamples=200)
        low, high = uncertainty.interval(samples)
        covered += low <= truth <= high
    assert 33 <= covered <= 40


def test_one_picture_has_an_interval_without_width():
    per_picture = counts(1, 1)
    low, high = uncertainty.interval(uncertainty.mean_iou_resamples(per_picture))
    assert low == high == pytest.approx(metrics.iou(*per_picture[0]).mean())


def test_class_absent_from_every_picture_is_left_out():
    per_picture = np.concatenate([counts(2), np.zeros((40, 3, 1), np.int64)], axis=2)
    np.testing.assert_allclose(
        uncertainty.mean_iou_resamples(per_picture), uncertainty.mean_iou_resamples(counts(2))
    )


def test_model_against_itself_has_no_difference():
    gain = uncertainty.difference(counts(3), counts(3))
    assert (gain.mean_iou, gain.low, gain.high, gain.better) == (0, 0, 0, 0)


def test_pairing_makes_the_interval_narrower():
    first = counts(4)
    second = first.copy()
    second[:, 0] += (0.1 * (first[:, 1] - first[:, 0])).astype(np.int64)  # a little better, always
    gain = uncertainty.difference(first, second)
    low, high = uncertainty.interval(uncertainty.mean_iou_resamples(first))
    assert gain.low > 0
    assert gain.high - gain.low < (high - low) / 3


def test_calibration_matches_a_naive_loop():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(4, 0.3), (30, 40)).astype(np.float32)
    target = rng.integers(0, 4, (30, 40)).astype(np.uint8)
    target[:3] = 255
    reliability = Reliability()
    for rows in (slice(0, 10), slice(10, 30)):
        reliability.update(target[rows], probabilities[rows], 255)
    gaps, total = 0.0, 0
    for low in range(BINS):
        inside = [
            (p.max(), p.argmax() == t)
            for p, t in zip(probabilities.reshape(-1, 4), target.ravel(), strict=True)
            if t != 255 and low / BINS <= p.max() < (low + 1) / BINS + (low == BINS - 1)
        ]
        total += len(inside)
        if inside:
            confidence, right = np.mean(inside, axis=0)
            gaps += len(inside) * abs(confidence - right)
            assert reliability.accuracy[low] == pytest.approx(right)
            assert reliability.confidence[low] == pytest.approx(confidence)
    assert reliability.pixels.sum() == total == 27 * 40
    assert reliability.expected_calibration_error() == pytest.approx(gaps / total)


def test_certain_and_right_is_perfectly_calibrated():
    target = np.array([[0, 1, 255]], np.uint8)
    reliability = Reliability()
    reliability.update(target, np.eye(2, dtype=np.float32)[[[0, 1, 1]]], 255)
    assert reliability.expected_calibration_error() == 0
    assert np.isnan(Reliability().expected_calibration_error())
