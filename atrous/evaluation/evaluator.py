"""Evaluates a model on labelled pictures; training and `atrous evaluate` both use it.

Pictures are compared with their labels one at a time, at their own size. Only counts are kept.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import atrous
from atrous.classes import Color, unlabelled
from atrous.data.dataset import other_size
from atrous.engines.machine import ignore_interrupts, interrupts_held, usable_processors
from atrous.engines.open import open_engine
from atrous.engines.protocol import Engine
from atrous.errors import AtrousError, DataError, ResourceError
from atrous.evaluation import metrics, uncertainty
from atrous.evaluation.boundary import BOUNDARY_RULE, TRIMAP_RULES, Boundaries, Trimap
from atrous.evaluation.class_matching import LACKING_RULE, ClassMatch, match_classes
from atrous.evaluation.metrics import Counts
from atrous.evaluation.networks import EngineNetwork, Network, TorchNetwork, open_network, prepared
from atrous.evaluation.scores import Scores
from atrous.evaluation.uncertainty import Reliability
from atrous.evaluation.views import Size, Views, segment
from atrous.model import DeepLabV3Plus

if TYPE_CHECKING:
    from atrous.data.dataset import Dataset


class Outcome(NamedTuple):
    """One evaluated picture, as `on_picture` gets it."""

    position: int
    name: str
    image: NDArray[np.uint8]  # (H, W, 3), as shown to people
    target: NDArray[Any]  # (H, W) in the scores' classes; 255 or 65535 is unlabelled
    labels: NDArray[Any]  # (H, W)
    palette: tuple[Color, ...]  # of the classes


def evaluate(
    model: "DeepLabV3Plus | Engine | str | Path",
    dataset: "Dataset",
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    output_stride: int | None = None,
    pad_to: int | Size | None = None,
    window: int | Size | None = None,
    classes: Sequence[str] | None = None,
    trimap: Trimap | None = "auto",
    on_picture: Callable[[Outcome], None] | None = None,
    jobs: int = 1,
) -> Scores:
    """Scores a model on labelled pictures, each at its own size.

    Args:
        model: The path or name of a model, a `DeepLabV3Plus` (left in the mode and at the stride
            it has), or an `Engine`.
        dataset: Labelled pictures: a data set, or any sequence of (image, target) pairs.
        scales: Scales whose softmax outputs are averaged; the paper's "MS" is
            (0.5, 0.75, 1, 1.25, 1.5, 1.75).
        flip: Average with the mirrored picture at each scale too.
        output_stride: 4, 8, 16 or 32; None: the model's own. Needs a torch model.
        pad_to: Side, or (height, width), that pictures are padded to at the bottom and right with
            the mean pixel: the authors' protocol (513 for VOC). None: pictures as they are.
        window: Side, or (height, width), of a sliding window; None: whole pictures.
        classes: Names of the classes to average over; None: all classes of the model. Every IoU
            still counts every pixel: predicting a class outside the list is an error. Any
            prediction is an error where the data has a class that the model lacks
            (`class_matching`).
        trimap: The rule of the trimap (`boundary.TRIMAP_RULES`); None: no boundary measures.
        on_picture: Called with each picture's result, in order.
        jobs: Number of processes, which share the threads. Counts add up exactly, in the order of
            the pictures, so scores are those of one process.

    Raises:
        AtrousError: A process died, or several with a model that is neither a name nor a path.
            No pictures, no labels at all, classes that do not match the model's, a
            picture that cannot be read, or an option the model does not have. Nothing is skipped.
    """
    network, facts = open_network(model)
    views = Views(tuple(scales), flip, _size(pad_to), _size(window))
    if len(dataset) == 0:
        raise DataError("E-DATA-EMPTY", "no pictures to evaluate")
    _check_channels(network, dataset)
    run = _Run(match_classes(dataset, facts["classes"], facts["palette"], classes), trimap)
    with prepared(network, output_stride):
        if jobs == 1:
            outcomes = _added(network, dataset, views, run, range(len(dataset)))
        else:
            outcomes = _added_in_jobs(jobs, (model, dataset, views, output_stride), run)
        for outcome in outcomes:
            if on_picture is not None:
                on_picture(outcome)
        protocol = _protocol(network, facts, dataset, views, run)
    if not run.confusion.any():
        raise DataError(
            "E-DATA-UNLABELLED",
            f"none of the {len(dataset)} pictures has a labelled pixel",
            fix="name a split that has masks",
        )
    return run.scores(protocol)


class _Run:
    """The counts of an evaluation in progress."""

    def __init__(self, match: ClassMatch, trimap: Trimap | None) -> None:
        k = len(match.classes)
        self.match = match
        self.ignore_index = unlabelled(k)
        self.trimap = trimap
        self.boundaries = Boundaries(k, self.ignore_index, trimap) if trimap else None
        self.reliability = Reliability()
        self.confusion: Counts = np.zeros((k, k), np.int64)
        self.per_picture: list[Counts] = []
        self.names: list[str] = []
        self.sizes: list[Size] = []
        self.seconds = dict.fromkeys(("network", "metrics", "boundaries", "waiting"), 0.0)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - start

    def add(self, outcome: Outcome, sample: NDArray[np.float32], stride: int) -> None:
        target, labels = outcome.target, outcome.labels
        with self.timed("metrics"):
            counts = metrics.confusion_matrix(
                target, labels, len(self.match.classes), ignore_index=self.ignore_index
            )
            self.confusion += counts
            self.per_picture.append(np.stack([np.diagonal(counts), counts.sum(1), counts.sum(0)]))
            self.reliability.update(target[::stride, ::stride], sample, self.ignore_index)
        if self.boundaries is not None:
            with self.timed("boundaries"):
                self.boundaries.update(target, labels)
        self.names.append(outcome.name)
        self.sizes.append((target.shape[0], target.shape[1]))

    def merge(self, other: "_Run") -> None:
        """Adds the pictures of another run, after those of this one."""
        self.confusion += other.confusion
        self.per_picture += other.per_picture
        self.reliability.merge(other.reliability)
        if self.boundaries is not None and other.boundaries is not None:
            self.boundaries.merge(other.boundaries)
        self.names += other.names
        self.sizes += other.sizes
        for what, spent in other.seconds.items():
            self.seconds[what] += spent

    def scores(self, protocol: dict[str, Any]) -> Scores:
        return Scores(
            self.match.classes,
            tuple(self.names),
            self.confusion,
            np.stack(self.per_picture),
            self.boundaries,
            self.reliability,
            protocol,
            {what: round(spent, 3) for what, spent in self.seconds.items()},
            self.match.chosen,
            self.match.lacking,
        )


def _added(
    network: Network, dataset: "Dataset", views: Views, run: _Run, indices: range
) -> Iterator[Outcome]:
    """Yields some pictures, each after its counts have joined the run.

    A thread reads the next picture meanwhile.
    """
    names = getattr(dataset, "names", None)
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(dataset.__getitem__, indices[0])
        for index in indices:
            name = names[index] if names else f"picture {index}"
            with run.timed("waiting"):
                image, target = following.result()
            if index + 1 in indices:
                following = reader.submit(dataset.__getitem__, index + 1)
            if target.shape != image.shape[:2]:
                raise other_size(image.shape[:2], target.shape, name)
            if run.match.values is not None:
                target = run.match.values[target]
            with run.timed("network"):
                labels, sample = segment(network, image, views, where=name)
            shown = network.bands.shown(image)
            outcome = Outcome(index, name, shown, target, labels, run.match.palette)
            run.add(outcome, sample, network.logits_stride)
            yield outcome


def _added_in_jobs(jobs: int, held: tuple[Any, ...], run: _Run) -> Iterator[Outcome]:
    """Does what `_added` does, in several processes."""
    model, dataset, *_ = held
    if not isinstance(model, (str, Path)):
        raise AtrousError(
            "E-JOBS",
            f"several jobs need a name or a path of a model, not a {type(model).__name__}",
            fix="save the model and name the file, or use one job",
        )  # fmt: skip
    threads = max(1, usable_processors() // jobs)
    context = multiprocessing.get_context("spawn")  # engines have threads; see predict/jobs.py
    pool = ProcessPoolExecutor(
        jobs, context, initializer=_hold, initargs=(threads, *held, run.match, run.trimap)
    )
    try:
        with interrupts_held():
            parts = pool.map(_evaluated, range(len(dataset)))
        for outcome, part in parts:
            run.merge(part)
            yield outcome
    except BrokenProcessPool:
        raise ResourceError(
            "E-WORKER", "a process that evaluated pictures was killed",
            fix="it may need more memory than there is: fewer --jobs",
        ) from None  # fmt: skip
    finally:
        pool.shutdown(cancel_futures=True)


_held: tuple[Any, ...] = ()


def _hold(
    threads: int, model: Any, dataset: Any, views: Views, stride: int | None, *of: Any
) -> None:
    """Keeps in a process what all its pictures need."""
    global _held
    ignore_interrupts()
    torch.set_num_threads(threads)
    network, _ = open_network(open_engine(model, threads=threads))
    preparing = prepared(network, stride)
    preparing.__enter__()
    _held = network, dataset, views, of, preparing


def _evaluated(index: int) -> tuple[Outcome, _Run]:
    """Returns a picture and its counts."""
    network, dataset, views, of, _ = _held
    run = _Run(*of)
    (outcome,) = _added(network, dataset, views, run, range(index, index + 1))
    return outcome, run


def _check_channels(network: Network, dataset: "Dataset") -> None:
    """Refuses data of other channels than the model's."""
    ours, theirs = network.bands, getattr(dataset, "bands", network.bands)
    if (ours.names, ours.dtype) != (theirs.names, theirs.dtype):
        of_model, of_data = (f"{', '.join(b.names)} ({b.dtype})" for b in (ours, theirs))
        raise DataError(
            "E-DATA-CHANNELS",
            f"the model reads {of_model}, the data have {of_data}",
            fix="name the model's channels, in its order, in the dataset YAML",
        )


