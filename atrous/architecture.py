"""What a network is, as data: the only place where its options are spelled."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from atrous.decoder import Refinement
from atrous.encoder.aspp import rates_at
from atrous.encoder.resnet import Stem

Head = Literal["aspp", "dense_prediction_cell", "lr_aspp"]
CLASSIFIER: Final = "global_pooling"  # what a classifier has in ASPP's place


@dataclass(frozen=True)
class Architecture:
    """What a network is, apart from its weights; `atrous.create_model` explains each field.

    The last four fields are for imported weights, which bring their own preprocessing, padding
    and epsilon (of the backbone's batch norms).
    """

    backbone: str
    num_classes: int
    output_stride: int = 16
    head: Literal[Head, "global_pooling"] = "aspp"
    separable: bool = True
    decoder_separable: bool | None = None
    image_pooling: bool = True
    atrous_rates: tuple[int, ...] | None = None
    multi_grid: tuple[int, ...] | None = None
    decoder: bool = True
    decoder_strides: tuple[int, ...] = (4,)
    reduced_channels: int | None = 48
    refine: tuple[Refinement, ...] = ((3, 256), (3, 256))
    depth_multiplier: float = 1.0
    in_channels: int = 3
    stem: Stem = "beta"
    relu_after_depthwise: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    one_sided_padding: int = 0
    epsilon: float | None = None

    def at_output_stride(self, output_stride: int) -> "Architecture":
        """Returns the same network at another stride; given ASPP rates follow it."""
        rates = self.atrous_rates
        if rates is not None:
            rates = rates_at([r * self.output_stride / 16 for r in rates], output_stride)
        return replace(self, output_stride=output_stride, atrous_rates=rates)


@dataclass(frozen=True)
class Training:
    """How weights were trained and scored; empty or None where nobody said."""

    recipe: str = ""
    data: str = ""
    initial_weights: str = ""
    steps: int | None = None
    batch_size: int | None = None
    crop_size: tuple[int, int] | None = None
    output_stride: int | None = None
    base_lr: float | None = None
    weight_decay: float | None = None
    batch_norm: str = ""
    seed: int | None = None
    mean_iou: float | None = None
    evaluated_on: str = ""


@dataclass
class Provenance:
    """Where weights come from: shown by reports, kept in every file made from them."""

    source: str = "random initialisation"
    sha256: str = ""
    licence: str = ""
    notes: list[str] = field(default_factory=list)
    training: Training | None = None


def as_tuple(value: Sequence[Any] | None) -> tuple[Any, ...] | None:
    """Returns a hashable copy of an optional sequence."""
    return None if value is None else tuple(value)
