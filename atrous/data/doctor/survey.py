"""Measures every sample of a data set once, on all cores."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from atrous.classes import ClassTable, Color
from atrous.data.dataset import Item
from atrous.data.doctor.measure import Measurement, measure
from atrous.data.formats.layout import Layout
from atrous.data.formats.pairing import Problem
from atrous.data.masks.targets import MaskReader
from atrous.engines.machine import ignore_interrupts, interrupts_held, usable_processors
from atrous.errors import AtrousError, ResourceError
from atrous.images.bands import PLAIN, Bands

_CHUNK = 16  # samples a worker takes at a time
_UNIONS = ("trainval", "all")  # unions of other splits; surveyed only if named


@dataclass
class Survey:
    """The measurements of a data set.

    Args:
        kind: The layout it was recognised as.
        root: Its folder or file.
        table: Its classes.
        measurements: Its samples. A sample of several splits is measured once.
        splits: Name -> indices into `measurements`.
        problems: Split -> files without a partner.
        failures: Split -> why it could not be listed.
        mapping: Value in mask files -> class index, where the layout maps any.
        colors: Colours of masks the layout has classes for.
        bands: The channels of the pictures.
    """

    kind: str
    root: Path
    table: ClassTable
    measurements: list[Measurement] = field(default_factory=list)
    splits: dict[str, list[int]] = field(default_factory=dict)
    problems: dict[str, tuple[Problem, ...]] = field(default_factory=dict)
    failures: dict[str, AtrousError] = field(default_factory=dict)
    mapping: dict[int, int | None] = field(default_factory=dict)
    colors: frozenset[Color] = frozenset()
    bands: Bands = PLAIN

    def of(self, split: str) -> Iterator[Measurement]:
        """Yields the measurements of a split."""
        return (self.measurements[i] for i in self.splits[split])


def survey(
    layout: Layout,
    splits: Sequence[str] = (),
    *,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Measures the samples of some splits, or of all splits but the unions.

    Args:
        layout: The data set.
        splits: Names; empty for all.
        workers: Number of processes; by default one for each core this process may use. With 1,
            this process measures.
        on_progress: Called with samples done and in all.

    Raises:
        AtrousError: An unknown split, or a worker died.
    """
    result = Survey(layout.kind, layout.root, layout.table)
    if isinstance(layout.read_target, MaskReader):
        result.mapping = dict(layout.read_target.mapping)
        result.colors = frozenset(color for color, _ in layout.read_target.colors)
    chosen = splits or [name for name in layout.splits if name not in _UNIONS] or ["all"]
    samples: dict[tuple[str, str], tuple[int, Item]] = {}
    for split in chosen:
        try:
            dataset, result.problems[split] = layout.open(split)
        except AtrousError as error:
            if error.code == "E-UNKNOWN-NAME":
                raise
            result.failures[split] = error
            continue
        result.bands = dataset.bands
        result.splits[split] = [_number(item, samples) for item in dataset.items]
    unique = [sample for _, sample in samples.values()]
    look = partial(measure, read_target=layout.read_target, bands=result.bands)
    for measurement in _measured(unique, look, workers or usable_processors()):
        result.measurements.append(measurement)
        on_progress(len(result.measurements), len(unique))
    return result


def _number(sample: Item, known: dict[tuple[str, str], tuple[int, Item]]) -> int:
    """Returns the number of a sample; a sample seen before keeps its number."""
    key = (str(sample.image), str(sample.annotation) + sample.name)
    return known.setdefault(key, (len(known), sample))[0]


def _measured(
    samples: Sequence[Item], look: Callable[[Item], Measurement], workers: int
) -> Iterator[Measurement]:
    if workers == 1 or len(samples) <= _CHUNK:
        yield from map(look, samples)
        return
    # Forking is fast and shares memory, but is safe only in a process with one thread.
    can_fork = "fork" in multiprocessing.get_all_start_methods() and threading.active_count() == 1
    context = multiprocessing.get_context("fork" if can_fork else "spawn")
    with ProcessPoolExecutor(workers, context, initializer=ignore_interrupts) as pool:
        try:
            with interrupts_held():
                measured = pool.map(look, samples, chunksize=_CHUNK)
            yield from measured
        except BrokenProcessPool:
            raise ResourceError(
                "E-DATA-WORKER",
                "a process that read pictures was killed, probably because memory ran out",
                fix="try --workers 1, and look for a picture of extreme size",
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
