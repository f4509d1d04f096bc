"""Training: one visible loop that can be killed at any moment and goes on bit for bit."""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from atrous.data.dataset import Dataset
from atrous.data.loader import TrainingLoader
from atrous.model import DeepLabV3Plus, Model
from atrous.training import random_state
from atrous.training.batch_norm import restore_folded
from atrous.training.config import TrainConfig
from atrous.training.cpu.malloc import keep_freed_memory, return_freed_memory
from atrous.training.distributed import beat, joined, restarts
from atrous.training.first_fit import fit_classifier
from atrous.training.guard import Guard, check_learning_rate, check_predictions
from atrous.training.inputs import (
    Augment,
    augmentation,
    balanced,
    examine_data,
    open_data,
    with_channels,
)
from atrous.training.planning import check_length
from atrous.training.progress import Clock, Progress, TimeLimit
from atrous.training.run_folder import (
    RunFolder,
    draw_confusion,
    draw_curves,
    environment,
    opened,
    write_model_card,
)
from atrous.training.saver import Saver, State
from atrous.training.setup import create_network
from atrous.training.signals import StopSignals, memory_errors
from atrous.training.tensorboard import write_events
from atrous.training.update import Learner, OwnLoss
from atrous.training.validation import Evaluation, rehearse, validate
from atrous.weights.store import save as save_model

logger = logging.getLogger(__name__)

OnEvaluation = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Result:
    """The outcome of a run.

    Attributes:
        out: The run folder.
        step: Updates done.
        scores: Of the last evaluation: mean IoU, pixel accuracy and class IoU, or top-1, top-5 and
            class accuracy.
        best: Of the best evaluation, whose model is in `best.safetensors`.
    """

    out: Path
    step: int
    scores: Mapping[str, Any]
    best: Mapping[str, Any]


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    override: bool = False,
    extend: bool = False,
    minutes: float | None = None,
    data: tuple[Dataset, Dataset] | None = None,
    augment: Augment | None = None,
    loss: OwnLoss | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_evaluation: OnEvaluation | None = None,
    own_process: bool = False,
) -> Result:
    """Trains a network, or resumes a run that was interrupted.

    Under torchrun, every process calls this. With ``batch_norm="sync"`` the results are those of
    one process with the same batch, up to rounding.

    Args:
        config: The run; `atrous.recipes` has functions that return one.
        out: The run folder.
        resume: Go on from the folder's newest valid checkpoint.
        override: Accept a config that differs from the folder's.
        extend: Accept more steps than a finished run had.
        minutes: The time from now to the end of the run. If the steps turn out not to fit, the
            schedule ends sooner: the learning rate falls faster, and config.json has the steps.
            Not for several processes.
        data: Data sets to train and to evaluate on, instead of the data `config.data` names.
        augment: Your augmentation of a picture, before the recipe's scale, crop and flip: maps
            picture (H, W, C) and target (H, W) to a picture and target of any size.
        loss: Your loss, instead of `config.losses`: maps logits (N, K, H, W) in float32 and targets
            (N, H, W) in int64, 255 for unlabelled (65535 above 255 classes), to a scalar.
        on_progress: Called after every update, in the leading process.
        on_evaluation: Called after every evaluation, in the leading process, with a dictionary of
            ``step``, ``epoch``, ``loss``, ``mean_iou``, ``pixel_accuracy`` and ``class_iou``.
        own_process: The process exists for this run alone, so that the C library may be told how
            to keep memory (`training/cpu/malloc.py`). Leave it off in a program that does more.

    Raises:
        AtrousError: An error in config, data, folder or machine; a loss that stays not finite
            (exit code 4); a disk that stays full, or memory that runs out (5).
        SystemExit: A signal stopped the run after a checkpoint: 130 for SIGINT, 143 for SIGTERM.
    """
    check_length(minutes=minutes)
    out, limit = Path(out), TimeLimit(minutes)
    resume = resume or (restarts() > 0 and (out / "config.json").exists())
    with (
        joined(config.device, config.timeout, out / "heartbeats") as processes,
        opened(out, leads=processes.leads, resume=resume) as run,
        run.logging_to(leads=processes.leads),
        StopSignals() as stop,
    ):
        _be_deterministic(config.deterministic)
        own_memory = own_process and processes.device.type == "cpu" and return_freed_memory()
        train_data, val_data = data or open_data(config)
        examine_data(config, train_data, val_data, wanted=processes.leads and not resume)
        config = balanced(with_channels(config, train_data), train_data)
        facts = {"train": train_data.fingerprint(), "val": val_data.fingerprint()}
        loader = TrainingLoader(
            train_data,
            augmentation(config, augment),
            config.batch_size,
            config.seed,
            workers=config.workers,
            cache_bytes=config.cache_megabytes * 2**20,
            rank=processes.rank,
            world_size=processes.world_size,
        )
        random_state.seed(config.seed)
        network = create_network(config, train_data)
        _try_batch(network, loader, config, resume=resume)
        learner = Learner(network, config, processes, loss)
        random_state.seed(config.seed, processes.rank)
        saver = Saver(run, learner, facts)
        if resume:
            state = saver.restore(override=override, extend=extend)
        else:
            state = _begin(saver, loader, val_data, on_evaluation)
        guard = Guard(out / "debug", fp16=config.precision == "fp16")
        clock = Clock(config, state.step, on_progress)

        batches = loader.batches(state.position)
        while state.step < config.steps:
            beat(run.heartbeats, processes, state.step)
            with saver.saving_first(state):
                images, targets, names, state.position = next(batches)
            first = state.step == clock.first_step
            with memory_errors(config, first=first), _settling(first and own_memory):
                update = learner.update(images, targets, state.step)
            guard.check(update, state.step, images, targets, names)
            state.step += 1
            if update.applied:
                state.add(update.loss)
            if processes.leads:
                clock.tick(run, state, update)
            config = clock.config = _within(limit, saver, state)
            evaluating = _due(state.step, config.evaluate_every, config.steps)
            if evaluating:
                with limit.evaluating():
                    evaluation = validate(learner, val_data, run)
                    _record(run, learner, state, evaluation, on_evaluation)
            stopped = stop.agreed(processes)
            if evaluating or stopped or _due(state.step, config.save_every, config.steps):
                saver.save(state, must=bool(stopped))
            if stopped:
                logger.warning("stopped; go on with: atrous train --resume %s", out)
                raise SystemExit(128 + stopped)
        return Result(out, state.step, state.scores, state.best)


