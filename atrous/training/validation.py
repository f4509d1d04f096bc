"""Evaluation during training, shared by all processes, and the samples it draws."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from atrous.classes import Color
from atrous.classifier import Classifier
from atrous.data.dataset import Dataset
from atrous.data.loader import evaluation_samples
from atrous.data.order import evaluation_order
from atrous.data.splitting import Subset
from atrous.evaluation import metrics
from atrous.evaluation.classification import classify
from atrous.evaluation.evaluator import Outcome, evaluate
from atrous.evaluation.scores import number
from atrous.images.decode import atomic
from atrous.model import DeepLabV3Plus
from atrous.predict.overlay import overlay
from atrous.training.distributed import Processes
from atrous.training.run_folder import RunFolder
from atrous.training.update import Learner


class Evaluation(NamedTuple):
    """Counts and scores of an evaluation."""

    confusion: NDArray[np.int64]  # (K, K), true class by predicted class: pixels, or pictures
    scores: dict[str, Any]  # the config's measures, and a score for each class; in JSON's types


def validate(learner: Learner, data: Dataset, run: RunFolder) -> Evaluation:
    """Evaluates the network as it stands, on all processes together.

    Args:
        learner: Its network, or the moving average, is evaluated.
        data: The validation pictures.
        run: The folder for drawn samples.

    Returns:
        Confusion and scores over all pictures, the same in every process.
    """
    with learner.evaluated() as model:
        if isinstance(model, Classifier):
            return _classified(model, learner, data)
        assert isinstance(model, DeepLabV3Plus)
        return _segmented(model, learner, data, run)


def rehearse(learner: Learner, data: Dataset, run: RunFolder) -> None:
    """Evaluates the first picture, so that a bad picture or little memory is found at once.

    The prediction of the start weights is the first drawn sample.
    """
    with learner.evaluated() as model:
        if isinstance(model, Classifier):
            classify(model, [data[0]], learner.config.crop_size)
        elif isinstance(model, DeepLabV3Plus):
            wanted = min(1, learner.config.samples) if learner.processes.leads else 0
            _evaluated(model, Subset(data, [0], "first picture"), run, wanted)


def _evaluated(
    model: DeepLabV3Plus, part: Dataset, run: RunFolder, wanted: int
) -> NDArray[np.int64]:
    """Returns the confusion over some pictures, and draws the first `wanted` of them."""

    def keep(outcome: Outcome) -> None:
        if outcome.position < wanted:
            draw_sample(run, outcome, part.palette)

    return evaluate(model, part, trimap=None, on_picture=keep).confusion


def _segmented(model: DeepLabV3Plus, learner: Learner, data: Dataset, run: RunFolder) -> Evaluation:
    processes = learner.processes
    indices = evaluation_order(len(data), rank=processes.rank, world_size=processes.world_size)
    counts = np.zeros((len(data.classes),) * 2, np.int64)
    if indices:
        # The indices serve as fingerprint: to hash the files at every evaluation would be slow.
        share = Subset(data, indices, f"{indices} of a validation set")
        counts += _evaluated(model, share, run, learner.config.samples if processes.leads else 0)
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
        "class_accuracy": _by_class(data.classes, metrics.class_accuracy(counts)),
    }
    return Evaluation(counts, scores)


def _over_processes(processes: Processes, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return processes.sum(torch.from_numpy(counts).to(processes.device)).cpu().numpy()


def scores_of(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Returns mean IoU, pixel accuracy and the IoU of each class, in JSON's types."""
    return {
        "mean_iou": float(metrics.mean_iou(counts)),
        "pixel_accuracy": float(metrics.pixel_accuracy(counts)),
        "class_iou": _by_class(classes, metrics.class_iou(counts)),
    }


def _by_class(classes: Sequence[str], values: NDArray[np.float64]) -> dict[str, float | None]:
    return dict(zip(classes, map(number, values), strict=True))


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
