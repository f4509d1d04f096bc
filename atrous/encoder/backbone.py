"""What every backbone is: features at the output stride and low-level features on the way there."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from atrous.errors import AtrousError

OUTPUT_STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """A network before ASPP whose output stride can be set without touching its weights.

    Attributes:
        channels: Channels of the last features.
        low_level_channels: Channels of the features offered to a decoder, by nominal stride.
        output_stride: Pixels of the picture per step of the last features.
    """

    channels: int
    low_level_channels: Mapping[int, int]
    output_stride: int

    def set_output_stride(self, output_stride: int) -> None:
        """Turns strides beyond `output_stride` into atrous rates, or back."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Maps (N, C, H, W) to the last features and the low-level ones by nominal stride.

        Returns:
            (N, channels, H/OS, W/OS), and for each stride s an (N, low_level_channels[s], H/s, W/s)
            (at the output stride instead where that is finer than s).
        """
        raise NotImplementedError


def check_output_stride(output_stride: int, supported: Sequence[int] = OUTPUT_STRIDES) -> None:
    """Raises `AtrousError` for a stride no network here has."""
    if output_stride not in supported:
        raise AtrousError(
            "E-OUTPUT-STRIDE",
            f"unsupported output stride {output_stride!r}",
            fix=f"use one of {', '.join(map(str, supported))}",
        )


def atrous_schedule(
    strides: Sequence[int], output_stride: int, *, initial_stride: int
) -> list[tuple[int, int]]:
    """Decides stride and atrous rate of each unit of a backbone.

    The authors' rule (`resnet_utils.stack_blocks_dense`): once the output stride is reached, a
    unit keeps the rate so far, loses its stride, and only the units after it have their rate
    multiplied by the stride it lost. Diluting the unit itself, as many ports do, would
    change which pixels its filters see.

    Args:
        strides: Stride of each unit in the network for classification.
        output_stride: Pixels per step of the last features.
        initial_stride: Stride of what precedes the first unit.

    Returns:
        (stride, rate) of each unit.

    >>> atrous_schedule([2, 1, 2, 1], 4, initial_stride=2)
    [(2, 1), (1, 1), (1, 1), (1, 2)]
    """
    check_output_stride(output_stride)
    current, rate, schedule = initial_stride, 1, []
    for stride in strides:
        if current == output_stride:
            schedule.append((1, rate))
            rate *= stride
        else:
            schedule.append((stride, 1))
            current *= stride
    return schedule
