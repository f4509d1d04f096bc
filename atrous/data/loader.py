"""From a data set to batches: decoding, augmentation and collation in worker processes.

The content of a batch depends on data set, augmentation, seed and position alone. The number of
workers or ranks does not matter: workers draw no random numbers of their own.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from atrous.data.cache import CONTEXT, CachedDataset
from atrous.data.dataset import Dataset, Sample
from atrous.data.order import START, Draw, Position, evaluation_order, training_order
from atrous.data.resize import as_tensor
from atrous.data.transforms import sample_generator
from atrous.errors import AtrousError, DataError, ResourceError

logger = logging.getLogger(__name__)

MAX_BAD_SHARE = 0.01  # of the samples, with on_bad_sample="skip"

_SUBSTITUTES = 10  # other samples tried in place of a bad sample


# From data set, index and generator to a sample; picklable.
Vary = Callable[[Dataset, int, np.random.Generator], Sample]


class Batch(NamedTuple):
    """The input of one training step on one rank."""

    images: Tensor  # (N, C, H, W) uint8 or float32, channels last in memory
    targets: Tensor  # (N, H, W) uint8, or int32 above 255 classes: .long() it on the device;
    # (N, 1, 1) of classified pictures
    names: list[str]
    position: Position  # of the whole stream after this batch: where a resumed run begins


@dataclass
class TrainingLoader:
    """Endless augmented batches of a data set.

    Args:
        dataset: The training data.
        augmentation: How samples are varied: an `Augmentation`, or an `AreaCrop` of classified
            pictures. All samples it gives have one size.
        batch_size: Samples in a batch over all ranks.
        seed: Decides order and variation.
        workers: Number of processes that prepare batches; with 0, this process does.
        rank: This process among those that share each batch.
        world_size: How many processes share each batch.
        on_bad_sample: ``error`` raises the error of a sample that cannot be read. ``skip`` takes
            another sample instead, lists the bad sample in `bad_samples`, and raises if more than
            one sample in a hundred is bad.
        cache_bytes: Memory for decoded samples, shared by the workers.

    Attributes:
        bad_samples: File and reason of each bad sample so far (``skip``).
    """

    dataset: Dataset
    augmentation: Vary
    batch_size: int
    seed: int
    workers: int = 0
    rank: int = 0
    world_size: int = 1
    on_bad_sample: Literal["error", "skip"] = "error"
    cache_bytes: int = 0
    bad_samples: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.cache_bytes:
            self.dataset = CachedDataset(self.dataset, self.cache_bytes)

    def batches(self, start: Position = START) -> Iterator[Batch]:
        """Yields batches from a position on, without end.

        Raises:
            AtrousError: A sample cannot be read (see `on_bad_sample`), a worker died, or the batch
                cannot be shared.
        """
        order = partial(
            training_order,
            len(self.dataset),
            seed=self.seed,
            batch_size=self.batch_size,
            start=start,
            rank=self.rank,
            world_size=self.world_size,
        )
        next(order())  # raises errors of the arguments here, and not in a worker
        substitutes = _SUBSTITUTES if self.on_bad_sample == "skip" else 0
        read = partial(_batch, self.dataset, self.augmentation, self.seed, substitutes)
        draws = (draws for draws, _ in order())
        for (_, position), (batch, failures) in zip(
            order(), _in_workers(read, draws, self.workers), strict=False
        ):
            self._register(failures)
            if batch is None:
                raise failures[-1]
            images, targets, names = batch
            yield Batch(images.permute(0, 3, 1, 2), targets, names, position)

    def _register(self, failures: list[AtrousError]) -> None:
        for error in failures:
            if self.on_bad_sample == "error":
                raise error
            if error.where not in self.bad_samples:
                logger.warning("left out: %s", error)
            self.bad_samples[error.where] = f"{error.what} [{error.code}]"
        if len(self.bad_samples) > MAX_BAD_SHARE * len(self.dataset):
            shown = "; ".join(f"{where}: {why}" for where, why in [*self.bad_samples.items()][:3])
            raise DataError(
                "E-DATA-BAD",
                f"{len(self.bad_samples)} of {len(self.dataset)} samples cannot be read, "
                f"more than {MAX_BAD_SHARE:.0%}: {shown}",
                fix="run `atrous data check` on the data, and repair or remove these files",
            )


def evaluation_samples(
    dataset: Dataset, *, workers: int = 0, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[int, Sample]]:
    """Yields (index, sample) of this rank's share, decoded ahead, at the samples' own sizes.

    Over all ranks every sample comes exactly once.

    Raises:
        AtrousError: A sample cannot be read, or a worker died.
    """
    indices = evaluation_order(len(dataset), rank=rank, world_size=world_size)
    for read in _in_workers(partial(_sample, dataset), indices, workers):
        if isinstance(read, AtrousError):
            raise read
        index, image, target = read
        yield index, Sample(image.numpy(), target.numpy())


# torch would lose the fields of an error that is raised in a worker. Errors are returned instead.


def _batch(
    dataset: Dataset, augmentation: Vary, seed: int, substitutes: int, draws: list[Draw]
) -> tuple[tuple[Tensor, Tensor, list[str]] | None, list[AtrousError]]:
    """Returns images (N, H, W, C), targets (N, H, W) and names, and the errors of bad samples."""
    images, targets, names = [], [], []
    failures: list[AtrousError] = []
    for draw in draws:
        for attempt in range(1 + substitutes):
            rng = sample_generator(seed, draw.epoch, draw.sample, attempt)
            index = int(rng.integers(len(dataset))) if attempt else draw.sample
            try:
                image, target = augmentation(dataset, index, rng)
            except AtrousError as error:
                failures.append(error)
                continue
            if target.dtype != np.uint8:
                target = target.astype(np.int32)  # torch has few operations for uint16
            images.append(as_tensor(image))
            targets.append(as_tensor(target))
            names.append(dataset.names[index])
            break
        else:  # all substitutes were unreadable, too
            return None, failures
    return (default_collate(images), default_collate(targets), names), failures


def _sample(dataset: Dataset, index: int) -> tuple[int, Tensor, Tensor] | AtrousError:
    try:
        image, target = dataset[index]
    except AtrousError as error:
        return error
    return index, as_tensor(image), as_tensor(target)


@dataclass(frozen=True)
class _Calls(torch.utils.data.Dataset[Any]):
    """A function, as torch's loader wants it."""

    function: Callable[[Any], Any]

    def __getitem__(self, argument: Any) -> Any:
        return self.function(argument)


def _in_workers(
    function: Callable[[Any], Any], arguments: Iterable[Any], workers: int
) -> Iterator[Any]:
    """Yields the results of a function, computed ahead by some processes."""
    loader = DataLoader(
        _Calls(function),
        batch_size=None,
        sampler=arguments,
        num_workers=workers,
        multiprocessing_context=CONTEXT if workers else None,
        pin_memory=torch.cuda.is_available(),
        # The default would draw from the global generator, which training uses.
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ResourceError(
            "E-DATA-WORKER",
            f"a data worker died: {str(error).splitlines()[0]}",
            fix="memory or /dev/shm may have run out: use fewer workers, or 0 to see the error",
        ) from error
