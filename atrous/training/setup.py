"""What a run starts from: data sets, augmentation and network of a config, and its origin."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from atrous.architecture import Architecture, Provenance, Training
from atrous.build import create_classifier, create_model
from atrous.classes import ClassTable
from atrous.data.area_crop import AreaCrop
from atrous.data.dataset import Dataset
from atrous.data.formats.image_folder import open_image_folder
from atrous.data.opening import open_dataset
from atrous.data.scenes.procedural import scenes_split
from atrous.data.transforms import Augmentation
from atrous.errors import AtrousError, ExitCode, printable
from atrous.loading import load
from atrous.model import DeepLabV3Plus, Model
from atrous.training.config import TrainConfig
from atrous.weights.edit_classes import change_classes, graft

logger = logging.getLogger(__name__)

_COUNTED = 1000  # pictures whose classes are counted, at most


def open_data(config: TrainConfig) -> tuple[Dataset, Dataset]:
    """Returns the data sets to train and to evaluate on.

    Raises:
        AtrousError: Not recognised, empty, or the two have other classes.
    """
    if config.data == "scenes" and config.task == "segmentation":
        return scenes_split("train", config.seed), scenes_split("val")
    opened = open_image_folder if config.task == "classification" else open_dataset
    train_data: Dataset = opened(config.data, config.train_split)
    val_data: Dataset = opened(config.data, config.val_split)
    if train_data.classes != val_data.classes:
        different = sorted({*train_data.classes} ^ {*val_data.classes})[:10]
        raise AtrousError(
            "E-DATA-CLASSES",
            f"{config.train_split} and {config.val_split} have different classes"
            + (f": only one has {', '.join(map(printable, different))}" if different else ""),
            where=config.data,
            exit_code=ExitCode.DATA,
        )
    return train_data, val_data


def augmentation(config: TrainConfig) -> Augmentation | AreaCrop:
    """Returns how training samples are varied."""
    if config.task == "classification":
        return AreaCrop(config.crop_size, flip=config.flip, photometric=config.photometric)
    return Augmentation(
        crop_size=config.crop_size,
        scale_range=config.scale_range,
        scale_step=config.scale_step,
        flip=config.flip,
        photometric=config.photometric,
        rotation=config.rotation,
    )


def balanced(config: TrainConfig, data: Dataset) -> TrainConfig:
    """Returns the config with the class weights its `class_balance` asks for.

    They are normalised so that a pixel weighs 1 on average; a class that no picture shows weighs 1.
    Of large data sets, evenly spaced pictures are counted.
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


def create_network(config: TrainConfig, data: Dataset) -> Model:
    """Builds the network of a run, for the classes of its data.

    With `config.weights` a whole model, that is taken as it is, at the config's output stride, or
    what fits of it with `config.graft`; its classifier keeps the classes the data has too, by name.
    Of a classifier, and for one, the backbone is taken.

    Raises:
        AtrousError: No such weights, or of another backbone than the config's.
    """
    table = ClassTable(Path(config.data).stem, tuple(data.classes), tuple(data.palette))
    model: Model | None = None
    if config.task == "segmentation" and config.weights not in (None, "imagenet"):
        model = _continued(config, str(config.weights), table)
    if model is None:
        model = _from_backbone(config, table)
    model.provenance = origin(config, model.provenance)
    return model


def origin(config: TrainConfig, start: Provenance) -> Provenance:
    """Returns where the weights of a run come from; licence and notes of its start stay."""
    start_weights = start.source
    if start.sha256:
        start_weights += f" (SHA-256 {start.sha256})"
    training = Training(
        recipe=config.recipe,
        data=Path(config.data).name,
        initial_weights=start_weights,
        steps=config.steps,
        batch_size=config.batch_size,
        crop_size=config.crop_size,
        output_stride=config.output_stride,
        base_lr=config.base_lr,
        weight_decay=config.weight_decay,
        batch_norm=config.batch_norm,
        seed=config.seed,
    )
    source = f"atrous train {config.recipe}".rstrip()
    return Provenance(source, licence=start.licence, notes=start.notes, training=training)


def _from_backbone(config: TrainConfig, table: ClassTable) -> Model:
    """Builds a network whose backbone, at most, has weights."""
    model: Model
    if config.task == "classification":
        model = create_classifier(
            config.backbone,
            num_classes=len(table.classes),
            output_stride=config.output_stride,
            multi_grid=config.multi_grid,
            depth_multiplier=config.depth_multiplier,
            pretrained=config.weights,
        )
    else:
        model = create_model(
            num_classes=len(table.classes), pretrained=config.weights, **_shape(config)
        )
    if config.weights is not None:
        logger.info("%s: %s", config.weights, "; ".join(model.provenance.notes))
    model.name_classes(table)
    return model


def _shape(config: TrainConfig) -> dict[str, Any]:
    """Returns what the config says of the network, as `atrous.create_model` takes it."""
    return {
        "backbone": config.backbone,
        "output_stride": config.output_stride,
        "atrous_rates": config.atrous_rates,
        "multi_grid": config.multi_grid,
        "image_pooling": config.image_pooling,
        "separable": config.separable,
        "decoder": config.decoder,
        "decoder_strides": config.decoder_strides,
        "reduced_channels": config.reduced_channels,
        "refine": tuple((kernel, config.decoder_channels) for kernel in config.decoder_kernels),
        "depth_multiplier": config.depth_multiplier,
        "relu_after_depthwise": config.relu_after_depthwise,
    }


def _continued(config: TrainConfig, source: str, table: ClassTable) -> DeepLabV3Plus | None:
    """Goes on with a network for segmentation; None: the source is a classifier."""
    try:
        model = load(source)
    except AtrousError as error:
        if error.code == "E-MODEL-CLASSIFIER":
            return None
        raise
    if model.architecture.backbone != config.backbone:
        raise AtrousError(
            "E-CONFIG",
            f"the weights are of {model.architecture.backbone}, the config asks for "
            f"{config.backbone}",
            where=source,
            fix=f"--backbone {model.architecture.backbone}, or other weights",
        )
    if config.graft:
        shape = Architecture(num_classes=len(table.classes), **_shape(config))
        model, new = graft(model, shape)
        logger.info("%d weights start anew: %s", len(new), ", ".join(new) or "none")
    else:
        model.set_output_stride(config.output_stride)
    if model.classes == table.classes:
        model.name_classes(table)
    else:
        for row in change_classes(model, table):
            logger.info("classifier: %s", row)
    return model
