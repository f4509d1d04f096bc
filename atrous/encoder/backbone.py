"""Interface of the backbones, and the rule that turns strides into atrous rates."""

from collections.abc import Mapping

from torch import Tensor, nn


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
