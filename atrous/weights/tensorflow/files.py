"""Reads any of TensorFlow's files into ``{variable name: array}``, and lists what it leaves out."""

import logging
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError
from atrous.weights.tensorflow.archives import unpacked
from atrous.weights.tensorflow.checkpoint import read_checkpoint
from atrous.weights.tensorflow.graph import read_frozen_graph

Arrays = dict[str, NDArray[Any]]

_LOG = logging.getLogger(__name__)
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".zip")
_AVERAGE = "/ExponentialMovingAverage"
_KINDS = {
    "counter": re.compile(r"(^|/)(global_step|beta[12]_power|save_counter)$"),
    "slot": re.compile(r"/(Momentum|Adam(_1)?|RMSProp(_1)?|Adagrad|Adadelta(_1)?|Ftrl(_1)?)$"),
    "average": re.compile(f"{_AVERAGE}$"),
    "classifier": re.compile(
        r"^(xception_\d+|resnet_v1_\d+)/logits/"
        r"|^MobilenetV2/(Logits/|Conv_1/)"
        r"|^MobilenetV3/(Logits/|Conv_2/)"
    ),
    "variable": re.compile(""),
}


@dataclass(frozen=True)
class Extras:
    """Names of the entries that do not belong to the segmentation network.

    Args:
        optimizer: Slots of the optimizer, such as ``<variable>/Momentum``.
        averages: Moving averages, ``<variable>/ExponentialMovingAverage``.
        averages_used: Variables that are missing, so their moving averages are used.
        counters: ``global_step`` and similar counters.
        classifier: The head of an ImageNet classifier, which segmentation does not use.
        unread: Entries that are not numbers.
        global_step: The training step, if the source holds it.
    """

    optimizer: tuple[str, ...] = ()
    averages: tuple[str, ...] = ()
    averages_used: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()
    classifier: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    global_step: int | None = None

    def notes(self) -> list[str]:
        """Returns one note for each kind of entry, with all names."""
        kinds = (
            (self.optimizer, "left out: optimizer slots"),
            (self.averages, "left out: moving averages"),
            (self.averages_used, "taken from their moving averages"),
            (self.counters, "left out: counters"),
            (self.classifier, "left out: classifier of ImageNet"),
            (self.unread, "left out: entries without numbers"),
        )
        notes = [f"{what} ({len(names)}): {', '.join(names)}" for names, what in kinds if names]
        if self.global_step is not None:
            notes.append(f"trained for {self.global_step} steps")
        return notes


def read_tensorflow(source: str | Path | Mapping[str, NDArray[Any]]) -> tuple[Arrays, Extras]:
    """Reads the network's variables from any file that TensorFlow's DeepLab writes.

    If an archive or folder holds both a checkpoint and a frozen graph, the checkpoint is read. A
    warning is logged if the graph holds other weights.

    Args:
        source: The prefix of a V2 checkpoint (with or without ``.index``), a frozen ``.pb``, one of
            the model zoo's archives, a folder holding any of them, or the variables themselves.

    Returns:
        The variables of the network by name, and the names of all other entries.

    Raises:
        AtrousError: The source is missing, damaged, malicious or of another kind.
    """
    if isinstance(source, Mapping):
        return select_variables(source)
    path = Path(source)
    with ExitStack() as stack:
        if path.is_file() and path.name.endswith(ARCHIVES):
            folder = stack.enter_context(unpacked(path))
            return _read_folder(folder, path)
        if path.is_dir():
            return _read_folder(path, path)
        return _read_file(path)


def select_variables(variables: Mapping[str, NDArray[Any]]) -> tuple[Arrays, Extras]:
    """Splits variables into those of the network and all others.

    The authors' exporter restores the variables and never their moving averages (export_model.py:
    ``tf.train.Saver(tf.model_variables())``). An average is therefore used only if its variable is
    missing.
    """
    found: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for name in variables:
        found[_kind(name)].append(name)
    arrays = {name: np.asarray(variables[name]) for name in found["variable"]}
    stand_ins = {
        name.removesuffix(_AVERAGE): np.asarray(variables[name])
        for name in found["average"]
        if _kind(name.removesuffix(_AVERAGE)) == "variable"
    }
    used = tuple(sorted(stand_ins.keys() - arrays.keys()))
    steps = [variables[name] for name in found["counter"] if name.endswith("global_step")]
    extras = Extras(
        optimizer=tuple(found["slot"]),
        averages=tuple(found["average"]),
        averages_used=used,
        counters=tuple(found["counter"]),
        classifier=tuple(found["classifier"]),
        global_step=int(np.asarray(steps[0]).ravel()[0]) if steps else None,
    )
    return stand_ins | arrays, extras


def _kind(name: str) -> str:
    for kind, pattern in _KINDS.items():
        if pattern.search(name):
            return kind
    raise AssertionError(name)  # the last pattern matches everything


def _read_folder(folder: Path, source: Path) -> tuple[Arrays, Extras]:
    indices = sorted(folder.rglob("*.index"))
    graphs = sorted(folder.rglob("*.pb"))
    if len(indices) > 1 or (not indices and len(graphs) != 1):
        names = ", ".join(str(path.relative_to(folder)) for path in indices + graphs)
        raise AtrousError(
            "E-WEIGHTS-SOURCE",
            f"holds {len(indices)} checkpoints and {len(graphs)} graphs, one is needed: {names}",
            where=source,
            fix="name the checkpoint's prefix or the .pb file itself",
        )
    if not indices:
        return _read_file(graphs[0])
    arrays, extras = _read_file(indices[0])
    for graph in graphs:
        _compare(arrays, read_frozen_graph(graph), source, graph.relative_to(folder))
    return arrays, extras


def _read_file(path: Path) -> tuple[Arrays, Extras]:
    if path.suffix == ".pb" and path.is_file():
        return select_variables(read_frozen_graph(path))
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    if not prefix.with_name(prefix.name + ".index").is_file():
        raise AtrousError(
            "E-FILE-MISSING",
            f"no checkpoint here: there is no {prefix.name}.index",
            where=path,
            fix="name a checkpoint's prefix (model.ckpt-30000), a frozen .pb or a zoo archive; "
            "checkpoints without .index are the old V1 format, which is not read",
        )
    arrays, names = read_checkpoint(prefix, wanted=lambda name: _kind(name) != "slot")
    unread = tuple(name for name in names if name not in arrays and _kind(name) != "slot")
    slots = tuple(name for name in names if _kind(name) == "slot")
    selected, extras = select_variables(arrays)
    return selected, replace(extras, optimizer=slots, unread=unread)


def _compare(arrays: Arrays, frozen: Arrays, source: Path, graph: Path) -> None:
    """Logs a warning if the frozen graph beside a checkpoint was made from other weights."""
    different = [
        name for name, value in frozen.items() if not np.array_equal(arrays.get(name, value), value)
    ]
    if different:
        _LOG.warning(
            "%s: %s was frozen from other weights than the checkpoint beside it (%d variables "
            "differ, first %s); the checkpoint is used",
            source, graph, len(different), different[0],
        )  # fmt: skip
