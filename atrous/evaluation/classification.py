"""Scores a classifier: the centre of each picture, at one size."""

from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch

from atrous.classifier import Classifier
from atrous.data.area_crop import central_crop
from atrous.data.dataset import Sample
from atrous.evaluation.metrics import Counts, confusion_matrix

AMONG = 5  # top-5 accuracy, as ImageNet reports it

_AT_ONCE = 32  # pictures


@torch.inference_mode()
def classify(
    model: Classifier, samples: Iterable[Sample], size: tuple[int, int]
) -> tuple[Counts, int]:
    """Classifies the central crop of each picture (`area_crop.central_crop`).

    Args:
        model: The classifier, in evaluation mode.
        samples: Pictures with targets of one class.
        size: (height, width) that crops are resized to.

    Returns:
        The confusion matrix (K, K), and the number of pictures whose true class is among the five
        highest scores (top-5).
    """
    device = model.classifier.weight.device
    classes = len(model.classes)
    counts, among = np.zeros((classes, classes), np.int64), 0
    pictures = iter(samples)
    while part := list(islice(pictures, _AT_ONCE)):
        images = torch.stack([central_crop(image, size) for image, _ in part])
        logits = model(images.to(device)).flatten(1).float()  # (N, K)
        true = torch.tensor([int(target[0, 0]) for _, target in part], device=device)
        above = (logits > logits.gather(1, true[:, None])).sum(1)  # (N,)
        among += int((above < AMONG).sum())
        counts += confusion_matrix(true.cpu().numpy(), logits.argmax(1).cpu().numpy(), classes)
    return counts, among