def _size(size: int | Size | None) -> Size | None:
    return (size, size) if isinstance(size, int) else size


def _protocol(
    network: Network, facts: Mapping[str, Any], dataset: "Dataset", views: Views, run: _Run
) -> dict[str, Any]:
    """Returns the protocol of the scores as values that JSON can hold."""
    unlabelled = sum(not counts[1].any() for counts in run.per_picture)
    protocol: dict[str, Any] = {
        "model": facts["model"],
        "model_fingerprint": facts["fingerprint"],
        "engine": facts["engine"],
        "precision": facts["precision"],
        "output_stride": network.model.output_stride
        if isinstance(network, TorchNetwork)
        else facts["output_stride"],
        "logits_stride": network.logits_stride,
        "data_fingerprint": dataset.fingerprint() if hasattr(dataset, "fingerprint") else None,
        "pictures": len(run.names),
        "pictures_without_labels": unlabelled,
        "labelled_pixels": int(run.confusion.sum()),
        "sizes": {"smallest": list(min(run.sizes)), "largest": list(max(run.sizes))},
        "resolution": "labels at their own size, predictions upsampled to it",
        "scales": list(views.scales),
        "flip": views.flip,
        "average": "softmax outputs of all scales and flips" if not views.single else "none",
        "resized_pictures": "rounded to 8 bits" if isinstance(network, EngineNetwork) else "float",
        "pad_to": list(views.pad_to) if views.pad_to else None,
        "pad_value": list(network.mean_pixel) if views.pad_to else None,
        "window": list(views.window) if views.window else None,
        "ignore_index": run.ignore_index,
        "mean_over": [run.match.classes[i] for i in run.match.chosen]
        if run.match.chosen
        else "all classes",
        "absent_classes": metrics.ABSENT_CLASS_RULE,
        "class_matching": run.match.rule,
        "interval": uncertainty.INTERVAL_RULE,
        "calibration": uncertainty.CALIBRATION_RULE,
        "versions": {"atrous": atrous.__version__, "numpy": np.__version__},
    }
    if run.match.lacking:
        protocol["classes_the_model_lacks"] = list(run.match.lacking)
        protocol["lacking_classes"] = LACKING_RULE
    if run.boundaries is not None and run.trimap is not None:
        protocol["trimap"] = TRIMAP_RULES[run.trimap]
        if run.trimap == "auto":
            protocol["trimap_rules"] = {k: TRIMAP_RULES[k] for k in ("void", "borders")}
        protocol["trimap_pictures"] = run.boundaries.pictures
        protocol["boundaries"] = BOUNDARY_RULE
    return protocol
