"""The pictures of a run: data sets, the doctor's verdict, augmentation and class weights."""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atrous.classes import ClassTable
from atrous.data.area_crop import AreaCrop
from atrous.data.dataset import Dataset, FileDataset, Sample
from atrous.data.doctor.diagnosis import examine
from atrous.data.doctor.survey import survey
from atrous.data.formats.image_folder import open_image_folder
from atrous.data.formats.layout import Layout
from atrous.data.formats.pairing import Listing
from atrous.data.normalisation import measured
from atrous.data.opening import open_dataset, recognise
from atrous.data.scenes.procedural import scenes_split
from atrous.data.splitting import Subset, split_off
from atrous.data.transforms import Augmentation, for_channels
from atrous.errors import AtrousError, DataError, printable
from atrous.images.bands import PLAIN, Bands, bands_of
from atrous.training.config import TrainConfig
from atrous.training.renamed import Renamed, with_names

logger = logging.getLogger(__name__)

FIFTH = "fifth"  # the `val_split` that is held out of the training split
EXAMINED = 2000  # pictures of a split that the doctor reads before training, at most

_COUNTED = 1000  # pictures whose classes are counted, at most
_healthy: set[tuple[str, str]] = set()  # fingerprints of data the doctor has passed

Augment = Callable[[Any, Any], tuple[Any, Any]]


def open_data(config: TrainConfig) -> tuple[Dataset, Dataset]:
    """Returns the data sets to train and to evaluate on.

    Raises:
        AtrousError: A data set is not recognised or empty, or the two have different classes.
    """
    if config.data == "scenes" and config.task == "segmentation":
        return scenes_split("train", config.seed), scenes_split("val")
    if not Path(config.data).exists():
        raise AtrousError("E-DATA-MISSING", "no such data", where=config.data, fix="--data FOLDER")
    opened = open_image_folder if config.task == "classification" else open_dataset
    train_data: Dataset = opened(config.data, config.train_split)
    if config.val_split == FIFTH:
        return split_off(with_names(train_data, config.names))
    val_data: Dataset = opened(config.data, config.val_split)
    if train_data.classes != val_data.classes:
        different = sorted({*train_data.classes} ^ {*val_data.classes})[:10]
        raise DataError(
            "E-DATA-CLASSES",
            f"{config.train_split} and {config.val_split} have different classes"
            + (f": only one has {', '.join(map(printable, different))}" if different else ""),
            where=config.data,
        )
    return with_names(train_data, config.names), with_names(val_data, config.names)


def examine_data(
    config: TrainConfig, train_data: Dataset, val_data: Dataset, *, wanted: bool = True
) -> None:
    """Refuses data that `atrous data check` refuses, in its words; logs the doctor's warnings.

    Args:
        config: The run.
        train_data: Of a large split, the doctor reads evenly spaced pictures.
        val_data: The same.
        wanted: False: do nothing.

    Raises:
        AtrousError: The doctor found an error. The code is the finding's.
    """
    if not wanted or config.task == "classification":
        return
    splits = {"train": train_data, "val": val_data}
    files = {name: data for name, part in splits.items() if (data := _files(part)) is not None}
    identity = (train_data.fingerprint(), val_data.fingerprint())
    if "train" not in files or identity in _healthy:
        return
    by_path = Path(config.data).exists()
    first = files["train"]
    layout = Layout(
        recognise(config.data).kind if by_path else "data set",
        Path(config.data),
        ClassTable("data", tuple(first.classes), tuple(first.palette)),
        first.read_target,
        {name: partial(_thinned, data) for name, data in files.items()},
        bands=None if first.bands.plain else first.bands,
    )
    for finding in examine(survey(layout, tuple(files))).findings:
        if finding.level == "error":
            raise finding.as_error(config.data)
        if finding.level == "warning":
            logger.warning("%s [%s]", printable(finding.what), finding.code)
    _healthy.add(identity)


def _files(data: Dataset) -> FileDataset | None:
    """Returns the files of a data set; None where a data set has none, such as `scenes`."""
    if isinstance(data, Renamed):  # the doctor judges the classes the files have
        return _files(data.dataset)
    if isinstance(data, Subset):
        whole = _files(data.dataset)
        return whole and replace(whole, items=tuple(whole.items[i] for i in data.indices))
    return data if isinstance(data, FileDataset) else None


