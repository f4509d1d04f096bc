"""How the tensors of a file differ from those of a network, as a person can read it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError, ExitCode

Shape = tuple[int, ...]
_SHOWN = 10


@dataclass
class Differences:
    """Names and shapes that do not agree.

    Attributes:
        missing: What the network has and the file has not.
        unexpected: What the file has and the network has not.
        misshapen: What both have in different shapes: (the network's, the file's).
    """

    missing: dict[str, Shape] = field(default_factory=dict)
    unexpected: dict[str, Shape] = field(default_factory=dict)
    misshapen: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        """Returns a table of the first ten, and how many more there are."""
        rows = [(n, "wrong shape", _text(e), _text(f)) for n, (e, f) in self.misshapen.items()]
        rows += [(name, "missing", _text(shape), "-") for name, shape in self.missing.items()]
        rows += [(name, "unexpected", "-", _text(shape)) for name, shape in self.unexpected.items()]
        shown = [("tensor", "problem", "network", "file"), *rows[:_SHOWN]]
        widths = [max(len(row[i]) for row in shown) for i in range(4)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in shown]
        if len(rows) > _SHOWN:
            lines.append(f"and {len(rows) - _SHOWN} more")
        return "\n".join(f"  {line.rstrip()}" for line in lines)

    def error(self, where: object, cause: str = "") -> AtrousError:
        """Returns the error that shows the table."""
        counts = (
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected, "
            f"{len(self.misshapen)} misshapen"
        )
        return AtrousError(
            "E-WEIGHTS-MISMATCH",
            f"the tensors are not those of this network ({counts}):\n{self}",
            where=where,
            fix=cause or self._likely_cause(),
            exit_code=ExitCode.DATA,
        )

    def _likely_cause(self) -> str:
        classifier = [name for name in self.misshapen if "classifier" in name or "logits" in name]
        if classifier and len(classifier) == len(self.misshapen) and not self.missing:
            wanted, found = (shape[0] for shape in self.misshapen[classifier[0]])
            return (
                f"the file has {found} classes, the network {wanted}: use --head reinit to start a "
                "new classifier, or name the classes so that rows can be copied by name"
            )
        if self.missing and self.unexpected:
            return "the file holds another network, or the same one by other names"
        if self.missing and all("decoder" in name for name in self.missing):
            return "the file holds a network without this decoder"
        if self.unexpected:
            return "the file holds more than this network: another backbone, head or decoder"
        return "the file is incomplete, or of another width or depth of the same network"


def compare(network: Mapping[str, Shape], file: Mapping[str, Shape]) -> Differences:
    """Compares names and shapes.

    >>> bool(compare({"a": (1,)}, {"a": (1,)}))
    False
    """
    return Differences(
        {name: shape for name, shape in network.items() if name not in file},
        {name: shape for name, shape in file.items() if name not in network},
        {
            name: (shape, file[name])
            for name, shape in network.items()
            if name in file and shape != file[name]
        },
    )


def check_finite(arrays: Iterable[tuple[str, NDArray[np.generic]]], where: object = "") -> None:
    """Refuses weights that are not numbers.

    Raises:
        AtrousError: ``E-WEIGHTS-NAN``, with the first tensor that holds NaN or infinity.
    """
    for name, array in arrays:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int((~np.isfinite(array)).sum())
            raise AtrousError(
                "E-WEIGHTS-NAN",
                f"{name} holds {count} values that are NaN or infinite, of {array.size}",
                where=where,
                fix="the training that wrote it diverged; take an earlier checkpoint",
                exit_code=ExitCode.DATA,
            )


def _text(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "scalar"
