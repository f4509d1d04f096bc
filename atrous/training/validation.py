"""Evaluation during training, shared by all processes, and what it leaves behind."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from atrous.classes import Color
from atrous.classifier import Classifier
from atrous.data.dataset import Dataset, Sample
from atrous.data.loader import TrainingLoader, evaluation_samples
from atrous.data.order import Position, evaluation_order
from atrous.evaluation import metrics
from atrous.evaluation.classification import classify
from atrous.evaluation.evaluator import Outcome, evaluate
from atrous.images.decode import atomic
from atrous.model import DeepLabV3Plus
from atrous.predict.overlay import overlay
from atrous.training.batch_norm import recalibrate
from atrous.training.distributed import Processes
from atrous.training.run_folder import RunFolder
from atrous.training.update import Learner

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """Every n-th sample of a data set: what one process evaluates. None is repeated or lost."""

    dataset: Dataset
    indices: Sequence[int]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.dataset.classes

    @property
    def palette(self) -> tuple[Color, ...]:
        """Their colours."""
        return self.dataset.palette

    @property
    def names(self) -> Sequence[str]:
        """Names of these samples."""
        return [self.dataset.names[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

    def fingerprint(self) -> str:
        """Says which part this is: hashing the data anew at every evaluation would be slow."""
        return f"{self.indices} of a validation set"


class Evaluation(NamedTuple):
    """What an evaluation found."""

    confusion: NDArray[np.int64]  # (K, K): pixels, or pictures where those are classified
    scores: dict[str, Any]  # the config's measures, and one for each class; in JSON's types


def validate(
    learner: Learner, data: Dataset, loader: TrainingLoader, run: RunFolder, position: Position
) -> Evaluation:
    """Evaluates the network as it stands, on all processes together.

    Args:
        learner: Whose network; its batch norms are recalibrated first if its config says so.
        data: What to evaluate on.
        loader: Where batches for the recalibration come from.
        run: Where sample predictions go.
        position: Of the training stream, where those batches begin.

    Returns:
        Confusion and scores over all pictures, the same in every process.
    """
    processes = learner.processes
    with learner.evaluated() as model:
        if learner.config.recalibration:
            batches = islice(loader.batches(position), learner.config.recalibration)
            recalibrate(model, (b.images.to(processes.device) for b in batches))
            model.eval()
        # Where each process has statistics of its own, those of the leading one count.
        processes.follow(model.buffers())
        if isinstance(model, Classifier):
            return _classified(model, learner, data)
        assert isinstance(model, DeepLabV3Plus)
        return _segmented(model, learner, data, run)


def rehearse(learner: Learner, data: Dataset) -> None:
    """Evaluates the first picture: what is wrong with it or the memory is found before training."""
    image, target = data[0]
    with learner.evaluated() as model, torch.no_grad():
        if isinstance(model, Classifier):
            classify(model, [Sample(image, target)], learner.config.crop_size)
        elif isinstance(model, DeepLabV3Plus):
            picture = torch.from_numpy(image).permute(2, 0, 1)[None]
            model.coarse_logits(picture.to(learner.processes.device))


def _segmented(model: DeepLabV3Plus, learner: Learner, data: Dataset, run: RunFolder) -> Evaluation:
    processes = learner.processes
    indices = evaluation_order(len(data), rank=processes.rank, world_size=processes.world_size)
    wanted = learner.config.samples if processes.leads else 0
    counts = np.zeros((len(data.classes),) * 2, np.int64)

    def keep(outcome: Outcome) -> None:
        if outcome.position < wanted:
            draw_sample(run, outcome, data.palette)

    if indices:
        counts += evaluate(model, Share(data, indices), trimap=None, on_picture=keep).confusion
    counts = _over_processes(processes, counts)
    return Evaluation(counts, scores_of(counts, data.classes))


def _classified(model: Classifier, learner: Learner, data: Dataset) -> Evaluation:
    config, processes = learner.config, learner.processes
    share = evaluation_samples(
        data, workers=config.workers, rank=processes.rank, world_size=processes.world_size
    )
    counts, among = classify(model, (sample for _, sample in share), config.crop_size)
    counts = _over_processes(processes, counts)
    among = int(_over_processes(processes, np.array([among]))[0])
    scores = {
        "top1": float(metrics.pixel_accuracy(counts)),
        "top5": among / len(data),
        "class_accuracy": {
            name: float(row[index] / row.sum()) if row.any() else None
            for index, (name, row) in enumerate(zip(data.classes, counts, strict=True))
        },
    }
    return Evaluation(counts, scores)


def _over_processes(processes: Processes, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return processes.sum(torch.from_numpy(counts).to(processes.device)).cpu().numpy()


def scores_of(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Returns mean IoU, pixel accuracy and the IoU of each class, in JSON's types."""
    ious = metrics.class_iou(counts)
    return {
        "mean_iou": float(metrics.mean_iou(counts)),
        "pixel_accuracy": float(metrics.pixel_accuracy(counts)),
        "class_iou": {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(classes, ious, strict=True)
        },
    }


def draw_sample(run: RunFolder, outcome: Outcome, palette: Sequence[Color]) -> None:
    """Draws samples/NAME.png: picture, truth and prediction side by side."""
    image = Image.fromarray(outcome.image)
    ignored = outcome.target >= len(palette)
    truth = overlay(image, np.where(ignored, len(palette), outcome.target), palette)
    found = overlay(image, outcome.labels, palette)
    sheet = Image.new("RGB", (3 * image.width + 8, image.height), "white")
    for index, part in enumerate((image, truth, found)):
        sheet.paste(part, (index * (image.width + 4), 0))
    name = re.sub(r"[^\w.-]", "_", outcome.name)[-100:]
    with atomic(run.path / "samples" / f"{outcome.position}-{name}.png") as temporary:
        sheet.save(temporary)
