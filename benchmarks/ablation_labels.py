"""How exactly labels follow the borders that a picture shows: what a band of one pixel can tell.

    python benchmarks/ablation_labels.py

Two things for the held-out pictures of CamVid, Cityscapes (small) and scenes, whose labels are
exact. Between two neighbouring pixels of different classes, the labels put a border. The strongest
change of brightness among the eleven steps around it, across the border, is where the picture puts
it; their distance is counted. And the labels are scored against themselves moved by one pixel, as
a network would be that finds everything a pixel beside the labels. Writes
results/ablation_labels.json, from which `ablations.py table` prints.
"""

import json
from collections.abc import Iterator

import ablations
import numpy as np
from ablation_tables import LABELS
from numpy.typing import NDArray

from atrous.classes import unlabelled
from atrous.data.dataset import Dataset
from atrous.evaluation.boundary import Boundaries

BASES = {"street": "CamVid", "cityscapes": "Cityscapes (small)", "scenes": "scenes"}
REACH = 5  # steps on either side of a border


def distances(image: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Counts the borders by the distance in pixels, 0 to 5, of the strongest change nearby.

    Args:
        image: (H, W, 3).
        target: (H, W), 255 is unlabelled; its borders do not count.
    """
    counts = np.zeros(REACH + 1, np.int64)
    grey = image.astype(np.float32).mean(-1)
    for brightness, labels in ((grey, target), (grey.T, target.T)):
        change = np.abs(np.diff(brightness, axis=1))  # (H, W - 1): between a pixel and the next
        left, right = labels[:, :-1], labels[:, 1:]
        border = (left != right) & (left != 255) & (right != 255)
        border[:, :REACH] = border[:, change.shape[1] - REACH :] = False
        y, x = np.nonzero(border)
        nearby = change[y[:, None], x[:, None] + np.arange(-REACH, REACH + 1)]
        clear = nearby.max(1) > 0
        offset = np.abs(nearby[clear].argmax(1) - REACH)
        counts += np.bincount(offset, minlength=REACH + 1)
    return counts


def moved(dataset: Dataset) -> Iterator[float]:
    """Yields the mean IoU of labels moved by one pixel to the right, by width of the band."""
    k = len(dataset.classes)
    boundaries = Boundaries(k, unlabelled(k), "borders")
    for i in range(len(dataset)):
        target = dataset[i].target
        guess = np.roll(target, 1, axis=1)
        guess[guess == unlabelled(k)] = target[guess == unlabelled(k)]
        boundaries.update(target, np.where(guess == unlabelled(k), 0, guess).astype(target.dtype))
    yield from (value or 0.0 for value in boundaries.trimap().values())


def main() -> None:
    """Measures and writes."""
    result = {}
    for base, name in BASES.items():
        held_out = ablations.data_of(base, 0)[2]
        counts = np.sum([distances(*held_out[i]) for i in range(len(held_out))], axis=0)
        result[name] = {"borders": counts.tolist(), "moved": list(moved(held_out))}
        print(name, counts / counts.sum(), result[name]["moved"][:5])
    LABELS.write_text(json.dumps({"commit": ablations.commit(), **result}) + "\n")


if __name__ == "__main__":
    main()
