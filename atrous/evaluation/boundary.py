"""How sharp borders are: the paper's trimap curve, boundary IoU and boundary F-score.

The trimap experiment is the paper's own measure of its decoder (arXiv:1802.02611, Sec. 4.4 and
Fig. 5a): mean IoU over a band around the unlabelled pixels, which in VOC lie on object borders.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from atrous.evaluation.metrics import Counts, Labels, iou, mean_over_present, ratio

MAX_WIDTH = 40  # of the trimap band, in pixels
IOU_DISTANCE = 0.02  # of the picture's diagonal (Cheng et al., Boundary IoU, arXiv:2103.16562)
F_DISTANCE = 0.0075  # of the picture's diagonal (Csurka et al., BMVC 2013)

Trimap = Literal["auto", "void", "borders"]
TRIMAP_RULES = {
    "auto": "per picture: void where it has any unlabelled pixel, borders otherwise",
    "void": "labelled pixels at a Euclidean distance of at most w from an unlabelled one",
    "borders": "pixels at a Euclidean distance of at most w - 1 from one with a 4-neighbour "
    "of another class",
}
BOUNDARY_RULE = (
    "predictions are unlabelled where labels are; boundary IoU: pixels within 2 % of the diagonal "
    "(rounded, chessboard distance) of another label or the picture's edge; F-score: 4-connected "
    "inner contours within 0.75 % of the diagonal (Euclidean); both counted over the whole set"
)


class Boundaries:
    """Counts the boundary measures over the pictures of a set.

    Args:
        num_classes: Number of classes K.
        ignore_index: Value of unlabelled pixels.
        trimap: Which pixels the trimap's band surrounds (`TRIMAP_RULES`).

    Attributes:
        bands: (40, 3, K): correct, true and predicted pixels in the band of each width.
    """

    def __init__(self, num_classes: int, ignore_index: int, trimap: Trimap = "auto") -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.start = trimap
        # The axis of length 3 holds correct, true and predicted pixels. Contours hold found and
        # true pixels of the labels, then confirmed and predicted pixels of the prediction.
        self.bands: Counts = np.zeros((MAX_WIDTH, 3, num_classes), np.int64)
        self._near: Counts = np.zeros((3, num_classes), np.int64)
        self.pictures = Counter(void=0, borders=0)  # number of pictures for each rule
        self._narrowest: list[Counts] = []
        self._contours: list[Counts] = []

    def update(self, target: Labels, labels: Labels) -> None:
        """Adds one picture: true and predicted classes, both (H, W)."""
        void = target == self.ignore_index
        labels = np.where(void, target.dtype.type(self.ignore_index), labels)
        self._add_trimap(target, labels, void)
        self._add_near(target, labels, void)
        self._add_contours(target, labels)

    def merge(self, other: "Boundaries") -> None:
        """Adds the pictures of another count, after those of this one."""
        self.bands += other.bands
        self._near += other._near
        self.pictures.update(other.pictures)
        self._narrowest += other._narrowest
        self._contours += other._contours

    def trimap(self, classes: Sequence[int] | None = None) -> dict[int, float | None]:
        """Returns the mean IoU within the band of each width, 1 to `MAX_WIDTH` pixels.

        Args:
            classes: Indices to average over; None: all.
        """
        means = [mean_over_present(iou(*counts), classes) for counts in self.bands]
        return {w: None if np.isnan(mean) else mean for w, mean in enumerate(means, start=1)}

    @property
    def narrowest(self) -> Counts:
        """(N, 3, K): correct, true and predicted pixels of each picture's band of one pixel."""
        return np.stack(self._narrowest)

    def boundary_iou(self) -> NDArray[np.float64]:
        """Returns the boundary IoU by class, (K,); NaN where a class never occurs."""
        return iou(*self._near)

    def boundary_f(self) -> NDArray[np.float64]:
        """Returns the F-score of contours by class, (K,); NaN where a class has none."""
        return contour_f(self.contours.sum(0))

    @property
    def contours(self) -> Counts:
        """(N, 4, K): what `contour_f` takes, of each picture."""
        none: Counts = np.zeros((0, 4, self.num_classes), np.int64)
        return np.stack(self._contours) if self._contours else none

    def _add_trimap(self, target: Labels, labels: Labels, void: NDArray[np.bool_]) -> None:
        start = self.start
        if start == "auto":
            start = "void" if void.any() else "borders"
        self.pictures[start] += 1
        width = band_widths(target, void, start)
        band = width > 0
        k = self.num_classes
        rows = (width[band].astype(np.intp) - 1) * k
        true, predicted = target[band], labels[band]
        right = true == predicted
        counts = [
            np.bincount(codes, minlength=MAX_WIDTH * k).reshape(MAX_WIDTH, k).cumsum(0)
            for codes in (rows[right] + true[right], rows + true, rows + predicted)
        ]
        by_width = np.stack(counts, axis=1)  # (40, 3, K)
        self.bands += by_width
        self._narrowest.append(by_width[0])

    def _add_near(self, target: Labels, labels: Labels, void: NDArray[np.bool_]) -> None:
        distance = max(1, round(IOU_DISTANCE * np.hypot(*target.shape)))
        true = near_another_label(target, distance) & ~void
        predicted = near_another_label(labels, distance) & ~void
        both = true & predicted & (target == labels)
        for row, values in enumerate((target[both], target[true], labels[predicted])):
            self._near[row] += np.bincount(values, minlength=self.num_classes)

    def _add_contours(self, target: Labels, labels: Labels) -> None:
        radius = F_DISTANCE * float(np.hypot(*target.shape))
        true, predicted = (contours(a) & (a != self.ignore_index) for a in (target, labels))
        counts: Counts = np.zeros((4, self.num_classes), np.int64)
        for row, (of, where, against, there) in enumerate(
            ((target, true, labels, predicted), (labels, predicted, target, true))
        ):
            matched = has_neighbour(of, where, against, there, radius)
            counts[2 * row] = np.bincount(of[where][matched], minlength=self.num_classes)
            counts[2 * row + 1] = np.bincount(of[where], minlength=self.num_classes)
        self._contours.append(counts)


