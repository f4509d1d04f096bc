"""What a training run is: one frozen record, checked when made, kept as JSON with the run."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from atrous.errors import AtrousError, unknown_name

LOSSES = ("cross_entropy", "focal", "ohem", "dice", "lovasz")


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The defaults are the authors' (their code's, where the paper is silent).

    Args:
        recipe: Name of the recipe this comes from.
        task: ``segmentation``: a class for every pixel; ``classification``: one for the whole
            picture, to train a backbone (backbone, global average pooling, logits).
        data: Devkit root, dataset YAML, or ``scenes`` for painted landscapes made on the fly; to
            classify, a folder with a folder of pictures for each class: train/CLASS/, val/CLASS/.
        train_split: Split to train on.
        val_split: Split to evaluate on.
        weights: What to start from: a model file, a built-in name or a run folder; ``imagenet``
            for the backbone's published ImageNet weights; None for random weights. Of a
            classifier, and for one, the backbone is taken.
        graft: Take of `weights` what fits a network of this config's shape, and start the rest
            anew, instead of going on with the network as it is.
        backbone: As `atrous.create_model`, like the next fields.
        output_stride: In training; a trained model can be evaluated at any other.
        atrous_rates: Rates of ASPP at this stride; None: (6, 12, 18) at 16, in proportion.
        multi_grid: Rates in the last block; None: the family's own.
        image_pooling: The image-level branch of ASPP.
        separable: Depthwise separable convolutions in ASPP and decoder.
        decoder: The paper's decoder, or bilinear upsampling.
        decoder_strides: Where to decode, descending.
        decoder_kernels: Kernel size of each of the decoder's refining convolutions.
        decoder_channels: Filters of each of them.
        reduced_channels: Channels of the decoder's reduced low-level features.
        depth_multiplier: Scales the channels of MobileNetV2.
        relu_after_depthwise: In Xception, the ReLUs of the paper's text.
        steps: Updates of the whole run; the schedule ends there.
        batch_size: Pictures per update, over all processes and accumulated parts.
        accumulation: Parts an update's pictures are computed in, one after the other.
        crop_size: (height, width) of training crops; to classify, also of validation pictures.
        scale_range: Smallest and largest random scale.
        scale_step: Distance of the equally likely scales; 0: any.
        flip: Probability of a left-right flip.
        photometric: Probability of each change of colour.
        rotation: Largest rotation in degrees.
        optimizer: ``sgd`` with momentum, or ``adamw``.
        base_lr: Learning rate after the slow start.
        schedule: ``poly``, ``cosine``, ``staircase`` or ``constant``.
        power: Of the polynomial.
        decay_rate: Factor of each step of the staircase.
        decay_steps: Updates between its steps.
        slow_start_steps: First updates, at a constant `slow_start_lr`.
        slow_start_lr: Their learning rate.
        momentum: Of SGD; the first beta of AdamW.
        nesterov: Nesterov's momentum (SGD).
        weight_decay: Of weights of convolutions, not of depthwise ones.
        head_multiplier: Learning rate of ASPP, decoder and classifier relative to the backbone's.
        freeze_backbone: Train ASPP, decoder and classifier only. The backbone stays as it is, its
            statistics too: for few pictures, and twice as fast.
        bias_multiplier: Learning rate of biases relative to weights.
        losses: Losses to add up, comma-separated: cross_entropy, focal, ohem, dice, lovasz; each
            may have a factor: ``cross_entropy,0.5*dice``.
        class_weights: A factor a class; empty: all 1, or what `class_balance` says.
        class_balance: Exponent b: classes weigh as their share of the training pixels to the
            power of -b, so 0: all alike, 1: rare classes as much in all as frequent ones.
        focal_gamma: Exponent of the focal loss.
        top_k: Share of hardest pixels cross_entropy keeps; 1: all.
        mining_steps: Updates over which that share falls from 1 to `top_k`.
        ohem_threshold: Pixels less sure than this count in the ohem loss.
        batch_norm: ``train``: statistics of each process's batch; ``sync``: of all processes;
            ``frozen``: the running ones, which stay.
        batch_norm_momentum: Weight of a batch in the running statistics; None: the authors'
            (0.0003 in Xception and head), made for long runs.
        recalibration: Batches of training pictures that replace the running statistics before
            each evaluation; 0: off.
        average_decay: Decay of an exponential moving average of the weights, which is then what
            is evaluated and kept; 0: off.
        clip_norm: Largest norm of the gradient; 0: off.
        precision: ``fp32``, ``bf16``, or ``fp16`` with a loss scaler.
        gradient_checkpointing: Recompute the backbone's blocks in the backward pass: less memory.
        compile: Run the network through torch.compile.
        deterministic: Refuse operations that are not reproducible on the device.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Of weights, order, augmentation and dropout.
        workers: Processes that load pictures; 0: the training process itself.
        cache_megabytes: Memory for decoded training pictures.
        evaluate_every: Updates between evaluations; 0: only at the end.
        save_every: Updates between checkpoints.
        keep: Newest checkpoints to keep.
        samples: Validation pictures drawn at each evaluation (segmentation).
        tensorboard: Also write the scores as an event file that TensorBoard shows.
        timeout: Seconds without a sign of life of another process before giving up.
    """

    recipe: str = ""
    task: Literal["segmentation", "classification"] = "segmentation"
    data: str = "scenes"
    train_split: str = "train"
    val_split: str = "val"
    weights: str | None = None
    graft: bool = False
    backbone: str = "xception65"
    output_stride: int = 16
    atrous_rates: tuple[int, ...] | None = None
    multi_grid: tuple[int, ...] | None = None
    image_pooling: bool = True
    separable: bool = True
    decoder: bool = True
    decoder_strides: tuple[int, ...] = (4,)
    decoder_kernels: tuple[int, ...] = (3, 3)
    decoder_channels: int = 256
    reduced_channels: int | None = 48
    depth_multiplier: float = 1.0
    relu_after_depthwise: bool = False
    steps: int = 30_000
    batch_size: int = 16
    accumulation: int = 1
    crop_size: tuple[int, int] = (513, 513)
    scale_range: tuple[float, float] = (0.5, 2.0)
    scale_step: float = 0.25
    flip: float = 0.5
    photometric: float = 0.0
    rotation: float = 0.0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    base_lr: float = 0.007
    schedule: Literal["poly", "cosine", "staircase", "constant"] = "poly"
    power: float = 0.9
    decay_rate: float = 0.94
    decay_steps: int = 1
    slow_start_steps: int = 0
    slow_start_lr: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 4e-5
    head_multiplier: float = 1.0
    freeze_backbone: bool = False
    bias_multiplier: float = 2.0
    losses: str = "cross_entropy"
    class_weights: tuple[float, ...] = ()
    class_balance: float = 0.0
    focal_gamma: float = 2.0
    top_k: float = 1.0
    mining_steps: int = 0
    ohem_threshold: float = 0.7
    batch_norm: Literal["train", "frozen", "sync"] = "train"
    batch_norm_momentum: float | None = None
    recalibration: int = 0
    average_decay: float = 0.0
    clip_norm: float = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    compile: bool = False
    deterministic: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    workers: int = 0
    cache_megabytes: int = 0
    evaluate_every: int = 1000
    save_every: int = 500
    keep: int = 2
    samples: int = 4
    tensorboard: bool = False
    timeout: float = 120.0

    def __post_init__(self) -> None:
        parse_losses(self.losses)
        hints = get_type_hints(type(self))
        for name, value in _values(self).items():
            _check_type(name, value, hints[name])
        problems = {
            "steps, batch_size and accumulation are at least 1": min(
                self.steps, self.batch_size, self.accumulation, self.save_every, self.keep
            )
            < 1,
            "batch_size must be a multiple of accumulation": self.batch_size
            % max(1, self.accumulation)
            != 0,
            "base_lr must be positive": self.base_lr <= 0,
            "top_k must be above 0 and at most 1": not 0 < self.top_k <= 1,
            "class_balance must be between 0 and 1": not 0 <= self.class_balance <= 1,
            "average_decay must be at least 0 and below 1": not 0 <= self.average_decay < 1,
            "slow_start_steps must be below steps": not 0 <= self.slow_start_steps < self.steps,
            "top_k is for cross_entropy": self.top_k < 1
            and "cross_entropy" not in parse_losses(self.losses),
            "a frozen batch norm is not recalibrated": self.batch_norm == "frozen"
            and self.recalibration > 0,
            "decay_rate must be above 0 and at most 1": not 0 < self.decay_rate <= 1,
            "decay_steps must be at least 1": self.decay_steps < 1,
            "nesterov is for sgd with momentum": self.nesterov
            and (self.optimizer != "sgd" or self.momentum <= 0),
        }
        if self.task == "classification":
            for name in _SEGMENTATION_ONLY:
                without_effect = getattr(self, name) != getattr(type(self), name)
                problems[f"{name} is an option of segmentation"] = without_effect
        for problem, present in problems.items():
            if present:
                raise AtrousError("E-CONFIG", problem, where=self.recipe)

    @property
    def measures(self) -> Mapping[str, str]:
        """The two scores an evaluation writes down, with their names in words.

        The first decides which model is the best.
        """
        if self.task == "classification":
            return {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}
        return {"mean_iou": "mean IoU", "pixel_accuracy": "pixel accuracy"}


