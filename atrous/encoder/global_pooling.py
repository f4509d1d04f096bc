"""Global average pooling, which replaces ASPP in a classifier."""

from torch import Tensor, nn


class GlobalPooling(nn.Module):
    """Averages each channel over the whole picture.

    Args:
        channels: Channels of the backbone's last features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def set_output_stride(self, output_stride: int) -> None:
        """Changes nothing: a mean has no stride."""

    def forward(self, high_level: Tensor) -> Tensor:
        """Maps (N, C, H/OS, W/OS) to (N, C, 1, 1)."""
        return high_level.mean((2, 3), keepdim=True)
