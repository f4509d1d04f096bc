"""A training run as data: `TrainConfig`, checked when made, kept as JSON in the run folder."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from atrous.architecture import Architecture
from atrous.errors import AtrousError, unknown_name
from atrous.schema import fits, tuples, type_name

_XCEPTION = Architecture("xception65", num_classes=0)

LOSSES = ("cross_entropy", "focal", "ohem", "dice", "lovasz")


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The defaults are the paper's, or the authors' code's where it is silent.

    `dataclasses.replace(config, steps=5)` changes a field; `config.changed(steps=5, decoder=False)`
    changes fields of the network too. The text after the first sentence of a field names the
    recipe, the table or the task that needs it.

    Args:
        recipe: Name of the recipe. The model card and every file made from the run show it.
        task: ``segmentation`` labels pixels, ``classification`` labels pictures. The recipe
            imagenet_xception65 trains a backbone as a classifier.
        data: Folder or YAML of the data set, or ``scenes``. Every recipe. A classifier reads
            folders of pictures: train/CLASS/, val/CLASS/.
        names: Classes to keep, such as cat,dog; or names to give. coco_xception65 keeps VOC's
            classes of COCO (``aeroplane=airplane``), all others become background. Where the data
            set has none of the names, they replace its own: road for 0/255 masks.
        train_split: Split to train on. voc_xception65 needs trainaug.
        val_split: Split to evaluate on; ``fifth``: a fifth of the training split. finetune holds
            a fifth out where a data set has one split; the names of the pictures decide which.
        crop_size: Height,width of training crops. Paper: 513 and 769; scenes takes whole pictures.
        scale_range: Smallest,largest random scale. Paper: 0.5 to 2; camvid and voc_animals differ.
        flip: Probability of a left-right flip. Text and road signs need 0.
        photometric: Probability of each change of colour. camvid.
        weights: Model, run folder, imagenet or none to start from. Every recipe of the paper starts
            from ImageNet; finetune starts from a built-in model. A classifier gives its backbone.
        graft: Take the weights that fit, start the rest anew. camvid and voc_animals add a decoder
            to networks that have none.
        dropped_to_background: Pixels that the start takes for a class that the data lack are
            background at first. finetune: the start knows more than the data.
        first_fit: Fit the classifier to the features of the start before training. finetune: new
            classes.
        network: The network; `num_classes` comes from the data. See `atrous.create_model`.
        steps: Updates of the whole run, where the schedule ends. Every recipe.
        batch_size: Pictures per update, over all processes. Every recipe.
        accumulation: Parts an update is computed in, one after the other. For little memory.
        optimizer: ``sgd`` with momentum, ``nesterov``, or ``adamw``. The paper: sgd, on ImageNet
            nesterov; scenes and camvid: adamw.
        base_lr: Learning rate the schedule starts from. Every recipe.
        schedule: Shape of the learning rate over the steps. The paper: poly with power 0.9, on
            ImageNet staircase; scenes: cosine; constant is for runs whose end is not known.
        decay_steps: Updates between the steps of the staircase. imagenet_xception65.
        weight_decay: Of convolution weights, except depthwise ones. The paper: 4e-5, ResNet 1e-4.
        head_multiplier: Learning rate of all but the backbone, relative. camvid.
        bias_multiplier: Learning rate of biases, relative. The authors: 2, on ImageNet 1.
        freeze_backbone: Train only ASPP, decoder and classifier. voc_animals: few pictures.
        losses: Losses to add up, such as cross_entropy,0.5*dice. Also focal, ohem (hard pixels)
            and lovasz: for rare classes and thin objects.
        class_weights: One factor per class. `atrous data check` proposes them; empty: all 1.
        class_balance: Classes weigh as their share of the pixels to this negative power. camvid.
        batch_norm: Statistics of the batch, of all processes' batches, or frozen. The paper's
            recipes: sync; small batches: frozen.
        batch_norm_momentum: Weight of a batch in the running statistics. scenes and camvid: runs
            of some hundred steps; none: the authors' 0.0003 in Xception and head.
        average_decay: Decay of a moving average of the weights. camvid and voc_animals keep and
            evaluate the average; 0: off.
        clip_norm: Largest norm of the gradient. For losses that jump; 0: off.
        evaluate_every: Updates between evaluations. Every recipe; 0: only at the end.
        precision: Number format of the network. bf16 for GPUs and processors with bf16 units;
            fp16, with a loss scaler, for GPUs.
        gradient_checkpointing: Recompute the backbone's blocks. For little memory.
        deterministic: Refuse operations that do not repeat exactly. A GPU run that must resume
            bit for bit.
        device: Where to train. For machines whose GPU is busy.
        seed: Seed of weights, order, augmentation, dropout. Repeated runs of docs/ablations.md.
        workers: Processes that load pictures. For GPUs; 0: the training process loads them.
        cache_megabytes: Memory for decoded training pictures. scenes, camvid and voc_animals.
        save_every: Updates between checkpoints. imagenet_xception65: long steps, much to lose.
        samples: Validation pictures drawn at each evaluation. For a look at the progress.
        tensorboard: Write the scores as a TensorBoard file too. For users of TensorBoard.
        timeout: Seconds to wait for another process. Runs on several machines.
    """

    recipe: str = ""
    task: Literal["segmentation", "classification"] = "segmentation"
    data: str = "scenes"
    names: tuple[str, ...] = ()
    train_split: str = "train"
    val_split: str = "val"
    crop_size: tuple[int, int] = (513, 513)
    scale_range: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    photometric: float = 0.0
    weights: str | None = None
    graft: bool = False
    dropped_to_background: bool = False
    first_fit: bool = False
    network: Architecture = _XCEPTION
    steps: int = 30_000
    batch_size: int = 16
    accumulation: int = 1
    optimizer: Literal["sgd", "nesterov", "adamw"] = "sgd"
    base_lr: float = 0.007
    schedule: Literal["poly", "linear", "cosine", "staircase", "constant"] = "poly"
    decay_steps: int = 1
    weight_decay: float = 4e-5
    head_multiplier: float = 1.0
    bias_multiplier: float = 2.0
    freeze_backbone: bool = False
    losses: str = "cross_entropy"
    class_weights: tuple[float, ...] = ()
    class_balance: float = 0.0
    batch_norm: Literal["train", "frozen", "sync"] = "train"
    batch_norm_momentum: float | None = None
    average_decay: float = 0.0
    clip_norm: float = 0.0
    evaluate_every: int = 1000
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    deterministic: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    workers: int = 0
    cache_megabytes: int = 0
    save_every: int = 500
    samples: int = 4
    tensorboard: bool = False
    timeout: float = 120.0

    def __post_init__(self) -> None:
        _check_types(self)
        _check_types(self.network)
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(number is None or low <= number <= high for number in numbers):
                raise self._impossible(f"{name} must be {_range_text(low, high)}, not {value}")
        for problem, present in self._problems().items():
            if present:
                raise self._impossible(problem)
        if self.task == "classification":
            self._refuse_segmentation_options()

    def _problems(self) -> dict[str, bool]:
        """Returns what two values may contradict, and whether they do."""
        losses = parse_losses(self.losses)
        return {
            "batch_size must be a multiple of accumulation": self.batch_size % self.accumulation
            != 0,
            "scale_range must not fall": self.scale_range[0] > self.scale_range[1],
            "average_decay must be below 1": self.average_decay == 1,
            "factors of losses must be positive": not all(
                0 < factor < math.inf for factor in losses.values()
            ),
            "class_weights must not all be 0": bool(self.class_weights)
            and not any(self.class_weights),
            "names must be different and not empty": len(set(self.names)) < len(self.names)
            or "" in self.names,
            "in_channels follows the channels of the data": self.network.in_channels
            != (len(self.network.channels) or 3),
            "data, train_split and val_split must not be empty": not all(
                (self.data, self.train_split, self.val_split)
            ),
        }

    def _refuse_segmentation_options(self) -> None:
        """Refuses options that would silently have no effect on a classifier."""
        default = type(self)()
        for name in ("graft", "scale_range", "class_balance", "names"):
            if getattr(self, name) != getattr(default, name):
                raise self._impossible(f"{name} is an option of segmentation")
        for name, value in vars(self.network).items():
            if name not in OF_CLASSIFIERS and value != getattr(default.network, name):
                raise self._impossible(f"{name} is an option of segmentation")

    def _impossible(self, what: str) -> AtrousError:
        return AtrousError("E-CONFIG", what, where=self.recipe)

    def changed(self, **changes: Any) -> "TrainConfig":
        """Returns the config with other values, those of the network among them.

        >>> TrainConfig().changed(steps=5, output_stride=8).network.output_stride
        8

        Raises:
            AtrousError: An unknown name, with the nearest known ones, or an impossible value.
        """
        own, networks = _names(TrainConfig), _names(Architecture)
        for name in changes:
            if name not in own and name not in networks:
                raise unknown_name("option", name, [*own, *networks])
        network = changes.pop("network", self.network)
        inside = {name: changes.pop(name) for name in networks if name in changes}
        if inside:
            network = replace(network, **inside)
        return replace(self, network=network, **changes)

    @property
    def measures(self) -> Mapping[str, str]:
        """The two scores of an evaluation with their names; the first decides the best model."""
        if self.task == "classification":
            return {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}
        return {"mean_iou": "mean IoU", "pixel_accuracy": "pixel accuracy"}


