"""A model for other classes: what it knows of them is copied by name, the rest starts anew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from atrous.classes import ClassTable, pascal_palette, plain_name
from atrous.decoder import classifier
from atrous.errors import AtrousError, unknown_name
from atrous.model import DeepLabV3Plus

Sources = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Row:
    """Where one class of a new classifier comes from.

    Args:
        name: The new class.
        sources: Old classes whose mean it is; none: it is randomly initialised.
    """

    name: str
    sources: tuple[str, ...]

    def __str__(self) -> str:
        if not self.sources:
            return f"{self.name}: new, randomly initialised"
        if len(self.sources) == 1:
            return f"{self.name}: copied from {self.sources[0]}"
        return f"{self.name}: mean of {', '.join(self.sources)}"


def change_classes(
    model: DeepLabV3Plus,
    classes: ClassTable | Sequence[str],
    *,
    mapping: Sources | None = None,
    reinit: bool = False,
) -> tuple[Row, ...]:
    """Gives a model a classifier for other classes, in place.

    A class takes the row of the old one with its name (case, spaces and punctuation aside); an
    entry of `mapping` names its source, or several that are merged: the mean of their rows. Naming
    one source for several classes splits it. Classes without a source are initialised as in a new
    model.

    Args:
        model: A model whose classes have names.
        classes: The new ones, with colours or without.
        mapping: New name -> old name or names.
        reinit: Copy nothing.

    Returns:
        Where each new class comes from, in order.

    Raises:
        AtrousError: Names that repeat, or that `mapping` has and nobody else.
    """
    table = classes if isinstance(classes, ClassTable) else _table(classes)
    rows = _plan(model.classes, table.classes, mapping or {}, reinit)
    old = model.decoder.classifier
    new = classifier(old.in_channels, len(rows)).to(old.weight.device, old.weight.dtype)
    assert old.bias is not None
    assert new.bias is not None
    with torch.no_grad():
        for index, row in enumerate(rows):
            if row.sources:
                sources = [model.classes.index(name) for name in row.sources]
                new.weight[index] = old.weight[sources].mean(0)
                new.bias[index] = old.bias[sources].mean(0)
    model.decoder.classifier = new.train(old.training)
    model.architecture = replace(model.architecture, num_classes=len(rows))
    model.name_classes(table)
    model.provenance.notes.append("classes changed: " + "; ".join(map(str, rows)))
    return rows


def _table(names: Sequence[str]) -> ClassTable:
    if len(set(names)) != len(names) or not names:
        raise AtrousError("E-CLASSES", f"class names must differ and be given: {', '.join(names)}")
    return ClassTable("given", tuple(names), pascal_palette(len(names)))


def _plan(
    old: Sequence[str], new: Sequence[str], mapping: Sources, reinit: bool
) -> tuple[Row, ...]:
    by_name = {plain_name(name): name for name in old}
    chosen = {name: _as_names(sources) for name, sources in mapping.items()}
    for name in chosen:
        if name not in new:
            raise unknown_name("new class", name, new)
    rows = []
    for name in new:
        sources = chosen.get(name, (name,) if plain_name(name) in by_name else ())
        for source in sources:
            if plain_name(source) not in by_name:
                raise unknown_name("class of the model", source, old)
        rows.append(Row(name, () if reinit else tuple(by_name[plain_name(s)] for s in sources)))
    return tuple(rows)


def _as_names(sources: str | Sequence[str]) -> tuple[str, ...]:
    return (sources,) if isinstance(sources, str) else tuple(sources)
