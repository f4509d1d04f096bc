"""Uncertainty of scores: bootstrap intervals, paired differences, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atrous.errors import DataError
from atrous.evaluation.metrics import Counts, Labels, iou, mean_over_present, ratio

RESAMPLES = 2000
LEVEL = 0.95
INTERVAL_RULE = (
    f"{LEVEL:.0%} percentile interval of {RESAMPLES} bootstrap resamples of whole pictures (seed 0)"
)
BINS = 15
CALIBRATION_RULE = (
    f"expected calibration error of the largest softmax output, {BINS} equal bins, over the "
    "labelled pixels on the grid of the coarse logits"
)


def mean_iou_resamples(
    per_picture: Counts, *, classes: Sequence[int] | None = None, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Returns the mean IoU of bootstrap resamples of the pictures, (resamples,).

    The draws depend only on the number of pictures, so the resamples of two models can be paired.
    The mean of a draw leaves out classes that the draw does not contain.

    Args:
        per_picture: (N, 3, K): correct, true and predicted pixels of each class.
        classes: Indices to average over; None: all.
        resamples: Number of draws.
    """
    chosen = per_picture if classes is None else per_picture[:, :, list(classes)]
    n, _, k = chosen.shape
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples)
    sums = draws.astype(np.float64) @ chosen.reshape(n, 3 * k)  # exact below 2**53
    correct, true, predicted = sums.reshape(resamples, 3, k).transpose(1, 0, 2)
    values = iou(correct, true, predicted)
    return ratio(np.nansum(values, axis=1), (~np.isnan(values)).sum(1))


def interval(samples: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the percentile interval of resampled values; NaN where there are none."""
    samples = samples[~np.isnan(samples)]
    if not samples.size:
        return float("nan"), float("nan")
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """The mean IoU of a second model minus that of a first, on the same pictures.

    Attributes:
        mean_iou: Second minus first.
        low: Lower end of its interval.
        high: Upper end. If 0 lies outside the interval, the pictures tell the two models apart.
        better: Share of resamples in which the second is better.
    """

    mean_iou: float
    low: float
    high: float
    better: float


def difference(
    first: Counts, second: Counts, *, classes: Sequence[int] | None = None
) -> Difference:
    """Compares two models; each resample takes the same pictures of both.

    Args:
        first: (N, 3, K) counts of one model, as in `mean_iou_resamples`.
        second: The counts of the other model, on the same pictures in the same order.
        classes: Indices to average over; None: all.

    Raises:
        AtrousError: The labelled pixels differ, so the pictures are not the same.
    """
    if first.shape != second.shape or not np.array_equal(first[:, 1], second[:, 1]):
        raise DataError(
            "E-COMPARE",
            "the two results are not of the same labelled pictures",
            fix="evaluate both models on the same data, split and classes",
        )
    resampled = [mean_iou_resamples(counts, classes=classes) for counts in (first, second)]
    gains = resampled[1] - resampled[0]
    low, high = interval(gains)
    wholes = [mean_over_present(iou(*counts.sum(0)), classes) for counts in (first, second)]
    return Difference(wholes[1] - wholes[0], low, high, float((gains > 0).mean()))


class Reliability:
    """Accuracy of predictions by confidence."""

    def __init__(self) -> None:
        self.pixels = np.zeros(BINS, np.int64)
        self._right = np.zeros(BINS, np.int64)
        self._confidence = np.zeros(BINS, np.float64)

    def update(self, target: Labels, probabilities: NDArray[np.float32], ignore_index: int) -> None:
        """Adds pixels: true classes (h, w) and probabilities of all classes (h, w, K)."""
        labelled = target != ignore_index
        probabilities = probabilities[labelled]
        confidence = probabilities.max(1, initial=0)
        bins = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
        right = probabilities.argmax(1) == target[labelled]
        self.pixels += np.bincount(bins, minlength=BINS)
        self._right += np.bincount(bins[right], minlength=BINS)
        self._confidence += np.bincount(bins, confidence, minlength=BINS)

    def merge(self, other: "Reliability") -> None:
        """Adds the pixels of another count."""
        self.pixels += other.pixels
        self._right += other._right
        self._confidence += other._confidence

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of right pixels by bin, (15,); NaN in an empty one."""
        return ratio(self._right, self.pixels)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Mean confidence by bin, (15,); NaN in an empty one."""
        return ratio(self._confidence, self.pixels)

    def expected_calibration_error(self) -> float:
        """Returns the mean gap between confidence and accuracy over pixels; NaN without pixels."""
        return float(ratio(np.abs(self._right - self._confidence).sum(), self.pixels.sum()))
