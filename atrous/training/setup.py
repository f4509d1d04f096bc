"""The network of a run: built for the classes of the data, with the weights the run starts from."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from atrous.architecture import Provenance, Training
from atrous.build import build, create_classifier, create_model, with_bands
from atrous.classes import ClassTable, plain_name
from atrous.data.dataset import Dataset
from atrous.engines import built_in
from atrous.errors import AtrousError
from atrous.loading import load
from atrous.model import DeepLabV3Plus, Model
from atrous.training.config import OF_CLASSIFIERS, TrainConfig
from atrous.training.recipes import RECIPES
from atrous.weights.edit_classes import change_classes, graft

logger = logging.getLogger(__name__)

# Fields of a network that come with imported weights. `create_model` does not take them.
_IMPORTED = (
    "num_classes",
    "mean",
    "std",
    "one_sided_padding",
    "epsilon",
    "rates_at_16",
    "pooling_stride",
    "extra_rows",
)


def create_network(config: TrainConfig, data: Dataset) -> Model:
    """Builds the network of a run, for the classes of its data.

    A whole model as `config.weights` is used as it is, at the config's output stride; with
    `config.graft`, the weights that fit the config's network are copied into it. Its classifier
    keeps the classes that the data has too, by name. A classifier gives and takes the backbone.

    Raises:
        AtrousError: The weights are missing, or belong to another backbone than the config's.
    """
    _check_weights_exist(config)
    table = ClassTable(Path(config.data).stem, tuple(data.classes), tuple(data.palette))
    model: Model | None = None
    if config.task == "segmentation" and config.weights not in (None, "imagenet"):
        model = _continued(config, str(config.weights), table)
    if model is None:
        model = _from_backbone(config, table)
    model.provenance = origin(config, model.provenance)
    return model


def _check_weights_exist(config: TrainConfig) -> None:
    """Asks for the run a recipe starts from: its weights then are the name of a recipe."""
    name = config.weights
    if name in RECIPES and built_in.find(name) is None and not Path(name).exists():
        raise AtrousError(
            "E-WEIGHTS-RUN",
            f"{config.recipe or 'the run'} starts from a run of the recipe {name}",
            fix="--weights RUN, the folder of that run (or --weights imagenet, or none)",
        )


def origin(config: TrainConfig, start: Provenance) -> Provenance:
    """Returns where the weights of a run come from; licence and notes of its start stay."""
    start_weights = start.source
    if start.sha256:
        start_weights += f" (SHA-256 {start.sha256})"
    training = Training(
        recipe=config.recipe,
        data=Path(config.data).name,
        initial_weights=start_weights,
        output_stride=config.network.output_stride,
        **{
            name: getattr(config, name)
            for name in ("steps", "batch_size", "crop_size", "base_lr", "weight_decay",
                         "batch_norm", "seed")
        },
    )  # fmt: skip
    source = f"atrous train {config.recipe}".rstrip()
    return Provenance(source, licence=start.licence, notes=start.notes, training=training)


def _from_backbone(config: TrainConfig, table: ClassTable) -> Model:
    """Builds a network of which at most the backbone has trained weights."""
    options: dict[str, Any] = {
        name: value for name, value in vars(config.network).items() if name not in _IMPORTED
    }
    options.update(num_classes=len(table.classes), pretrained=config.weights)
    if config.network.channels:
        options.update(mean=config.network.mean, std=config.network.std)
    model: Model
    if config.task == "classification":
        names = (*OF_CLASSIFIERS, "pretrained")
        model = create_classifier(**{name: options[name] for name in names})
    else:
        model = create_model(**options)
    if config.weights is not None:
        logger.info("%s: %s", config.weights, "; ".join(model.provenance.notes))
    model.name_classes(table)
    return model


def _continued(config: TrainConfig, source: str, table: ClassTable) -> DeepLabV3Plus | None:
    """Loads a network for segmentation; None: the source is a classifier."""
    try:
        model = load(source)
    except AtrousError as error:
        if error.code in ("E-MODEL-CLASSIFIER", "E-WEIGHTS-HEAD"):
            return None
        raise
    if model.architecture.backbone != config.network.backbone:
        raise AtrousError(
            "E-CONFIG",
            f"the weights are of {model.architecture.backbone}, the config asks for "
            f"{config.network.backbone}",
            where=source,
            fix=f"--backbone {model.architecture.backbone}, or other weights",
        )
    model = with_bands(model, config.network, build)
    if config.graft:
        shape = replace(config.network, num_classes=len(table.classes))
        model, new = graft(model, shape)
        logger.info("%d weights start anew: %s", len(new), ", ".join(new) or "none")
    else:
        model.set_output_stride(config.network.output_stride)
    if model.classes == table.classes:
        model.name_classes(table)
    else:
        background = [name for name in table.classes if plain_name(name) == "background"]
        rest = background[0] if background and config.dropped_to_background else None
        for row in change_classes(model, table, rest=rest):
            logger.info("classifier: %s", row)
    return model
