"""Failures of training that raise no error: kept out of the weights, or logged."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.errors import AtrousError, DataError
from atrous.training.batch_norm import dead_channels
from atrous.training.update import Learner, Update

logger = logging.getLogger(__name__)

NAN_LIMIT = 3  # skipped updates in a row
SCALE_LIMIT = 100  # steps in a row with an fp16 loss scale below 1


class Guard:
    """Watches the updates of a run.

    Args:
        folder: Folder for the inputs of failed updates.
        fp16: Whether the loss scaler is on, which overflows now and then.
    """

    def __init__(self, folder: Path, *, fp16: bool) -> None:
        self.folder = folder
        self.fp16 = fp16
        self.bad_in_a_row = 0
        self.overflows = 0
        self.small_scales = 0
        self.unlabelled_steps = 0

    def check(
        self, update: Update, step: int, images: Tensor, targets: Tensor, names: Sequence[str]
    ) -> None:
        """Checks one update.

        Raises:
            AtrousError: The third update in a row that was not finite.
        """
        if update.labelled == 0:
            self.unlabelled_steps += 1
            if self.unlabelled_steps in (1, 10, 100):
                logger.warning(
                    "step %d: no labelled pixel in the whole batch (%d such steps so far); "
                    "first sample: %s", step, self.unlabelled_steps, names[0],
                )  # fmt: skip
        if self.fp16:
            self.small_scales = self.small_scales + 1 if update.scale < 1 else 0
            if self.small_scales >= SCALE_LIMIT:
                raise self._failure(update, step, "the fp16 loss scale stays below 1")
            if not update.applied and np.isfinite(update.loss):
                self.overflows += 1
                logger.info(
                    "step %d: fp16 overflow, update skipped, loss scale now %g (%d so far)",
                    step, update.scale, self.overflows,
                )  # fmt: skip
                return
        if update.applied:
            self.bad_in_a_row = 0
            return
        self.bad_in_a_row += 1
        kept = self._keep(update, step, images, targets, names)
        logger.error(
            "step %d: loss %g, gradient norm %g: update skipped, weights as before; "
            "inputs kept in %s; samples: %s",
            step, update.loss, update.gradient_norm, kept, ", ".join(names),
        )  # fmt: skip
        if self.bad_in_a_row >= NAN_LIMIT:
            raise self._failure(update, step, f"{NAN_LIMIT} updates in a row were not finite")

    def _failure(self, update: Update, step: int, what: str) -> AtrousError:
        return DataError(
            "E-NOT-FINITE",
            f"step {step}: {what} (loss {update.loss:g}, gradient norm {update.gradient_norm:g}, "
            f"learning rate {update.lr:g})",
            where=self.folder,
            fix="lower base_lr, set clip_norm, or look at the inputs kept there; "
            "the last checkpoint holds the last good weights",
        )

    def _keep(
        self, update: Update, step: int, images: Tensor, targets: Tensor, names: Sequence[str]
    ) -> Path:
        kept = self.folder / f"nan_step_{step}"
        kept.mkdir(parents=True, exist_ok=True)
        tensors = {"images": images.contiguous(), "targets": targets.contiguous()}
        safetensors.torch.save_file(tensors, kept / "inputs.safetensors")
        facts = {"step": step, "loss": str(update.loss), "lr": update.lr, "samples": list(names)}
        (kept / "about.json").write_text(json.dumps(facts, indent=1))
        return kept


def check_learning_rate(learner: Learner) -> None:
    """Warns if learning rate or batch is outside the range that usually trains."""
    config = learner.config
    low, high = (1e-6, 0.5) if config.optimizer == "sgd" else (1e-6, 0.02)
    if not low <= config.base_lr <= high:
        logger.warning(
            "base_lr %g is outside %g..%g, where %s usually trains",
            config.base_lr, low, high, config.optimizer,
        )  # fmt: skip
    if config.batch_norm == "train":
        pictures = config.batch_size // config.accumulation // learner.processes.world_size
        if pictures < 4:
            logger.warning(
                "batch norm sees %d pictures at a time; below about 12 scores suffer: use a larger "
                "batch, --batch-norm sync, or --batch-norm frozen on trained weights", pictures,
            )  # fmt: skip


def check_predictions(counts: NDArray[np.int64], classes: Sequence[str], learner: Learner) -> None:
    """Warns if the model predicts a single class, or if batch norms are dead."""
    predicted, true = counts.sum(0), counts.sum(1)
    top = int(predicted.argmax())
    unit = "pictures" if learner.config.task == "classification" else "pixels"
    if predicted[top] > 0.99 * max(1, predicted.sum()) and true[top] < 0.95 * true.sum():
        logger.warning(
            "the model predicts one class: %s for %.1f %% of the %s (true: %.1f %%); check the "
            "labels with `atrous data check`, then learning rate and class weights",
            classes[top], 100 * predicted[top] / predicted.sum(), unit,
            100 * true[top] / true.sum(),
        )  # fmt: skip
    for path, share in dead_channels(learner.model).items():
        logger.warning(
            "batch norm %s is dead: %.0f %% of its channels have no variance", path, 100 * share
        )
