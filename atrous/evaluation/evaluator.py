"""The one evaluator, for training and for test: pictures in, scores and their protocol out.

Every picture is compared at its own size with its own labels, one at a time; only counts are kept.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import atrous
from atrous import metrics
from atrous.classes import Color
from atrous.engines import Engine
from atrous.errors import AtrousError, ExitCode, unknown_name
from atrous.evaluation import uncertainty
from atrous.evaluation.boundary import BOUNDARY_RULE, TRIMAP_RULES, Boundaries, Trimap
from atrous.evaluation.multiscale import Size, Views, segment
from atrous.evaluation.networks import EngineNetwork, Network, TorchNetwork, open_network, prepared
from atrous.evaluation.scores import Scores
from atrous.evaluation.uncertainty import Reliability
from atrous.metrics import Counts
from atrous.model import DeepLabV3Plus

if TYPE_CHECKING:
    from atrous.data.dataset import Dataset

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """One evaluated picture, handed to the caller of `evaluate` and then forgotten."""

    position: int
    name: str
    image: NDArray[np.uint8]  # (H, W, 3)
    target: NDArray[Any]  # (H, W) in the model's classes; 255 or 65535 is unlabelled
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
) -> Scores:
    """Scores a model on labelled pictures, each at its own size.

    Args:
        model: The path or name of a model, a `DeepLabV3Plus` (left in the mode and at the stride
            it has), or an `Engine`.
        dataset: Labelled pictures; any sequence of (image, target) pairs will do.
        scales: Scales whose softmax outputs are averaged; the paper's "MS" is
            (0.5, 0.75, 1, 1.25, 1.5, 1.75).
        flip: Average with the mirrored picture at each scale too.
        output_stride: 4, 8, 16 or 32; None: the model's own. Needs a torch model.
        pad_to: Side, or (height, width), that pictures are padded to at the bottom and right with
            the mean pixel: the authors' protocol (513 for VOC). None: pictures as they are.
        window: Side, or (height, width), of a sliding window; None: whole pictures.
        classes: Names of the classes to average over; None: all. Every IoU still counts every
            pixel: predicting a class outside the list is an error like any other.
        trimap: Where boundary measures start (`boundary.TRIMAP_RULES`); None: no such measures.
        on_picture: Called with each picture's result, in order.

    Raises:
        AtrousError: No pictures, no labels at all, classes that do not match the model's, a
            picture that cannot be read, or an option the model does not have. Nothing is skipped.
    """
    network, facts = open_network(model)
    views = Views(tuple(scales), flip, _size(pad_to), _size(window))
    if len(dataset) == 0:
        raise AtrousError("E-DATA-EMPTY", "no pictures to evaluate", exit_code=ExitCode.DATA)
    names: tuple[str, ...] = facts["classes"]
    run = _Run(
        names, facts["palette"], _target_values(dataset, names), _indices(classes, names), trimap
    )
    with prepared(network, output_stride):
        for outcome, sample in _outcomes(network, dataset, views, run):
            run.add(outcome, sample, network.logits_stride)
            if on_picture is not None:
                on_picture(outcome)
        protocol = _protocol(network, facts, dataset, views, run)
    if not run.confusion.any():
        raise AtrousError(
            "E-DATA-UNLABELLED",
            f"none of the {len(dataset)} pictures has a labelled pixel",
            fix="name a split that has masks",
            exit_code=ExitCode.DATA,
        )
    return run.scores(protocol)


class _Run:
    """The counts of an evaluation under way."""

    def __init__(
        self,
        classes: tuple[str, ...],
        palette: tuple[Color, ...],
        values: NDArray[Any] | None,
        chosen: tuple[int, ...] | None,
        trimap: Trimap | None,
    ) -> None:
        k = len(classes)
        self.classes = classes
        self.palette = palette
        self.values = values
        self.chosen = chosen
        self.ignore_index = 255 if k <= 255 else 65535
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
                target, labels, len(self.classes), ignore_index=self.ignore_index
            )
            self.confusion += counts
            self.per_picture.append(np.stack([np.diagonal(counts), counts.sum(1), counts.sum(0)]))
            self.reliability.update(target[::stride, ::stride], sample, self.ignore_index)
        if self.boundaries is not None:
            with self.timed("boundaries"):
                self.boundaries.update(target, labels)
        self.names.append(outcome.name)
        self.sizes.append((target.shape[0], target.shape[1]))

    def scores(self, protocol: dict[str, Any]) -> Scores:
        return Scores(
            self.classes,
            self.names,
            self.confusion,
            np.stack(self.per_picture),
            self.boundaries,
            self.reliability,
            protocol,
            {what: round(spent, 3) for what, spent in self.seconds.items()},
            self.chosen,
        )


def _outcomes(
    network: Network, dataset: "Dataset", views: Views, run: _Run
) -> Iterator[tuple[Outcome, NDArray[np.float32]]]:
    """Yields every picture's result while the next picture is being read."""
    names = getattr(dataset, "names", None) or [f"picture {i}" for i in range(len(dataset))]
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(dataset.__getitem__, 0)
        for index, name in enumerate(names):
            with run.timed("waiting"):
                image, target = following.result()
            if index + 1 < len(dataset):
                following = reader.submit(dataset.__getitem__, index + 1)
            if target.shape != image.shape[:2]:
                raise AtrousError(
                    "E-DATA-SIZE",
                    f"the picture is {image.shape[:2]} and its labels {target.shape}",
                    where=name,
                    exit_code=ExitCode.DATA,
                )
            if run.values is not None:
                target = run.values[target]
            with run.timed("network"):
                labels, sample = segment(network, image, views, where=name)
            yield Outcome(index, name, image, target, labels, run.palette), sample


