"""A first classifier for new classes: fitted to the features of the start, before training.

Rows of new classes start from random weights. Training with a small learning rate teaches them
slowly, and meanwhile their gradients disturb the features (Kumar et al., ICLR 2022,
arXiv:2202.10054). A logistic regression on the features of the unchanged network takes seconds.
"""

import itertools
import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous.classes import unlabelled
from atrous.data.loader import TrainingLoader
from atrous.decoder import classified
from atrous.model import DeepLabV3Plus
from atrous.training.distributed import chosen_device

logger = logging.getLogger(__name__)

PICTURES = 200  # at most

_POSITIONS = 1000  # of each picture, at most
_ITERATIONS = 40
_DECAY = 0.01  # towards the start; the best of four on sixty scenes and on VOC animals


def fit_classifier(model: DeepLabV3Plus, loader: TrainingLoader, device: str) -> None:
    """Fits the rows of a model's classifier to training pictures, in place.

    Args:
        model: Its features stay as they are.
        loader: Its first batches are read: as many as hold every picture once.
        device: Where to compute, as in `TrainConfig`.
    """
    model.to(chosen_device(device)).eval()
    rows, extra_rows = model.decoder.classifier, model.decoder.extra_rows
    features, targets = _sampled(model, loader)
    if not len(targets):
        return
    start = [parameter.detach().clone() for parameter in rows.parameters()]
    optimizer = torch.optim.LBFGS(
        rows.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        outputs = F.linear(features, rows.weight.flatten(1), rows.bias)
        logits = classified(outputs, extra_rows)
        apart = [(p - s).square().sum() for p, s in zip(rows.parameters(), start, strict=True)]
        value = F.cross_entropy(logits, targets) + _DECAY * torch.stack(apart).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    before = loss().item()
    optimizer.step(loss)  # type: ignore[no-untyped-call]
    logger.info(
        "classifier fitted to %d positions: loss %.3f to %.3f", len(targets), before, loss()
    )
    optimizer.zero_grad()


@torch.no_grad()
def _sampled(model: DeepLabV3Plus, loader: TrainingLoader) -> tuple[Tensor, Tensor]:
    """Returns the classifier's input (P, C) and the class (P,) of labelled positions."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0])

    generator = torch.Generator().manual_seed(0)
    count = min(PICTURES, len(loader.dataset))
    batches = -(-count // loader.batch_size)
    features, targets = [], []
    with model.decoder.classifier.register_forward_pre_hook(keep):
        for batch in itertools.islice(loader.batches(), batches):
            model.coarse_logits(batch.images.to(next(model.parameters()).device))
            found = seen.pop()  # (N, C, h, w)
            stride = model.logits_stride
            truth = batch.targets[:, ::stride, ::stride][:, : found.shape[2], : found.shape[3]]
            for one, labels in zip(found, truth, strict=True):
                places = torch.nonzero(labels.flatten() != unlabelled(len(model.classes)))[:, 0]
                places = places[torch.randperm(len(places), generator=generator)[:_POSITIONS]]
                features.append(one.flatten(1)[:, places].T)
                targets.append(labels.flatten()[places].long())
    return torch.cat(features), torch.cat(targets).to(features[0].device)
