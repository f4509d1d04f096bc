"""Compares the tensors of a file with those of a network, and explains what does not fit."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from atrous.errors import AtrousError, DataError

Shape = tuple[int, ...]
_SHOWN = 10


def check_same(network: Mapping[str, Any], file: Mapping[str, Any], where: object) -> None:
    """Checks that a file holds the tensors of a network: all of their names, in their shapes.

    Args:
        network: Tensors or arrays by name.
        file: The same.
        where: The file, for the error.

    Raises:
        DataError: ``E-WEIGHTS-MISMATCH``, with a table of the differences and a likely cause.
    """
    ours, theirs = _shapes(network), _shapes(file)
    missing = [name for name in ours if name not in theirs]
    unexpected = [name for name in theirs if name not in ours]
    misshapen = {
        name: (shape, theirs[name])
        for name, shape in ours.items()
        if name in theirs and theirs[name] != shape
    }
    if not (missing or unexpected or misshapen):
        return
    rows = [(name, "wrong shape", _text(a), _text(b)) for name, (a, b) in misshapen.items()]
    rows += [(name, "missing", _text(ours[name]), "-") for name in missing]
    rows += [(name, "unexpected", "-", _text(theirs[name])) for name in unexpected]
    raise DataError(
        "E-WEIGHTS-MISMATCH",
        f"the tensors are not those of this network ({len(missing)} missing, {len(unexpected)} "
        f"unexpected, {len(misshapen)} misshapen):\n{_table(rows)}",
        where=where,
        fix=_likely_cause(missing, unexpected, misshapen),
    )


def _likely_cause(
    missing: Sequence[str], unexpected: Sequence[str], misshapen: Mapping[str, tuple[Shape, Shape]]
) -> str:
    classifier = [name for name in misshapen if "classifier" in name or "logits" in name]
    if classifier and len(classifier) == len(misshapen) and not missing:
        wanted, found = (shape[0] for shape in misshapen[classifier[0]])
        return (
            f"the file has {found} classes, the network {wanted}: use --head reinit to start a "
            "new classifier, or name the classes so that rows can be copied by name"
        )
    if missing and unexpected:
        return "the file holds another network, or the same one by other names"
    if missing and all("decoder" in name for name in missing):
        return "the file holds a network without this decoder"
    if unexpected:
        return "the file holds more than this network: another backbone, head or decoder"
    return "the file is incomplete, or of another width or depth of the same network"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Returns a table of the first ten, and how many more there are."""
    shown = [("tensor", "problem", "network", "file"), *rows[:_SHOWN]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in shown]
    if len(rows) > _SHOWN:
        lines.append(f"and {len(rows) - _SHOWN} more")
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def _shapes(arrays: Mapping[str, Any]) -> dict[str, Shape]:
    return {name: tuple(array.shape) for name, array in arrays.items()}


def check_finite(arrays: Iterable[tuple[str, Tensor | NDArray[Any]]], where: object = "") -> None:
    """Checks that weights hold no NaN and no infinity.

    Raises:
        AtrousError: ``E-WEIGHTS-NAN``, with the first tensor that holds either.
    """
    for name, array in arrays:
        if isinstance(array, Tensor):
            count = int((~array.isfinite()).sum()) if array.is_floating_point() else 0
        else:
            count = int((~np.isfinite(array)).sum()) if array.dtype.kind == "f" else 0
        if count:
            raise DataError(
                "E-WEIGHTS-NAN",
                f"{name} holds {count} values that are NaN or infinite, of {prod(array.shape)}",
                where=where,
                fix="the training that wrote it diverged; take an earlier checkpoint",
            )


def broken(
    path: Path,
    what: str,
    fix: str = "the file is damaged or of another kind; get it again from its source",
) -> AtrousError:
    """Returns the error for a file that cannot be read."""
    return DataError("E-WEIGHTS-FORMAT", what, where=path, fix=fix)


def unknown_network(names: Collection[str], where: object) -> AtrousError:
    """Returns the error for a checkpoint that does not say what network it is."""
    shown = f"{', '.join(list(names)[:5])}, ... ({len(names)} in all)"
    if any(name.startswith("encoder.backbone.") for name in names):
        return DataError(
            "E-WEIGHTS-STATE-DICT",
            f"a bare state_dict of a model of this package ({shown}): its architecture, class "
            "names and normalisation are not in the file",
            where=where,
            fix="build the network with create_model, fill it with atrous.load_weights(model, "
            "PATH) and write it with atrous.save; a file of atrous.save says all this itself",
        )
    return DataError(
        "E-WEIGHTS-UNKNOWN",
        f"the tensor names are not those of a network of this package: {shown}",
        where=where,
        fix="DeepLab checkpoints of other projects (torchvision, segmentation_models.pytorch and "
        "others) have other layers and another geometry: run them with their own code. Whole "
        "models are read from TensorFlow, TFLite and this package's files. A backbone goes into "
        "create_model(..., pretrained=PATH): Xception and MobileNetV2 of timm, MobileNetV2 of "
        "torchvision, and with the backbone timm/<name> any of timm's, torchvision's ResNets too",
    )


def _text(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "scalar"
