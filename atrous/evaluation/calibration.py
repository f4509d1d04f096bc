"""Makes a model's probabilities mean what they say: one temperature for all logits.

Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599), Sec. 4.2. Labels stay
what they are: dividing all logits by one number changes none.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from atrous.data.dataset import Dataset
from atrous.errors import AtrousError, DataError
from atrous.evaluation.networks import open_network, prepared
from atrous.model import DeepLabV3Plus

HIGHEST = 10.0  # temperatures lie between this and its inverse
_STEPS = 40  # each narrows the interval by a third


def fit_temperature(model: DeepLabV3Plus, data: Dataset) -> float:
    """Returns the temperature whose probabilities have the least cross-entropy.

    Counted are the labelled pixels on the grid of the coarse logits, which need no upsampling.

    Args:
        model: A network whose temperature is 1.
        data: Labelled pictures, of the network's classes, that it was not trained on.

    Raises:
        AtrousError: No labelled pixel, or other classes.
    """
    if tuple(data.classes) != tuple(model.classes):
        raise AtrousError("E-CLASSES", "the pictures have other classes than the model")
    logits, truth = _labelled_logits(model, data)
    if not len(truth):
        raise DataError("E-DATA-UNLABELLED", "no picture has a labelled pixel")
    low, high = -math.log(HIGHEST), math.log(HIGHEST)
    for _ in range(_STEPS):  # cross-entropy is convex in the inverse, so it has one minimum
        first, second = low + (high - low) / 3, high - (high - low) / 3
        if _cross_entropy(logits, truth, first) < _cross_entropy(logits, truth, second):
            high = second
        else:
            low = first
    return math.exp((low + high) / 2)


def divide_logits(model: DeepLabV3Plus, temperature: float) -> None:
    """Divides a model's logits by a temperature, in its last convolution's weights."""
    with torch.no_grad():
        for parameter in model.decoder.classifier.parameters():
            parameter.div_(temperature)


@torch.inference_mode()
def _labelled_logits(model: DeepLabV3Plus, data: Dataset) -> tuple[Tensor, Tensor]:
    """Returns logits (P, K) and classes (P,) of all labelled pixels on the coarse grid."""
    network, _ = open_network(model)
    logits, truth = [], []
    with prepared(network, None):
        stride = network.logits_stride
        for index in range(len(data)):
            image, target = data[index]
            coarse = network(torch.tensor(image).permute(2, 0, 1).float())  # (K, h, w)
            on_grid = torch.from_numpy(target[::stride, ::stride].astype("int64"))
            coarse = coarse[:, : on_grid.shape[0], : on_grid.shape[1]]
            labelled = on_grid < len(model.classes)
            logits.append(coarse.permute(1, 2, 0)[labelled].cpu())
            truth.append(on_grid[labelled])
    return torch.cat(logits), torch.cat(truth)


def _cross_entropy(logits: Tensor, truth: Tensor, log_temperature: float) -> float:
    return F.cross_entropy(logits * math.exp(-log_temperature), truth).item()
