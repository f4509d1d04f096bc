"""The state of a run, written as checkpoints and read back when the run resumes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from atrous.data.order import START, Position
from atrous.errors import AtrousError
from atrous.training import checkpoint, random_state
from atrous.training.checkpoint import Checkpoint
from atrous.training.config import SAFE_TO_CHANGE, TrainConfig, differences
from atrous.training.run_folder import RunFolder
from atrous.training.update import Learner

logger = logging.getLogger(__name__)

SAVE_ATTEMPTS = 3  # failed saves in a row before a run stops


@dataclass
class State:
    """The place of a run in its schedule and data, and its scores; tensors are in the learner."""

    step: int = 0
    position: Position = START
    loss_sum: float = 0.0  # since the last evaluation
    loss_count: int = 0
    scores: dict[str, Any] = field(default_factory=dict)  # of the last evaluation
    best: dict[str, Any] = field(default_factory=dict)  # of the best evaluation

    def add(self, loss: float) -> None:
        """Counts an update."""
        self.loss_sum += loss
        self.loss_count += 1


class Saver:
    """Writes checkpoints of a run, and reads the newest.

    Args:
        run: The run folder.
        learner: The tensors to save.
        facts: Fingerprints of the data sets by name. A resumed run warns if they differ.
    """

    def __init__(self, run: RunFolder, learner: Learner, facts: dict[str, str]) -> None:
        self.run = run
        self.learner = learner
        self.facts = facts
        self.failures = 0

    def save(self, state: State, *, must: bool = False) -> None:
        """Writes a checkpoint. All processes must call this together.

        Args:
            state: The place of the run.
            must: Raise if the disk is full. Otherwise two failures in a row are only logged.

        Raises:
            AtrousError: The checkpoint could not be written.
        """
        processes = self.learner.processes
        states = processes.gather(random_state.as_tensor(random_state.state()))
        if not processes.leads:
            return
        content = {
            **{name: value for name, value in vars(state).items() if name != "step"},
            "scaler": self.learner.scaler.state_dict(),
            "random": [random_state.from_tensor(packed) for packed in states],
            "data": self.facts,
        }
        snapshot = Checkpoint(state.step, self.learner.tensors(), content)
        try:
            checkpoint.save(self.run.checkpoints, snapshot)
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
        """Saves the run before an error of the data inside the context goes on.

        With several processes the last checkpoint must do: a save needs all of them, and the
        others have no error.
        """
        try:
            yield
        except AtrousError:
            if self.learner.processes.world_size == 1:
                self.save(state)
            raise

    def restore(self, *, override: bool, extend: bool) -> State:
        """Reads the newest valid checkpoint into the learner, and returns the place of the run.

        Raises:
            AtrousError: No checkpoint is valid, the config differs in a way that changes results,
                or the network differs.
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
        kept = {name: content[name] for name in ("loss_sum", "loss_count", "scores", "best")}
        return State(snapshot.step, Position(*content["position"]), **kept)


def _check_changes(
    old: TrainConfig, new: TrainConfig, step: int, *, override: bool, extend: bool
) -> None:
    """Refuses to resume with a config that computes something else."""
    changes = differences(old, new)
    if not changes:
        return
    shown = ", ".join(f"{name}: {a!r} -> {b!r}" for name, (a, b) in changes.items())
    logger.warning("config changed: %s", shown)
    if "steps" in changes and step >= old.steps and not extend:
        raise AtrousError(
            "E-RUN-FINISHED",
            f"the run is finished: its schedule ended at step {old.steps}",
            fix="--extend goes on with a schedule of more steps. The learning rate rises again: a "
            "run of that length from the start would have had it higher all along",
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
