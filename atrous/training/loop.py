"""Training: one visible loop that can be killed at any moment and goes on bit for bit."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from atrous.data.dataset import Dataset
from atrous.data.loader import TrainingLoader
from atrous.data.order import START, Position
from atrous.errors import AtrousError
from atrous.training import checkpoint, random_state
from atrous.training.batch_norm import restore_folded
from atrous.training.checkpoint import Checkpoint
from atrous.training.config import SAFE_TO_CHANGE, TrainConfig, differences
from atrous.training.cpu.malloc import keep_freed_memory, return_freed_memory
from atrous.training.distributed import beat, joined, restarts
from atrous.training.guard import Guard, check_learning_rate, check_predictions
from atrous.training.progress import Clock, Progress
from atrous.training.run_folder import (
    RunFolder,
    draw_confusion,
    draw_curves,
    environment,
    opened,
    to_json,
    write_model_card,
)
from atrous.training.setup import augmentation, balanced, create_network, open_data
from atrous.training.signals import StopSignals, memory_errors
from atrous.training.tensorboard import write_events
from atrous.training.update import Learner
from atrous.training.validation import Evaluation, rehearse, validate
from atrous.weights.store import save as save_model

logger = logging.getLogger(__name__)

SAVE_ATTEMPTS = 3  # failed saves in a row before a run stops


@dataclass
class State:
    """Where a run is, apart from its tensors and random states."""

    step: int = 0
    position: Position = START
    loss_sum: float = 0.0  # since the last evaluation
    loss_count: int = 0
    scores: dict[str, Any] = field(default_factory=dict)  # of the last evaluation
    best: dict[str, Any] = field(default_factory=dict)  # of the best one

    def add(self, loss: float) -> None:
        """Counts an update."""
        self.loss_sum += loss
        self.loss_count += 1


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        out: The run folder.
        step: Updates done.
        scores: Of the last evaluation: mean IoU, pixel accuracy and class IoU, or top-1, top-5 and
            class accuracy.
        best: The same of the best one, whose model `best.safetensors` holds.
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
    data: tuple[Dataset, Dataset] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    own_process: bool = False,
) -> Result:
    """Trains a network, or goes on with a run that was interrupted.

    Started by torchrun, this runs in every process; with ``batch_norm="sync"`` the results are
    those of one process with the same batch, up to rounding.

    Args:
        config: What to do; `atrous.training.recipes` has some.
        out: Folder of the run.
        resume: Go on from the folder's newest valid checkpoint.
        override: Accept a config that differs from the folder's.
        extend: Accept more steps than a finished run had.
        data: Data sets to train and to evaluate on, instead of those `config.data` names.
        on_progress: Called after every update.
        own_process: The process exists for this run alone, so that the C library may be told how
            to keep memory (`training/cpu/malloc.py`). Leave it off in a program that does more.

    Raises:
        AtrousError: Anything wrong with config, data, folder or machine; a loss that stays not
            finite (exit code 4); a disk that stays full, memory that runs out (5).
        SystemExit: Stopped by a signal, after a checkpoint: 130 for SIGINT, 143 for SIGTERM.
    """
    out = Path(out)
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
        config = balanced(config, train_data)
        facts = {"train": train_data.fingerprint(), "val": val_data.fingerprint()}
        random_state.seed(config.seed)
        learner = Learner(create_network(config, train_data), config, processes)
        random_state.seed(config.seed, processes.rank)
        loader = TrainingLoader(
            train_data,
            augmentation(config),
            config.batch_size,
            config.seed,
            workers=config.workers,
            cache_bytes=config.cache_megabytes * 2**20,
            rank=processes.rank,
            world_size=processes.world_size,
        )
        saver = _Saver(run, learner, facts)
        if resume:
            state = saver.restore(override=override, extend=extend)
        else:
            state = State()
            _prepare(run, learner, loader, val_data)
            saver.save(state, must=True)
            run.begin(config, leads=processes.leads)
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
                clock.tick(run, state.step, state.position.epoch, update)
            evaluating = _due(state.step, config.evaluate_every, config.steps)
            if evaluating:
                evaluation = validate(learner, val_data, loader, run, state.position)
                _record(run, learner, state, evaluation)
            stopped = stop.agreed(processes)
            if evaluating or stopped or _due(state.step, config.save_every, config.steps):
                saver.save(state, must=bool(stopped))
            if stopped:
                logger.warning("stopped; go on with: atrous train --resume %s", out)
                raise SystemExit(128 + stopped)
        return Result(out, state.step, state.scores, state.best)


@contextmanager
def _settling(first: bool) -> Iterator[None]:
    """Keeps freed memory from the first update on; see `training/cpu/malloc.py`."""
    yield
    if first:
        keep_freed_memory()


def _be_deterministic(wanted: bool) -> None:
    if wanted != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(wanted)  # which imports torch's compiler


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _prepare(run: RunFolder, learner: Learner, loader: TrainingLoader, val_data: Dataset) -> None:
    """Finds what would fail hours later: writes the folder, takes a batch and a picture."""
    config, processes = learner.config, learner.processes
    if processes.leads:
        facts = environment(processes.device, processes.world_size)
        run.write("environment.json", to_json(facts))
    first = next(replace(loader, workers=0, cache_bytes=0).batches())
    if config.weights is not None and config.batch_norm != "frozen":
        restored = restore_folded(learner.model, [first.images.to(processes.device)])
        if restored:
            logger.info("batch norm restored from data in %d layers", len(restored))
    rehearse(learner, val_data)
    check_learning_rate(learner)
    logger.info(
        "%d training and %d validation pictures, %d classes; %d steps of %d",
        len(loader.dataset), len(val_data), len(val_data.classes), config.steps, config.batch_size,
    )  # fmt: skip


def _record(run: RunFolder, learner: Learner, state: State, evaluation: Evaluation) -> None:
    """Writes down an evaluation; the best model so far is kept."""
    config, classes = learner.config, learner.model.classes
    state.scores = {"step": state.step, **evaluation.scores}
    (best_by, first), (other, second) = config.measures.items()
    loss = state.loss_sum / max(1, state.loss_count)
    state.loss_sum, state.loss_count = 0.0, 0
    better = not state.best or state.scores[best_by] > state.best[best_by]
    if better:
        state.best = state.scores
    if not learner.processes.leads:
        return
    check_predictions(evaluation.confusion, classes, learner)
    scores = {name: state.scores[name] for name in config.measures}
    run.add_metrics({"step": state.step, "epoch": state.position.epoch, "loss": loss, **scores})
    found = f"{first} {scores[best_by]:.4f}, {second} {scores[other]:.4f}"
    logger.info("step %d: loss %.4f, %s%s", state.step, loss, found, " (best)" if better else "")
    draw_curves(run)
    draw_confusion(run, evaluation.confusion, classes)
    if config.tensorboard:
        write_events(run)
    if better:
        origin = learner.model.provenance
        if origin.training is not None:
            on = f"{Path(config.data).name} {config.val_split}, step {state.step}"
            origin.training = replace(
                origin.training,
                mean_iou=scores.get("mean_iou"),
                evaluated_on=on if config.task == "segmentation" else f"{on}: {found}",
            )
        with learner.evaluated() as model:
            save_model(model, run.best)
        write_model_card(run, config, scores=state.best, palette=learner.model.palette)


class _Saver:
    """Writes checkpoints of a run, and reads the newest."""

    def __init__(self, run: RunFolder, learner: Learner, facts: dict[str, str]) -> None:
        self.run = run
        self.learner = learner
        self.facts = facts
        self.failures = 0

    def save(self, state: State, *, must: bool = False) -> None:
        """Writes a checkpoint; a full disk is survived twice in a row unless it `must` succeed."""
        processes = self.learner.processes
        states = processes.gather(random_state.as_tensor(random_state.state()))
        if not processes.leads:
            return
        content = {
            "position": list(state.position),
            "loss_sum": state.loss_sum,
            "loss_count": state.loss_count,
            "scores": state.scores,
            "best": state.best,
            "scaler": self.learner.scaler.state_dict(),
            "random": [random_state.from_tensor(packed) for packed in states],
            "data": self.facts,
        }
        snapshot = Checkpoint(state.step, self.learner.tensors(), content)
        try:
            checkpoint.save(self.run.checkpoints, snapshot, keep=self.learner.config.keep)
            self.failures = 0
        except AtrousError as error:
            self.failures += 1
            if must or self.failures >= SAVE_ATTEMPTS:
                raise
            logger.error(
                "NOT SAVED (%d of %d failures before the run stops): %s",
                self.failures, SAVE_ATTEMPTS, error,
            )  # fmt: skip

    @contextmanager
    def saving_first(self, state: State) -> Iterator[None]:
        """Lets an error of the data through only once what was learnt so far is saved.

        Where several processes train this would need them all: their last checkpoint must do.
        """
        try:
            yield
        except AtrousError:
            if self.learner.processes.world_size == 1:
                self.save(state)
            raise

    def restore(self, *, override: bool, extend: bool) -> State:
        """Reads the newest valid checkpoint into the learner, and returns where the run was.

        Raises:
            AtrousError: None is valid, or the config differs in what changes results.
        """
        learner, config = self.learner, self.learner.config
        snapshot = checkpoint.load_newest(self.run.checkpoints)
        if snapshot is None:
            raise AtrousError(
                "E-CHECKPOINT-NONE",
                "there is no checkpoint to go on from",
                where=self.run.path,
                fix="delete the folder and start again",
            )
        _check_changes(self.run.config(), config, snapshot.step, override=override, extend=extend)
        content = snapshot.state
        if content["data"] != self.facts:
            changed = [name for name in self.facts if content["data"].get(name) != self.facts[name]]
            logger.warning("the data changed since the checkpoint: %s", ", ".join(changed))
        learner.restore(snapshot.tensors, content["scaler"])
        states = content["random"]
        if len(states) == learner.processes.world_size:
            random_state.restore(states[learner.processes.rank])
        else:
            logger.warning(
                "the run goes on with %d processes instead of %d: batches and their order are "
                "kept, dropout differs", learner.processes.world_size, len(states),
            )  # fmt: skip
            random_state.seed(config.seed + snapshot.step, learner.processes.rank)
        if learner.processes.leads:
            self.run.forget_after(snapshot.step)
            self.run.write_config(config)
        logger.info("going on from step %d", snapshot.step)
        return State(
            snapshot.step,
            Position(*content["position"]),
            content["loss_sum"],
            content["loss_count"],
            content["scores"],
            content["best"],
        )


def _check_changes(
    old: TrainConfig, new: TrainConfig, step: int, *, override: bool, extend: bool
) -> None:
    changes = differences(old, new)
    if not changes:
        return
    shown = ", ".join(f"{name}: {a!r} -> {b!r}" for name, (a, b) in changes.items())
    logger.warning("config changed: %s", shown)
    if "steps" in changes and step >= old.steps and not extend:
        raise AtrousError(
            "E-RUN-FINISHED",
            f"the run is finished: its schedule ended at step {old.steps}",
            fix="--extend gives it a schedule of more steps, which a run from the start would "
            "have had a higher learning rate for",
        )
    allowed = SAFE_TO_CHANGE | ({"steps"} if extend else set())
    refused = set(changes) - allowed
    if refused and not override:
        raise AtrousError(
            "E-RUN-CHANGED",
            f"the run was started with another config ({shown})",
            fix="leave these as they were, or accept the change with --override: "
            + ", ".join(sorted(refused)),
        )