# Fields of the network that a classifier has too.
OF_CLASSIFIERS = ("backbone", "num_classes", "output_stride", "multi_grid", "depth_multiplier")

_TINY = 1e-300  # the smallest number that counts as positive
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(
        ("steps", "batch_size", "accumulation", "decay_steps", "save_every", "crop_size"),
        (1, math.inf),
    ),
    **dict.fromkeys(
        ("weight_decay", "clip_norm", "evaluate_every", "seed", "cache_megabytes", "samples",
         "class_weights"),
        (0, math.inf),
    ),
    **dict.fromkeys(("base_lr", "head_multiplier", "bias_multiplier"), (_TINY, math.inf)),
    **dict.fromkeys(("flip", "photometric", "class_balance", "average_decay"), (0, 1)),
    "batch_norm_momentum": (_TINY, 1),
    "scale_range": (_TINY, 100),
    "timeout": (_TINY, 1e7),
    "workers": (0, 1024),
}  # fmt: skip

# Fields that may change when a run resumes, because they do not change what the run computes.
SAFE_TO_CHANGE = frozenset(
    ("workers", "cache_megabytes", "save_every", "samples", "tensorboard", "timeout")
)

# Options of version 0.1 that are constants now.
_FIXED = {
    "rotation": 0.0, "scale_step": 0.25, "power": 0.9, "decay_rate": 0.94, "slow_start_steps": 0,
    "momentum": 0.9, "focal_gamma": 2.0, "top_k": 1.0, "ohem_threshold": 0.7, "recalibration": 0,
    "compile": False,
}  # fmt: skip
# Options of version 0.1 that had no effect by themselves, or none on the weights.
_WITHOUT_EFFECT = ("keep", "slow_start_lr", "mining_steps")