def _target_values(dataset: "Dataset", classes: tuple[str, ...]) -> NDArray[Any] | None:
    """Returns the model's class for each value of the data's labels; None: they are the same.

    Raises:
        AtrousError: Classes the model does not have.
    """
    theirs: tuple[str, ...] = tuple(getattr(dataset, "classes", classes))
    if theirs == classes:
        return None
    if set(theirs) <= set(classes):  # other order, or some of them: go by name
        logger.warning("the data's classes are matched to the model's by name")
        ignored = 255 if len(classes) <= 255 else 65535
        values = np.full(65536, ignored, np.uint8 if len(classes) <= 255 else np.uint16)
        values[: len(theirs)] = [classes.index(name) for name in theirs]
        return values
    if len(theirs) == len(classes):
        logger.warning(
            "class names differ and are matched by index: %s (data), %s (model)", theirs, classes
        )
        return None
    unknown = [name for name in theirs if name not in classes]
    raise AtrousError(
        "E-CLASSES",
        f"the data has {len(theirs)} classes and the model {len(classes)}; "
        f"the model does not know {', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}",
        fix="evaluate on data with the model's classes, or describe the data in a YAML file that "
        "maps its labels to them",
        exit_code=ExitCode.DATA,
    )


def _indices(names: Sequence[str] | None, known: tuple[str, ...]) -> tuple[int, ...] | None:
    if names is None:
        return None
    for name in names:
        if name not in known:
            raise unknown_name("class", name, known)
    if not names:
        raise AtrousError("E-CLASSES", "no classes to average over")
    return tuple(known.index(name) for name in names)


def _size(size: int | Size | None) -> Size | None:
    return (size, size) if isinstance(size, int) else size


def _protocol(
    network: Network, facts: Mapping[str, Any], dataset: "Dataset", views: Views, run: _Run
) -> dict[str, Any]:
    """Returns how the scores were measured, in plain values."""
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
        "mean_over": [run.classes[i] for i in run.chosen] if run.chosen else "all classes",
        "absent_classes": metrics.ABSENT_CLASS_RULE,
        "class_matching": "by name" if run.values is not None else "by index",
        "interval": uncertainty.INTERVAL_RULE,
        "calibration": uncertainty.CALIBRATION_RULE,
        "versions": {"atrous": atrous.__version__, "numpy": np.__version__},
    }
    if run.boundaries is not None and run.trimap is not None:
        protocol["trimap"] = TRIMAP_RULES[run.trimap]
        if run.trimap == "auto":
            protocol["trimap_rules"] = {k: TRIMAP_RULES[k] for k in ("void", "borders")}
        protocol["trimap_pictures"] = run.boundaries.pictures
        protocol["boundaries"] = BOUNDARY_RULE
    return protocol