def _thinned(data: FileDataset) -> Listing:
    step = -(-len(data) // EXAMINED)
    if step > 1:
        logger.info("examining %d of %d pictures", len(data.items[::step]), len(data))
    # Opening a split gives an item its path as name; here it is opened a second time.
    return Listing(tuple(item._replace(name=item.key or item.name) for item in data.items[::step]))


def with_channels(config: TrainConfig, data: Dataset) -> TrainConfig:
    """Returns the config with a network for the channels of the data, and their normalisation.

    A dataset YAML gives the normalisation, or the training pictures are measured. A network that
    names the same channels already keeps its own: its weights were trained with it.
    """
    bands, known = bands_of(data), Bands.of(vars(config.network))
    if bands == PLAIN or (
        (known.names, known.dtype) == (bands.names, bands.dtype)
        and config.network.channels
        and known.mean
    ):
        return config
    mean, std = (bands.mean, bands.std) if bands.mean else measured(data)
    if not bands.mean:
        said = f"normalize: {{mean: {list(mean)}, std: {list(std)}}}"
        logger.info("measured over training pictures, the model keeps it: %s", said)
    return config.changed(
        in_channels=len(bands.names), channels=bands.names, bands=bands.sources,
        dtype=bands.dtype, preview=bands.preview, mean=mean, std=std,
    )  # fmt: skip


@dataclass(frozen=True)
class OwnAugmentation:
    """A user's augmentation of whole pictures, followed by the recipe's crop.

    During the call Python, NumPy and torch draw from states that the sample and the epoch decide,
    so that a run that resumes sees the same pictures.

    Args:
        augment: Maps picture (H, W, C) and target (H, W) to the two of another size.
        then: The recipe's augmentation.
    """

    augment: Augment
    then: Augmentation | AreaCrop

    def __call__(self, dataset: Dataset, index: int, rng: np.random.Generator) -> Sample:
        """Returns sample `index`, varied.

        Raises:
            AtrousError: `augment` returned something else than picture and target.
        """
        image, target = dataset[index]
        seeds = rng.integers(2**32, size=3).tolist()
        python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        with torch.random.fork_rng(devices=[]):
            random.seed(seeds[0])
            np.random.seed(seeds[1])  # noqa: NPY002
            torch.manual_seed(seeds[2])
            try:
                varied = self.augment(image, target)
            finally:
                random.setstate(python)
                np.random.set_state(numpy)  # noqa: NPY002
        sample = _checked(varied, Sample(image, target), len(dataset.classes))
        return self.then([sample], 0, rng)  # type: ignore[arg-type]  # a data set of one sample


def _checked(varied: Any, sample: Sample, num_classes: int) -> Sample:
    """Returns the result of a user's augmentation as a sample, or says what is wrong with it."""
    before, kind, channels = sample.target, sample.image.dtype, sample.image.shape[2]
    problem = "not a picture and a target"
    if isinstance(varied, tuple) and len(varied) == 2:
        image, target = np.asarray(varied[0]), np.asarray(varied[1])
        problem = ""
        if image.dtype != kind or image.ndim != 3 or image.shape[-1] != channels:
            problem = f"a picture of {image.dtype} {image.shape}, not of {kind} (H, W, {channels})"
        elif target.shape != image.shape[:2] or target.dtype.kind not in "ui":
            problem = f"a target of {target.dtype} {target.shape} for a picture of {image.shape}"
        else:
            labels = target[target != np.iinfo(before.dtype).max].astype(np.int64)
            wrong = labels[(labels < 0) | (labels >= num_classes)]
            problem = f"the label {wrong[0]} of {num_classes} classes" if len(wrong) else ""
    if problem:
        raise AtrousError(
            "E-AUGMENT",
            f"the augmentation returned {problem}",
            fix=f"return (image, target): {kind} (H, W, {channels}) and whole numbers (H, W)",
        )
    return Sample(np.ascontiguousarray(image), np.ascontiguousarray(target.astype(before.dtype)))


def augmentation(
    config: TrainConfig, augment: Augment | None = None
) -> Augmentation | AreaCrop | OwnAugmentation:
    """Returns how training samples are varied, a user's `augment` first."""
    then: Augmentation | AreaCrop
    if config.task == "classification":
        then = AreaCrop(config.crop_size, flip=config.flip, photometric=config.photometric)
    else:
        then = Augmentation(
            crop_size=config.crop_size,
            scale_range=config.scale_range,
            flip=config.flip,
            photometric=config.photometric,
        )
        if config.network.channels:
            then = for_channels(then, Bands.of(vars(config.network)))
    return then if augment is None else OwnAugmentation(augment, then)


def balanced(config: TrainConfig, data: Dataset) -> TrainConfig:
    """Returns the config with the class weights that its `class_balance` asks for.

    A pixel weighs 1 on average; a class without pixels weighs 1. Of large data sets, evenly spaced
    pictures are counted.
    """
    if not config.class_balance or config.class_weights:
        return config
    counts = np.zeros(len(data.classes), np.int64)
    for index in range(0, len(data), -(-len(data) // _COUNTED)):
        found = np.bincount(data[index].target.ravel(), minlength=len(counts))
        counts += found[: len(counts)]
    shares = counts / max(1, counts.sum())
    weights = np.ones(len(counts))
    weights[counts > 0] = shares[counts > 0] ** -config.class_balance
    weights[counts > 0] /= (weights * shares).sum()
    return replace(config, class_weights=tuple(weights.round(4).tolist()))
