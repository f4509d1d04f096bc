"""What a backbone is, and how backbones of units turn strides into atrous rates."""

from collections.abc import Mapping

from torch import Tensor, nn

from atrous.encoder.strides import atrous_schedule, last_units


class Backbone(nn.Module):
    """A network before ASPP whose output stride can change while its weights stay.

    Attributes:
        channels: Channels of the last features.
        low_level_channels: Channels of the features for a decoder, by nominal stride.
        output_stride: Pixels of the picture per step of the last features.
    """

    channels: int
    low_level_channels: Mapping[int, int]
    output_stride: int

    def set_output_stride(self, output_stride: int) -> None:
        """Turns strides beyond `output_stride` into atrous rates, and rates back into strides."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Maps (N, C, H, W) to the last features and the low-level features by nominal stride.

        Returns:
            (N, channels, H/OS, W/OS), and for each stride s (N, low_level_channels[s], H/s, W/s).
            If the output stride is below s, the latter have the output stride too.
        """
        raise NotImplementedError


class Unit(nn.Module):
    """One of the units that a backbone is made of.

    It maps features to its output and to the low-level features that it offers.

    Args:
        stride: Its stride in the network for classification.
        low_level_channels: Channels of the low-level features that it offers.
    """

    def __init__(self, stride: int, low_level_channels: int) -> None:
        super().__init__()
        self.nominal_stride = stride
        self.low_level_channels = low_level_channels

    def set_stride_and_rate(self, stride: int, atrous_rate: int) -> None:
        """Changes the geometry; the weights stay."""
        raise NotImplementedError


class BackboneOfUnits(Backbone):
    """A backbone whose layers with strides are units in a row, behind a stem."""

    def arrange(self, *, stem_stride: int, further: int = 0) -> None:
        """Finds the units, in the order of their making, and those that give low-level features.

        Args:
            stem_stride: Stride of the features that enter the first unit.
            further: The low-level features of a stride come from the unit so many places after the
                last unit at that stride.
        """
        self._units = [module for module in self.modules() if isinstance(module, Unit)]
        self._nominal_strides = [unit.nominal_stride for unit in self._units]
        self._stem_stride = stem_stride
        last = last_units(self._nominal_strides, initial_stride=stem_stride)
        self._low_level_strides = {index + further: stride for stride, index in last.items()}
        self.low_level_channels = {
            stride: self._units[index].low_level_channels
            for index, stride in self._low_level_strides.items()
        }

    def set_output_stride(self, output_stride: int) -> None:
        """See `Backbone.set_output_stride`."""
        schedule = atrous_schedule(
            self._nominal_strides, output_stride, initial_stride=self._stem_stride
        )
        for unit, (stride, rate) in zip(self._units, schedule, strict=True):
            unit.set_stride_and_rate(stride, rate)
        self.output_stride = output_stride

    def through_units(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Maps the stem's features to the last unit's, and the low-level features by stride."""
        low_level: dict[int, Tensor] = {}
        for index, unit in enumerate(self._units):
            x, features = unit(x)
            if index in self._low_level_strides:
                low_level[self._low_level_strides[index]] = features
        return x, low_level
