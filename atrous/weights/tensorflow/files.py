"""Reads any of TensorFlow's files into ``{variable name: array}``, and lists what it leaves out."""

import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
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
    "variable": re.compile(""),  # all others
}
# What a model says about entries that do not belong to the segmentation network.
_NOTES = {
    "slot": "left out: optimizer slots",
    "average": "left out: moving averages",
    "stand-in": "taken from their moving averages",  # their variables are missing
    "counter": "left out: counters",
    "classifier": "left out: classifier of ImageNet",
    "unread": "left out: entries without numbers",
}


def read_tensorflow(source: str | Path | Mapping[str, NDArray[Any]]) -> tuple[Arrays, list[str]]:
    """Reads the network's variables from any file that TensorFlow's DeepLab writes.

    If an archive or folder holds both a checkpoint and a frozen graph, the checkpoint is read. A
    warning is logged if the graph holds other weights.

    Args:
        source: The prefix of a V2 checkpoint (with or without ``.index``), a frozen ``.pb``, one of
            the model zoo's archives, a folder holding any of them, or the variables themselves.

    Returns:
        The variables of the network by name, and a note for each kind of other entries.

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


def select_variables(
    variables: Mapping[str, NDArray[Any]], unread: Iterable[str] = ()
) -> tuple[Arrays, list[str]]:
    """Splits variables into those of the network and all others, which notes name.

    The authors' exporter restores the variables and never their moving averages (export_model.py:
    ``tf.train.Saver(tf.model_variables())``). An average is therefore used only if its variable is
    missing.

    Args:
        variables: Arrays by name.
        unread: Names of further entries: optimizer slots, and entries that are not numbers.
    """
    found: dict[str, list[str]] = {kind: [] for kind in (*_KINDS, "unread")}
    for name in variables:
        found[_kind(name)].append(name)
    for name in unread:
        found["slot" if _kind(name) == "slot" else "unread"].append(name)
    arrays = {name: np.asarray(variables[name]) for name in found["variable"]}
    stand_ins = {
        name.removesuffix(_AVERAGE): np.asarray(variables[name])
        for name in found["average"]
        if _kind(name.removesuffix(_AVERAGE)) == "variable"
    }
    found["stand-in"] = sorted(stand_ins.keys() - arrays.keys())
    of_kinds = ((what, found[kind]) for kind, what in _NOTES.items())
    notes = [f"{what} ({len(names)}): {', '.join(names)}" for what, names in of_kinds if names]
    steps = [variables[name] for name in found["counter"] if name.endswith("global_step")]
    if steps:
        notes.append(f"trained for {int(np.asarray(steps[0]).ravel()[0])} steps")
    return stand_ins | arrays, notes


def _kind(name: str) -> str:
    return next(kind for kind, pattern in _KINDS.items() if pattern.search(name))


def _read_folder(folder: Path, source: Path) -> tuple[Arrays, list[str]]:
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
    arrays, notes = _read_file(indices[0])
    for graph in graphs:
        _compare(arrays, read_frozen_graph(graph), source, graph.relative_to(folder))
    return arrays, notes


def _read_file(path: Path) -> tuple[Arrays, list[str]]:
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
    return select_variables(arrays, [name for name in names if name not in arrays])


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