def contour_f(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the F-score of contours by class, (..., K); NaN where a class has none.

    Args:
        counts: (..., 4, K): true contour pixels that are found, all true ones, predicted contour
            pixels that are right, all predicted ones.
    """
    found, true, confirmed, predicted = np.moveaxis(counts, -2, 0)
    recall, precision = ratio(found, true), ratio(confirmed, predicted)
    score = ratio(2 * precision * recall, precision + recall)
    missed = (true + predicted > 0) & ~(score > 0)  # no contour on one side, or no match
    return np.where(missed, 0.0, score)


def band_widths(
    target: Labels, void: NDArray[np.bool_], start: Literal["void", "borders"]
) -> NDArray[np.uint8]:
    """Returns the width of the narrowest band that holds each pixel: (H, W), 1..40, else 0."""
    if start == "void":
        width = np.ceil(np.sqrt(squared_distance(void, MAX_WIDTH)))
    else:
        width = np.ceil(np.sqrt(squared_distance(contours(target), MAX_WIDTH - 1))) + 1
    width[(width > MAX_WIDTH) | void] = 0
    return width.astype(np.uint8)


def squared_distance(mask: NDArray[np.bool_], radius: int) -> NDArray[np.int32]:
    """Returns the squared Euclidean distance to the nearest True, exact up to `radius`.

    Pixels farther away get some value above radius**2. The function first measures distances along
    each row, then combines rows up to `radius` apart: a few whole-picture operations per offset,
    which is fast because the radius is small.
    """
    width = mask.shape[1]
    columns = np.arange(width, dtype=np.int32)
    far = width + radius + 1
    left = np.maximum.accumulate(np.where(mask, columns, -far), axis=1)
    right = np.minimum.accumulate(np.where(mask, columns, width + far)[:, ::-1], axis=1)[:, ::-1]
    along = np.minimum(np.minimum(columns - left, right - columns), radius + 1).astype(np.int32)
    along *= along
    best = along.copy()
    for rows in range(1, min(radius, mask.shape[0] - 1) + 1):
        candidate = along + rows * rows
        np.minimum(best[rows:], candidate[:-rows], out=best[rows:])
        np.minimum(best[:-rows], candidate[rows:], out=best[:-rows])
    return best


def contours(labels: Labels) -> NDArray[np.bool_]:
    """Returns the pixels with a neighbour above, below, left or right of another label."""
    result = np.zeros(labels.shape, np.bool_)
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        differ = labels[here] != labels[there]
        result[here] |= differ
        result[there] |= differ
    return result


def near_another_label(labels: Labels, distance: int) -> NDArray[np.bool_]:
    """Returns the pixels within a chessboard distance of another label or the picture's edge."""
    result = np.ones(labels.shape, np.bool_)
    side = 2 * distance + 1
    if min(labels.shape) >= side:
        inner = np.s_[distance : labels.shape[0] - distance, distance : labels.shape[1] - distance]
        result[inner] = _window(np.maximum, labels, side) != _window(np.minimum, labels, side)
    return result


def _window(extreme: np.ufunc, values: Labels, side: int) -> Labels:
    """Returns the extreme of each side x side window inside the picture, by doubling spans."""
    for _ in range(2):
        span = 1
        while 2 * span <= side:
            values = extreme(values[:-span], values[span:])
            span *= 2
        if span < side:
            values = extreme(values[: span - side], values[side - span :])
        values = values.T  # the second pass does the columns and turns the picture back
    return values


def has_neighbour(
    of: Labels,
    where: NDArray[np.bool_],
    against: Labels,
    there: NDArray[np.bool_],
    radius: float,
) -> NDArray[np.bool_]:
    """Returns, for each pixel in `where`, whether `against` has the same label nearby.

    Only pixels of `against` in `there` count. Near offsets are tried first, and only for pixels
    without a match, since most pixels match within a pixel or two.
    """
    reach = int(radius)
    padded = np.pad(np.where(there, against.astype(np.int32), -1), reach, constant_values=-1)
    y, x = np.nonzero(where)
    label = of[y, x].astype(np.int32)
    matched = np.zeros(y.size, np.bool_)
    offsets = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    lengths = (offsets**2).sum(1)
    for down, right in offsets[np.argsort(lengths, kind="stable")][: (lengths <= radius**2).sum()]:
        left = np.flatnonzero(~matched)
        if not left.size:
            break
        matched[left] = padded[y[left] + reach + down, x[left] + reach + right] == label[left]
    return matched
