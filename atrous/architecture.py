"""The options of a network, as data. No other file spells them, and no torch is needed here."""

from dataclasses import dataclass, field, fields, replace
from typing import Final, Literal, get_args

from atrous.encoder.strides import RATES_AT_STRIDE_16, check_output_stride, rates_at
from atrous.errors import AtrousError, unknown_name
from atrous.schema import tuples

Head = Literal["aspp", "dense_prediction_cell", "lr_aspp"]
CLASSIFIER: Final = "global_pooling"  # the head of a classifier of whole pictures

_XCEPTIONS = ("xception41", "xception65", "xception71")
_RESNETS = ("resnet50", "resnet101")
BACKBONES = (
    *_XCEPTIONS,
    *_RESNETS,
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
)
# The options that change the backbone's weights. Two backbones share weights if these agree.
BACKBONE_OPTIONS = ("depth_multiplier", "in_channels", "stem", "relu_after_depthwise")
# The options that say what a pixel is; the data decide them.
BAND_OPTIONS = ("in_channels", "channels", "bands", "dtype", "preview")


@dataclass(frozen=True)
class Architecture:
    """A network without its weights. `atrous.create_model` takes the same options.

    The defaults are the paper's. Lists are accepted where tuples are declared.

    Args:
        backbone: ``xception41``, ``xception65``, ``xception71``, ``resnet50``, ``resnet101``,
            ``mobilenet_v2``, ``mobilenet_v3_large``, ``mobilenet_v3_small``, or ``timm/<name>`` for
            a timm backbone that supports dilation.
        num_classes: Number of classes K; 0 if the data that decide it are not open yet. A network
            needs at least 1.
        output_stride: Pixels of the picture per step of the backbone's last features: 4, 8, 16 or
            32. `DeepLabV3Plus.set_output_stride` changes it later.
        head: ``aspp``, or what two later networks of the authors have in its place:
            ``dense_prediction_cell`` (Xception-71 on Cityscapes) and ``lr_aspp`` (MobileNetV3).
        separable: Depthwise separable 3x3 convolutions in ASPP and decoder (Table 5, "SC").
        decoder_separable: `separable` for the decoder alone; None: the same as `separable`.
        image_pooling: The image-level branch of ASPP.
        atrous_rates: Rates of ASPP's 3x3 branches at this output stride; None: (6, 12, 18) at
            stride 16 and in proportion at others; (): no such branches.
        multi_grid: Rates of the three units in the last block; None: (1, 2, 4) for ResNet,
            (1, 1, 1) for Xception.
        decoder: The paper's decoder; False: bilinear upsampling of the logits (DeepLabv3).
        decoder_strides: Strides of the low-level features to decode with, descending: (4,) is
            Conv2, (8, 4) is Conv3 and Conv2.
        reduced_channels: Channels of the low-level features after their 1x1 convolution (Table 1);
            None: they have no 1x1 convolution.
        refine: Kernel size and filters of each convolution after the concatenation (Table 2).
        depth_multiplier: Scales the channels of MobileNetV2.
        in_channels: Channels of the picture.
        stem: First layers of ResNet: ``beta`` is three 3x3 convolutions, ``plain`` one 7x7.
        relu_after_depthwise: In Xception, a ReLU after every depthwise convolution. The paper's
            text has it, the authors' released code does not.
        mean: Mean of the normalisation (x - mean) / std of the pixels, one value or one per
            channel; None: the backbone's usual one. Imported weights set it, and the fields below.
        std: Standard deviation of the same normalisation.
        one_sided_padding: Convolutions of MobileNetV2 with a stride pad bottom and right alone up
            to this stride, as TensorFlow does for even sizes; 0: all pad symmetrically.
        epsilon: Epsilon of the backbone's batch norms; None: the family's.
        rates_at_16: Exact ASPP rates at stride 16 where `atrous_rates` had to be rounded;
            None: `atrous_rates` are exact.
        channels: Names of the channels; (): red, green, blue, or numbers where there are more.
        bands: Where each channel comes from in files; see `atrous.images.bands.Bands`.
        dtype: Type of the pixels: ``uint8``, ``uint16`` or ``float32``, of which NaN is no value.
        preview: Channels shown to people as red, green and blue; (): those of these names.
        pooling_stride: Stride of the positions that image pooling averages, where the output stride
            is finer than the one the weights were trained at; None: all positions.
        extra_rows: Classes of further rows of the classifier, after a row for each class. The logit
            of a class is the largest of its rows'.
    """

    backbone: str
    num_classes: int = 0
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
    refine: tuple[tuple[int, int], ...] = ((3, 256), (3, 256))
    depth_multiplier: float = 1.0
    in_channels: int = 3
    stem: Literal["beta", "plain"] = "beta"
    relu_after_depthwise: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    one_sided_padding: int = 0
    epsilon: float | None = None
    rates_at_16: tuple[float, ...] | None = None
    pooling_stride: int | None = None
    extra_rows: tuple[int, ...] = ()
    channels: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()
    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    preview: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option in fields(self):  # lists would make the record unhashable
            object.__setattr__(self, option.name, tuples(getattr(self, option.name)))

    @property
    def exact_rates(self) -> tuple[float, ...]:
        """ASPP rates at stride 16. Rates at every other stride derive from them."""
        if self.rates_at_16 is not None:
            return self.rates_at_16
        if self.atrous_rates is None:
            return RATES_AT_STRIDE_16
        return tuple(rate * self.output_stride / 16 for rate in self.atrous_rates)

    def at_output_stride(self, output_stride: int) -> "Architecture":
        """Returns the same network at another stride.

        Given ASPP rates follow the stride. Rounded rates would drift over several changes, so the
        exact ones are kept beside them.
        """
        if self.atrous_rates is None:
            return replace(self, output_stride=output_stride)
        exact = self.exact_rates
        rates = rates_at(exact, output_stride)
        rounded = exact != tuple(rate * output_stride / 16 for rate in rates)
        return replace(
            self,
            output_stride=output_stride,
            atrous_rates=rates,
            rates_at_16=exact if rounded else None,
        )

    def check(self) -> None:
        """Checks that the network can be built and that every option has an effect.

        Raises:
            AtrousError: ``E-UNKNOWN-NAME`` for the backbone, ``E-OUTPUT-STRIDE``, or
                ``E-ARCHITECTURE`` with the option at fault.
        """
        if self.backbone not in BACKBONES and not self.backbone.startswith("timm/"):
            raise unknown_name("backbone", self.backbone, (*BACKBONES, "timm/<name>"))
        check_output_stride(self.output_stride)
        for problem, present in {**self._problems(), **self._problems_of_the_head()}.items():
            if present:
                raise AtrousError("E-ARCHITECTURE", problem, where=self.backbone)

    def _problems(self) -> dict[str, bool]:
        """Returns what may be wrong with the backbone, and whether it is."""
        is_resnet, is_xception = self.backbone in _RESNETS, self.backbone in _XCEPTIONS
        return {
            "num_classes must be at least 1": self.num_classes < 1,
            "extra_rows must be classes": not set(self.extra_rows) <= {*range(self.num_classes)},
            "in_channels must be at least 1": self.in_channels < 1,
            "channels must be in_channels different names": len({*self.channels})
            not in (0, self.in_channels),
            "preview takes three names of channels": bool(self.preview)
            and not (len(self.preview) == 3 and {*self.preview} <= {*self.channels}),
            "stem must be 'beta' or 'plain'": self.stem not in ("beta", "plain"),
            "stem is an option of ResNets": self.stem != "beta" and not is_resnet,
            "relu_after_depthwise is an option of Xception": self.relu_after_depthwise
            and not is_xception,
            "depth_multiplier is an option of mobilenet_v2": self.depth_multiplier != 1
            and self.backbone != "mobilenet_v2",
            "depth_multiplier must be positive": self.depth_multiplier <= 0,
            "multi_grid takes three rates": len(self.multi_grid or (1, 1, 1)) != 3,
            "multi_grid is an option of ResNets and Xception": self.multi_grid
            not in (None, (1, 1, 1))
            and not (is_resnet or is_xception),
        }

    def _problems_of_the_head(self) -> dict[str, bool]:
        """Returns what may be wrong with ASPP and decoder, and whether it is."""
        rates = self.atrous_rates
        return {
            "head must be 'aspp', 'dense_prediction_cell' or 'lr_aspp'": self.head
            not in (*get_args(Head), CLASSIFIER),
            "atrous_rates are an option of the head 'aspp'": rates is not None
            and self.head != "aspp",
            "image_pooling is an option of the head 'aspp'": not self.image_pooling
            and self.head != "aspp",
            "atrous_rates and multi_grid must be positive": min(
                (*(rates or ()), *(self.multi_grid or ()), 1)
            )
            < 1,
            "atrous_rates must be rates_at_16 at this output stride": self.rates_at_16 is not None
            and rates_at(self.rates_at_16, self.output_stride) != rates,
            "reduced_channels must be at least 1": self.reduced_channels is not None
            and self.reduced_channels < 1,
            "refine takes (kernel size, filters) with an odd kernel": any(
                kernel % 2 == 0 or kernel < 1 or filters < 1 for kernel, filters in self.refine
            ),
        }


@dataclass(frozen=True)
class Training:
    """How weights were trained and scored. Empty or None: not known."""

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
    """Where weights come from. Reports show it, and every file made from the weights keeps it."""

    source: str = "random initialisation"
    sha256: str = ""
    licence: str = ""
    notes: list[str] = field(default_factory=list)
    training: Training | None = None