@contextmanager
def _settling(first: bool) -> Iterator[None]:
    """Keeps freed memory from the first update on; `training/cpu/malloc.py` says why."""
    yield
    if first:
        keep_freed_memory()


def _be_deterministic(wanted: bool) -> None:
    # The call imports torch's compiler, so it is made only where something changes.
    if wanted != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(wanted)


def _within(limit: TimeLimit, saver: Saver, state: State) -> TrainConfig:
    """Returns the config of the run, with fewer steps if those planned miss the limit."""
    learner = saver.learner
    config = replace(learner.config, steps=limit.steps(state.step, learner.config))
    if config.steps < learner.config.steps:
        logger.warning(
            "the updates are slower than planned: %d steps instead of %d fit into the time",
            config.steps, learner.config.steps,
        )  # fmt: skip
        training = learner.model.provenance.training
        if training is not None:
            learner.model.provenance.training = replace(training, steps=config.steps)
        learner.config = config
        saver.save(state, must=True)  # first: the updates until here had the old schedule
        saver.run.write_config(config)
    return learner.config


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _try_batch(
    network: Model, loader: TrainingLoader, config: TrainConfig, *, resume: bool
) -> None:
    """Reads a batch, which fails now rather than later, and prepares the network with the data.

    Folded batch norms are restored, and the classifier is fitted where the config says so.

    The moving average must start after this, from the weights that training starts from.
    """
    if resume:
        return
    loader = replace(loader, workers=0, cache_bytes=0)
    first = next(loader.batches())
    if config.weights is not None and config.batch_norm != "frozen":
        restored = restore_folded(network, [first.images])
        if restored:
            logger.info("batch norm restored from data in %d layers", len(restored))
    if config.first_fit and isinstance(network, DeepLabV3Plus):
        fit_classifier(network, loader, config.device)


def _begin(
    saver: Saver, loader: TrainingLoader, val_data: Dataset, on_evaluation: OnEvaluation | None
) -> State:
    """Writes the first files of a run, after an evaluation of one picture, which may fail."""
    run, learner, state = saver.run, saver.learner, State()
    config, processes = learner.config, learner.processes
    rehearse(learner, val_data, run)
    check_learning_rate(learner)
    if processes.leads:
        facts = environment(processes.device, processes.world_size)
        run.write("environment.json", json.dumps(facts, indent=1))
        draw_curves(run, tuple(config.measures))
    logger.info(
        "%d training and %d validation pictures, %d classes; %d steps of %d",
        len(loader.dataset), len(val_data), len(val_data.classes), config.steps, config.batch_size,
    )  # fmt: skip
    whole = config.weights not in (None, "imagenet") and not config.graft
    if whole and config.task == "segmentation":  # the start may be the best of the run
        _record(run, learner, state, validate(learner, val_data, run), on_evaluation)
    saver.save(state, must=True)
    if processes.leads:  # last: a start that fails before can simply be repeated
        run.write_config(config)
    return state


def _record(
    run: RunFolder,
    learner: Learner,
    state: State,
    evaluation: Evaluation,
    on_evaluation: OnEvaluation | None,
) -> None:
    """Writes the scores of an evaluation into the run folder, and keeps the best model."""
    config, classes = learner.config, learner.model.classes
    state.scores = {"step": state.step, **evaluation.scores}
    (best_by, first), (other, second) = config.measures.items()
    loss = state.loss_sum / state.loss_count if state.loss_count else math.nan
    state.loss_sum, state.loss_count = 0.0, 0
    better = not state.best or state.scores[best_by] > state.best[best_by]
    if better:
        state.best = state.scores
    if not learner.processes.leads:
        return
    check_predictions(evaluation.confusion, classes, learner)
    row = {"step": state.step, "epoch": state.position.epoch, "loss": loss}
    scores = {name: state.scores[name] for name in config.measures}
    run.add_metrics({**row, **scores})
    found = f"{first} {scores[best_by]:.4f}, {second} {scores[other]:.4f}"
    logger.info("step %d: loss %.4f, %s%s", state.step, loss, found, " (best)" if better else "")
    draw_curves(run, tuple(config.measures))
    draw_confusion(run, evaluation.confusion, classes)
    if config.tensorboard:
        write_events(run)
    if better:
        _keep_best(run, learner, state, found)
    if on_evaluation is not None:
        on_evaluation({**row, **evaluation.scores})


def _keep_best(run: RunFolder, learner: Learner, state: State, found: str) -> None:
    """Writes best.safetensors and model_card.md."""
    config, origin = learner.config, learner.model.provenance
    if origin.training is not None:
        on = f"{Path(config.data).name} {config.val_split}, step {state.step}"
        origin.training = replace(
            origin.training,
            mean_iou=state.scores.get("mean_iou"),
            evaluated_on=on if config.task == "segmentation" else f"{on}: {found}",
        )
    with learner.evaluated() as model:
        save_model(model, run.best)
    write_model_card(run, config, scores=state.best, palette=learner.model.palette)
