"""Matches the classes of a data set to the classes of a model."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.classes import Color, plain_name
from atrous.errors import AtrousError, DataError, listed, unknown_name

logger = logging.getLogger(__name__)

LACKING_RULE = (
    "labels of classes the model lacks count as other classes: whatever is predicted there is "
    "wrong, a false positive of the predicted class; they have no score of their own"
)


class ClassMatch(NamedTuple):
    """The classes that are counted: the model's, then the data's classes that the model lacks.

    Args:
        classes: Names by index.
        palette: Colours by index.
        lacking: The classes at the end of `classes` that the model cannot predict.
        values: Class index for each label value of the data, (65536,); None: values are indices.
        rule: "by name" or "by index".
        chosen: Indices to average over; None: all.
    """

    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    lacking: tuple[str, ...]
    values: NDArray[Any] | None
    rule: str
    chosen: tuple[int, ...] | None


def match_classes(
    dataset: Any, classes: tuple[str, ...], palette: tuple[Color, ...], chosen: Sequence[str] | None
) -> ClassMatch:
    """Matches the classes of labelled pictures to a model's, by name where names agree.

    Case, spaces and punctuation do not matter. If no names agree but the numbers of classes do,
    classes are matched by index and keep the data's names. Pixels of classes that the model lacks
    count as errors (`LACKING_RULE`) if the data has all classes of the model, or all of `chosen`.

    Args:
        dataset: Labelled pictures. A data set without `classes` is assumed to have the model's.
        classes: The model's, in the order of its logits.
        palette: Their colours.
        chosen: Names to average over; None: all the model has.

    Raises:
        AtrousError: An unknown class name in `chosen`, or classes that cannot be matched.
    """
    theirs: tuple[str, ...] = tuple(getattr(dataset, "classes", classes))
    if theirs == classes:
        return ClassMatch(classes, palette, (), None, "by index", _indices(chosen, classes))
    ours = {plain_name(name): index for index, name in enumerate(classes)}
    found = [ours.get(plain_name(name)) for name in theirs]
    if len(theirs) == len(classes) and all(f in (None, i) for i, f in enumerate(found)):
        if None in found:
            logger.warning(
                "class names differ and are matched by index: %s (data), %s (model)",
                theirs, classes,
            )  # fmt: skip
        return ClassMatch(theirs, palette, (), None, "by index", _indices(chosen, theirs))
    lacking = tuple(name for name, index in zip(theirs, found, strict=True) if index is None)
    indices = _indices(chosen, classes)
    if lacking:
        _check_common(theirs, classes, {i for i in found if i is not None}, lacking, indices)
        logger.warning(
            "the model lacks %d of the data's %d classes; their pixels count as errors: %s",
            len(lacking), len(theirs), ", ".join(lacking),
        )  # fmt: skip
        indices = indices or tuple(range(len(classes)))
    else:
        logger.warning("the data's classes are matched to the model's by name")
    everything = classes + lacking
    dtype = np.uint8 if len(everything) <= 255 else np.uint16
    values = np.full(65536, np.iinfo(dtype).max, dtype)
    beyond = iter(range(len(classes), len(everything)))
    values[: len(theirs)] = [next(beyond) if index is None else index for index in found]
    colors = _colors(dataset, classes, palette, values) if lacking else palette
    return ClassMatch(everything, colors, lacking, values, "by name", indices)


def _check_common(
    theirs: tuple[str, ...], classes: tuple[str, ...], common: set[int],
    lacking: tuple[str, ...], chosen: tuple[int, ...] | None,
) -> None:  # fmt: skip
    """Raises `AtrousError` unless the data has all classes that are averaged over."""
    wanted = range(len(classes)) if chosen is None else chosen
    if common.issuperset(wanted):
        return
    names = ",".join(classes[index] for index in sorted(common))
    raise DataError(
        "E-CLASSES",
        f"the data has {len(theirs)} classes and the model {len(classes)}; "
        f"the model does not know {listed(lacking)}, and the data does not know "
        f"{listed(classes[index] for index in wanted if index not in common)}",
        fix=f"average over classes that both have: {names}"
        if common
        else "evaluate on data with the model's classes, or describe the data in a YAML file that "
        "maps its labels to them",
    )


def _colors(
    dataset: Any, classes: tuple[str, ...], palette: tuple[Color, ...], values: NDArray[Any]
) -> tuple[Color, ...]:
    """Returns the palette: the data's colour where it has one, since two palettes may collide."""
    theirs = tuple(getattr(dataset, "palette", ())) or ((128, 128, 128),) * len(dataset.classes)
    colors = dict(enumerate(palette)) | dict(zip(values.tolist(), theirs, strict=False))
    return tuple(colors[index] for index in range(len(colors)))


def _indices(names: Sequence[str] | None, known: tuple[str, ...]) -> tuple[int, ...] | None:
    if names is None:
        return None
    for name in names:
        if name not in known:
            raise unknown_name("class", name, known)
    if not names:
        raise AtrousError("E-CLASSES", "no classes to average over")
    return tuple(known.index(name) for name in names)
