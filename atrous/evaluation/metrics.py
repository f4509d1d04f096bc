"""Exact counts of right and wrong pixels, and the scores that follow from them.

One confusion matrix over the whole set, as in the authors' evaluation: never an average of
pictures or batches. Counts are 64-bit integers, so they do not depend on the order of the pictures.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atrous.classes import unlabelled
from atrous.errors import DataError, listed

Counts = NDArray[np.int64]
Labels = NDArray[np.integer]

_PIECE = 1 << 16  # pixels

ABSENT_CLASS_RULE = (
    "mean over the classes found in labels or predictions (union above zero); "
    "classes in neither are left out"
)


def confusion_matrix(
    target: Labels, labels: Labels, num_classes: int, *, ignore_index: int | None = None
) -> Counts:
    """Counts pixels by true and predicted class.

    Label maps are piecewise constant, so a run of pixels with the same true and the same predicted
    class is counted at once.

    Args:
        target: True classes, of any shape; `ignore_index` where unlabelled.
        labels: Predicted classes, of the same shape.
        num_classes: Number of classes K.
        ignore_index: Pixels with this true value do not count. None: 255, or 65535 above 255
            classes.

    Returns:
        (K, K) int64: row i, column j holds the pixels of class i predicted as class j.

    Raises:
        AtrousError: Shapes differ, or a value is neither a class nor `ignore_index`.
    """
    if target.shape != labels.shape:
        raise DataError(
            "E-METRICS-SHAPE",
            f"target {target.shape} and prediction {labels.shape} differ in shape",
            fix="predict at the size of the labels",
        )
    if ignore_index is None:
        ignore_index = unlabelled(num_classes)
    target, labels = target.ravel(), labels.ravel()
    if num_classes > 255 or not target.dtype == labels.dtype == np.uint8:
        return _count(target, labels, num_classes, ignore_index)
    if labels.max(initial=0) >= num_classes:
        labelled = target != ignore_index
        target, labels = target[labelled], labels[labelled]
        _check_range("prediction", labels, num_classes)
    counts = _count_bytes(target, labels, num_classes)  # (256, K)
    if ignore_index < 256:
        counts[ignore_index] = 0
    _check_range("target", np.flatnonzero(counts.any(1)), num_classes)
    return counts[:num_classes]


def _count_bytes(target: Labels, labels: Labels, num_classes: int) -> Counts:
    """Counts pairs of bytes: (256, K) for every target value and every predicted class."""
    changes = target[1:] != target[:-1]
    changes |= labels[1:] != labels[:-1]
    if np.count_nonzero(changes) < target.size // 8:
        last = np.append(np.flatnonzero(changes), target.size - 1)
        counts = _bincount(target[last], labels[last], num_classes, np.diff(last, prepend=-1))
    else:  # noisy maps have no runs; small pieces keep the temporary arrays in the cache
        counts = np.zeros(256 * num_classes, np.int64)
        for start in range(0, target.size, _PIECE):
            piece = slice(start, start + _PIECE)
            counts += _bincount(target[piece], labels[piece], num_classes)
    return counts.reshape(256, num_classes)


def _bincount(
    target: Labels, labels: Labels, num_classes: int, lengths: NDArray[np.intp] | None = None
) -> Counts:
    codes = np.multiply(target, num_classes, dtype=np.uint16)
    codes += labels
    counts = np.bincount(codes, lengths, minlength=256 * num_classes)
    return counts.astype(np.int64, copy=False)  # weighted counts are float64, exact below 2**53


def _count(target: Labels, labels: Labels, num_classes: int, ignore_index: int) -> Counts:
    """Counts pairs of integers of any type."""
    labelled = target != ignore_index
    target, labels = target[labelled], labels[labelled]
    _check_range("target", target, num_classes)
    _check_range("prediction", labels, num_classes)
    codes = target.astype(np.intp) * num_classes + labels.astype(np.intp)
    counts = np.bincount(codes, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def _check_range(what: str, values: Labels, num_classes: int) -> None:
    if values.size and (values.max() >= num_classes or values.min() < 0):
        wrong = np.unique(values[(values >= num_classes) | (values < 0)])
        shown = listed(wrong)
        raise DataError(
            "E-METRICS-RANGE",
            f"the {what} holds values that are none of the {num_classes} classes: {shown}",
            fix="map them to classes, or to the value for unlabelled pixels",
        )


# ---- scores of a matrix; shares in 0..1, NaN where undefined ------------------------------------


def class_iou(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """Returns TP / (TP + FP + FN) by class: (K,), NaN for a class that is in neither map.

    Args:
        counts: (..., K, K) confusion matrices.
    """
    correct = np.diagonal(counts, axis1=-2, axis2=-1)
    return iou(correct, counts.sum(-1), counts.sum(-2))


def iou(
    correct: NDArray[np.number], true: NDArray[np.number], predicted: NDArray[np.number]
) -> NDArray[np.float64]:
    """Returns intersection over union from pixel counts; NaN where the union is empty."""
    return ratio(correct, true + predicted - correct)


def mean_iou(counts: NDArray[np.number]) -> float:
    """Returns the mean of `class_iou` over the classes that have one (`ABSENT_CLASS_RULE`)."""
    return mean_over_present(class_iou(counts))


def mean_over_present(values: NDArray[np.float64], classes: Sequence[int] | None = None) -> float:
    """Returns the mean of the values that are not NaN; NaN when there are none.

    Args:
        values: (K,) scores by class.
        classes: Indices to average over; None: all.
    """
    chosen = values if classes is None else values[list(classes)]
    present = chosen[~np.isnan(chosen)]
    return float(present.mean()) if present.size else float("nan")


def class_accuracy(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """Returns the share of each class's pixels that were found (recall): (K,)."""
    return ratio(np.diagonal(counts), counts.sum(1))


def pixel_accuracy(counts: NDArray[np.number]) -> float:
    """Returns the share of labelled pixels that are right; NaN without any."""
    return float(ratio(np.trace(counts), counts.sum()))


def frequency_weighted_iou(counts: NDArray[np.number]) -> float:
    """Returns the mean of `class_iou`, weighted by the classes' shares of labelled pixels."""
    total = counts.sum()
    if total == 0:
        return float("nan")
    return float(np.nansum(class_iou(counts) * counts.sum(1)) / total)


def of_two_classes(counts: NDArray[np.number], target: int) -> dict[str, float]:
    """Returns dice, precision and recall of one of two classes; NaN where undefined.

    Args:
        counts: (2, 2) pixels by true and predicted class.
        target: Index of the class that is looked for.
    """
    correct, true, predicted = counts[target, target], counts[target].sum(), counts[:, target].sum()
    return {
        "dice": float(ratio(2 * correct, true + predicted)),
        "precision": float(ratio(correct, predicted)),
        "recall": float(ratio(correct, true)),
    }


def ratio(part: NDArray[np.number], whole: NDArray[np.number]) -> NDArray[np.float64]:
    """Returns part / whole; NaN where the whole is zero."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    undefined = np.full(np.broadcast(part, whole).shape, np.nan)
    return np.divide(part, whole, out=undefined, where=whole != 0)