# Options that would silently have no effect on a classifier.
_SEGMENTATION_ONLY = (
    "graft", "atrous_rates", "image_pooling", "separable", "decoder", "decoder_strides",
    "decoder_kernels", "decoder_channels", "reduced_channels", "relu_after_depthwise",
    "scale_range", "scale_step", "rotation", "class_balance",
)  # fmt: skip

# What may change when a run goes on: none of it changes what the run computes.
SAFE_TO_CHANGE = frozenset(
    ("workers", "cache_megabytes", "save_every", "keep", "samples", "tensorboard", "timeout")
)


def parse_losses(text: str) -> dict[str, float]:
    """Reads the `losses` field.

    >>> parse_losses("cross_entropy,0.5*dice")
    {'cross_entropy': 1.0, 'dice': 0.5}
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


def with_changes(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """Returns the config with some fields replaced; unknown names are errors with suggestions."""
    names = [field.name for field in fields(TrainConfig)]
    for name in changes:
        if name not in names:
            raise unknown_name("option", name, names)
    return replace(config, **changes)


def differences(old: TrainConfig, new: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Returns the fields that differ, each with the old and the new value."""
    a, b = _values(old), _values(new)
    return {name: (a[name], b[name]) for name in a if a[name] != b[name]}


def to_json(config: TrainConfig) -> str:
    """Returns the config as JSON."""
    return json.dumps(asdict(config), indent=1)


def from_json(text: str, *, where: object = "") -> TrainConfig:
    """Reads a config that `to_json` wrote.

    Raises:
        AtrousError: Not JSON, an unknown field, or an impossible value.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise AtrousError("E-CONFIG", f"not a readable config: {error}", where=where) from None
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return with_changes(TrainConfig(), lists)


def read_config(path: Path) -> TrainConfig:
    """Reads the config of a run folder.

    Raises:
        AtrousError: There is none, or it is broken.
    """
    if not path.is_file():
        raise AtrousError("E-RUN", "not a run folder: no config.json", where=path.parent)
    return from_json(path.read_text(), where=path)


def _values(config: TrainConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(config)}


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Raises AtrousError unless the value is what the field's type says."""
    if not _fits(value, hint):
        expected = str(hint).replace("typing.", "") if get_origin(hint) else hint.__name__
        raise AtrousError("E-CONFIG", f"{name} = {value!r} is not {expected}")


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_fits(value, option) for option in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    if hint is NoneType:
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
