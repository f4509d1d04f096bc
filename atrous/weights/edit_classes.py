"""Changes a model's classes or its shape: fitting weights are copied, the rest is random."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from atrous.architecture import Architecture
from atrous.build import build
from atrous.classes import ClassTable, pascal_palette, plain_name
from atrous.decoder import classifier
from atrous.errors import AtrousError, unknown_name
from atrous.model import DeepLabV3Plus

Sources = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Row:
    """The origin of one class of a new classifier.

    Args:
        name: The new class.
        sources: Old classes. The new class gets the mean of their weights, or random weights if
            there are none.
        rest: Old classes that become part of the new one: a pixel of theirs is one of it.
    """

    name: str
    sources: tuple[str, ...]
    rest: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.name}: new, randomly initialised"
        if self.sources:
            kind = "copied from" if len(self.sources) == 1 else "mean of"
            text = f"{self.name}: {kind} {', '.join(self.sources)}"
        return text + (f"; also {', '.join(self.rest)}" if self.rest else "")


def change_classes(
    model: DeepLabV3Plus,
    classes: ClassTable | Sequence[str],
    *,
    mapping: Sources | None = None,
    reinit: bool = False,
    rest: str | None = None,
) -> tuple[Row, ...]:
    """Gives a model a classifier for other classes, in place.

    A new class takes the weights of the old class with the same name; case, spaces and punctuation
    do not matter. An entry of `mapping` names another old class, or several to merge, whose mean is
    taken. Two new classes may name the same old class, which splits it. A class without an old one
    gets random weights.

    Args:
        model: A model whose classes have names.
        classes: The new classes, with or without colours.
        mapping: New name -> old name or names.
        reinit: Give every class random weights.
        rest: A new class that takes in the old classes without a new one: its logit is the largest
            of its own and theirs. None: these classes are dropped, and their pixels go to the most
            similar new class.

    Returns:
        The origin of each new class, in order.

    Raises:
        AtrousError: Names that repeat, or names in `mapping` that do not exist.
    """
    table = classes if isinstance(classes, ClassTable) else _table(classes)
    rows = _plan(model.classes, table.classes, mapping or {}, reinit)
    if rest is not None and not reinit:
        rows = _with_rest(rows, rest, model.classes)
    further = _further_rows(rows, model)
    old = model.decoder.classifier
    new = classifier(old.in_channels, len(rows) + len(further))
    new = new.to(old.weight.device, old.weight.dtype)
    assert old.bias is not None
    assert new.bias is not None
    with torch.no_grad():
        for index, row in enumerate(rows):
            if row.sources:
                sources = [model.classes.index(name) for name in row.sources]
                new.weight[index] = old.weight[sources].mean(0)
                new.bias[index] = old.bias[sources].mean(0)
        if further:
            kept = [old_row for _, old_row in further]
            new.weight[len(rows) :], new.bias[len(rows) :] = old.weight[kept], old.bias[kept]
    extra_rows = tuple(index for index, _ in further)
    model.decoder.classifier, model.decoder.extra_rows = new.train(old.training), extra_rows
    model.architecture = replace(model.architecture, num_classes=len(rows), extra_rows=extra_rows)
    model.name_classes(table)
    model.provenance.notes.append("classes changed: " + "; ".join(map(str, rows)))
    return rows


def _with_rest(rows: tuple[Row, ...], rest: str, old: Sequence[str]) -> tuple[Row, ...]:
    """Gives the old classes that no row takes to the class `rest`."""
    if rest not in [row.name for row in rows]:
        raise unknown_name("new class", rest, [row.name for row in rows])
    taken = {source for row in rows for source in row.sources}
    others = tuple(name for name in old if name not in taken)
    return tuple(replace(row, rest=others) if row.name == rest else row for row in rows)


def _further_rows(rows: Sequence[Row], model: DeepLabV3Plus) -> list[tuple[int, int]]:
    """Returns new class and old row of each row after those of the new classes."""
    count = len(model.classes)
    owners = [*range(count), *model.architecture.extra_rows]
    return [
        (index, old_row)
        for index, row in enumerate(rows)
        for old_row, owner in enumerate(owners)
        if (name := model.classes[owner]) in row.rest or (old_row >= count and name in row.sources)
    ]


def graft(source: DeepLabV3Plus, architecture: Architecture) -> tuple[DeepLabV3Plus, list[str]]:
    """Builds a network of another shape that starts from the weights of a trained one.

    Tensors of the same name and shape are copied. In ASPP's projection, the columns of branches
    that the source lacks are zero, so that new branches change nothing at first. A decoder that the
    source lacks starts as the identity on the encoder's features, if it has as many filters: the
    new network then computes at first what the source computes. The source's classes,
    preprocessing, padding and epsilon are kept.

    At a finer output stride than the source's, image pooling keeps averaging the positions of the
    source's stride, so that the encoder's output there stays equal. The decoder starts as a
    smoothing by half a step of the encoder: the source interpolates its logits between positions,
    which hides single wrong ones.

    Args:
        source: The trained network.
        architecture: The shape of the new network. Its backbone must be the source's.

    Returns:
        The new network, and the names of its randomly initialised weights.

    Raises:
        AtrousError: The backbones differ.
    """
    old, new = source.architecture, architecture
    if (old.backbone, old.depth_multiplier) != (new.backbone, new.depth_multiplier):
        raise AtrousError(
            "E-GRAFT",
            f"the weights are of {old.backbone} (depth multiplier {old.depth_multiplier}), the new "
            f"network's backbone is {new.backbone} ({new.depth_multiplier})",
        )
    finer = new.output_stride < old.output_stride
    model = build(
        replace(
            new,
            pooling_stride=old.pooling_stride or (old.output_stride if finer else None),
            num_classes=old.num_classes,
            extra_rows=old.extra_rows,
            mean=old.mean,
            std=old.std,
            one_sided_padding=old.one_sided_padding,
            epsilon=old.epsilon,
        )
    )
    model.classes, model.palette = source.classes, source.palette
    model.provenance = replace(source.provenance, notes=list(source.provenance.notes))
    theirs = dict(source.state_dict())
    if old.decoder != new.decoder and not (new.decoder and _pass_on(model, smooth=finer)):
        # The classifier was trained on other features.
        theirs = {name: t for name, t in theirs.items() if not name.startswith("decoder.")}
    ours = model.state_dict()
    projection = "encoder.aspp.project.conv.weight"
    fitting = {n: t for n, t in theirs.items() if n in ours and ours[n].shape == t.shape}
    # The branches of the new ASPP start with those of the old one, in order, if these agree.
    kinds = [(a.head, a.image_pooling, a.separable) for a in (old, new)]
    if projection not in fitting and projection in theirs and kinds[0] == kinds[1]:
        wider, narrow = torch.zeros_like(ours[projection]), theirs[projection]
        wider[:, : narrow.shape[1]] = narrow[:, : wider.shape[1]]
        fitting[projection] = wider
    model.load_state_dict({**ours, **fitting})
    parameters = {name for name, _ in model.named_parameters()}
    return model, sorted(parameters - fitting.keys())


@torch.no_grad()
def _pass_on(model: DeepLabV3Plus, *, smooth: bool) -> bool:
    """Makes the decoder pass on the encoder's features; returns whether it can.

    With `smooth`, two depthwise 3x3 convolutions are binomial filters. Together they smooth with a
    standard deviation of one step of the decoder.
    """
    binomial = torch.tensor([0.25, 0.5, 0.25])
    channels, refine = model.encoder.aspp.channels, model.architecture.refine
    if not refine or any(filters != channels for _, filters in refine):
        return False
    for name, module in model.decoder.named_modules():
        if ".refine." not in name:
            continue
        if isinstance(module, nn.BatchNorm2d):  # exactly the identity, as for folded batch norm
            assert module.running_var is not None
            module.running_var.fill_(1 - module.eps)
        elif isinstance(module, nn.Conv2d):
            middle = module.kernel_size[0] // 2
            module.weight.zero_()
            taps = module.weight[:, :, middle, middle]
            taps.fill_diagonal_(1) if module.groups == 1 else taps.fill_(1)
            if smooth and module.groups > 1 and module.kernel_size == (3, 3):
                module.weight.copy_(torch.outer(binomial, binomial))
    return True


def _table(names: Sequence[str]) -> ClassTable:
    if len(set(names)) != len(names) or not names:
        raise AtrousError("E-CLASSES", f"class names must differ and be given: {', '.join(names)}")
    return ClassTable("given", tuple(names), pascal_palette(len(names)))


def _plan(
    old: Sequence[str], new: Sequence[str], mapping: Sources, reinit: bool
) -> tuple[Row, ...]:
    by_name = {plain_name(name): name for name in old}
    chosen = {name: [named] if isinstance(named, str) else named for name, named in mapping.items()}
    for name in chosen:
        if name not in new:
            raise unknown_name("new class", name, new)
    rows = []
    for name in new:
        sources = chosen.get(name, [name] if plain_name(name) in by_name else [])
        for source in sources:
            if plain_name(source) not in by_name:
                raise unknown_name("class of the model", source, old)
        rows.append(Row(name, () if reinit else tuple(by_name[plain_name(s)] for s in sources)))
    return tuple(rows)