def parse_losses(text: str) -> dict[str, float]:
    """Reads the `losses` field.

    >>> parse_losses("cross_entropy,0.5*dice")
    {'cross_entropy': 1.0, 'dice': 0.5}

    Raises:
        AtrousError: An unknown loss, or a factor that is not a number.
    """
    losses = {}
    for term in text.split(","):
        factor, _, name = term.strip().rpartition("*")
        if name not in LOSSES:
            raise unknown_name("loss", name, LOSSES)
        try:
            losses[name] = float(factor or 1)
        except ValueError:
            raise AtrousError("E-CONFIG", f"not a factor of a loss: {factor!r}") from None
    return losses


def differences(old: TrainConfig, new: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Returns the fields that differ, the network's among them, with the old and the new value."""
    a, b = ({**vars(config), **vars(config.network)} for config in (old, new))
    return {name: (a[name], b[name]) for name in a if name != "network" and a[name] != b[name]}


def to_json(config: TrainConfig) -> str:
    """Returns the config as JSON."""
    content = asdict(config)
    del content["network"]["num_classes"]  # the data set decides
    return json.dumps(content, indent=1)


def from_json(text: str, *, where: object = "") -> TrainConfig:
    """Reads a config that `to_json` wrote, of this version or of 0.1, whose form was flat.

    Raises:
        AtrousError: The text is not JSON, or holds an unknown field or an impossible value.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not an object")
        network = values.pop("network", {})
        if not isinstance(network, dict):
            raise ValueError("network is not an object")
    except ValueError as error:
        raise AtrousError("E-CONFIG", f"not a readable config: {error}", where=where) from None
    flat = {name: tuples(value) for name, value in {**values, **network}.items()}
    return TrainConfig().changed(**_from_version_0_1(flat, where))


def _from_version_0_1(values: dict[str, Any], where: object) -> dict[str, Any]:
    """Returns the values of a config under the names of this version."""
    kernels, channels = values.pop("decoder_kernels", ()), values.pop("decoder_channels", 256)
    if kernels:
        values["refine"] = tuple((kernel, channels) for kernel in kernels)
    if values.pop("nesterov", False):
        values["optimizer"] = "nesterov"
    if values.get("schedule") == "poly" and values.get("power") == 1:
        del values["power"]
        values["schedule"] = "linear"
    for name in _WITHOUT_EFFECT:
        values.pop(name, None)
    for name, constant in _FIXED.items():
        if values.pop(name, constant) != constant:
            raise AtrousError(
                "E-CONFIG-OLD",
                f"the config sets {name}, which is always {constant} in this version",
                where=where,
                fix="resume the run with atrous 0.1, or start a new run from its weights: "
                "--weights RUN",
            )
    return values


def read_config(path: Path) -> TrainConfig:
    """Reads the config of a run folder.

    Raises:
        AtrousError: The file is missing or broken.
    """
    if not path.is_file():
        raise AtrousError("E-RUN", "not a run folder: no config.json", where=path.parent)
    return from_json(path.read_text(encoding="utf-8"), where=path)


def _names(record: type) -> list[str]:
    return [field.name for field in fields(record)]


def _range_text(low: float, high: float) -> str:
    least = "positive" if low == _TINY else f"at least {low:g}"
    return least if high == math.inf else f"{least} and at most {high:g}"


def _check_types(record: Any) -> None:
    """Raises AtrousError unless every value has its field's type."""
    for name, hint in get_type_hints(type(record)).items():
        value = getattr(record, name)
        if not fits(value, hint):
            raise AtrousError("E-CONFIG", f"{name} = {value!r} is not {type_name(hint)}")
