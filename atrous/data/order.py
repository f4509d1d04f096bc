"""The order of samples, as pure functions: training can stop and continue at any position.

Training reads an endless stream. Each epoch is the data set in an order drawn from (seed, epoch).
Epochs follow one another without a gap, so that every batch is full. A batch is a stretch of the
stream, for any number of ranks; each rank takes its own part of the batch.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError


class Position(NamedTuple):
    """A position in the training stream: the samples of an epoch that all ranks have used."""

    epoch: int = 0
    cursor: int = 0


START = Position()


class Draw(NamedTuple):
    """A sample in an epoch."""

    epoch: int
    sample: int


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Returns every index once, in the order of that epoch."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    return np.argsort(rng.random(num_samples), kind="stable")


def training_order(
    num_samples: int,
    *,
    seed: int,
    batch_size: int,
    start: Position = START,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[list[Draw], Position]]:
    """Yields this rank's part of every batch from `start` on, and the position after the batch.

    Args:
        num_samples: Size of the data set.
        seed: Determines the order of every epoch.
        batch_size: Samples in a batch over all ranks.
        start: Where to begin; to continue, the position after the last batch.
        rank: This process, 0 .. world_size-1.
        world_size: Number of processes that share each batch.

    Raises:
        AtrousError: The data set is empty, or the batch cannot be shared evenly.
    """
    if num_samples == 0:
        raise AtrousError("E-DATA-EMPTY", "the data set has no samples")
    if batch_size < 1 or batch_size % world_size:
        raise AtrousError(
            "E-BATCH-SIZE",
            f"a batch of {batch_size} cannot be shared by {world_size} processes",
            fix="choose a multiple of the number of processes",
        )
    share = batch_size // world_size
    epoch, cursor = start
    order = epoch_order(num_samples, seed=seed, epoch=epoch)
    while True:
        batch = []
        for _ in range(batch_size):
            if cursor == num_samples:
                epoch, cursor = epoch + 1, 0
                order = epoch_order(num_samples, seed=seed, epoch=epoch)
            batch.append(Draw(epoch, int(order[cursor])))
            cursor += 1
        yield batch[rank * share : (rank + 1) * share], Position(epoch, cursor)


def evaluation_order(num_samples: int, *, rank: int = 0, world_size: int = 1) -> range:
    """Returns the indices that a process evaluates.

    Every sample belongs to exactly one process. No sample is repeated or left out to make the
    shares equal, so shares may differ by one.
    """
    return range(rank, num_samples, world_size)
