"""Decoder: sharpens object boundaries with low-level features.

Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation
(arXiv:1802.02611), Sec. 3.1, Fig. 2 (lower half), Tables 1 and 2.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from atrous.layers import HEAD, AtrousSeparableConv, ConvBN, Size, resize

Refinement = tuple[int, int]  # kernel size, filters


def classifier(in_channels: int, num_classes: int) -> nn.Conv2d:
    """Returns the last 1x1 convolution, with a bias and without batch norm."""
    conv = nn.Conv2d(in_channels, num_classes, kernel_size=1)
    nn.init.trunc_normal_(conv.weight, std=0.01, a=-0.02, b=0.02)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class DecoderStage(nn.Module):
    """Fuses what was decoded so far with low-level features of one stride, and refines.

    The order of the concatenation is the authors': encoder first, then low-level.
    """

    def __init__(
        self,
        in_channels: int,
        low_level_channels: int,
        *,
        reduced_channels: int | None,
        refine: Sequence[Refinement],
        separable: bool,
    ) -> None:
        super().__init__()
        self.reduce: nn.Module = nn.Identity()
        if reduced_channels is not None:
            self.reduce = ConvBN(low_level_channels, reduced_channels, 1, HEAD)
        channels = in_channels + (reduced_channels or low_level_channels)
        refinements: list[nn.Module] = []
        for kernel_size, filters in refine:
            if separable and kernel_size == 3:
                refinements.append(AtrousSeparableConv(channels, filters, HEAD))
            else:
                refinements.append(ConvBN(channels, filters, kernel_size, HEAD))
            channels = filters
        self.refine = nn.Sequential(*refinements)
        self.channels = channels

    def forward(
        self, decoded: Tensor, low_level: Tensor, strides: tuple[int, int, int], size: Size
    ) -> Tensor:
        """Returns refined features at the last of `strides` (of decoded, low-level, result)."""
        decoded_stride, low_level_stride, stride = strides
        return self.refine(
            torch.cat(
                [
                    resize(decoded, decoded_stride, stride, size),
                    resize(self.reduce(low_level), low_level_stride, stride, size),
                ],
                dim=1,
            )
        )


class Decoder(nn.Module):
    """Reduces low-level features, concatenates, refines and classifies.

    The defaults are the paper's: 48 reduced channels (Table 1) of the stride-4 features and two
    3x3 convolutions of 256 filters (Table 2).

    Args:
        in_channels: Channels of the encoder's output.
        low_level_channels: Channels of the low-level features by stride.
        num_classes: Number of classes K.
        output_stride: Stride of the encoder's output.
        strides: Strides to decode at, descending: (4,) for Conv2, (8, 4) for Conv3 and Conv2.
        reduced_channels: Channels of the low-level features after the 1x1 reduction; None: they
            are concatenated as they are.
        refine: Kernel size and filters of each convolution after the concatenation.
        separable: Depthwise separable 3x3 convolutions rather than dense ones.
    """

    def __init__(
        self,
        in_channels: int,
        low_level_channels: Mapping[int, int],
        num_classes: int,
        *,
        output_stride: int = 16,
        strides: Sequence[int] = (4,),
        reduced_channels: int | None = 48,
        refine: Sequence[Refinement] = ((3, 256), (3, 256)),
        separable: bool = True,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.stages = nn.ModuleList()
        channels = in_channels
        for stride in self.strides:
            stage = DecoderStage(
                channels,
                low_level_channels[stride],
                reduced_channels=reduced_channels,
                refine=refine,
                separable=separable,
            )
            self.stages.append(stage)
            channels = stage.channels
        self.classifier = classifier(channels, num_classes)
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Tells the stride of the encoder's output."""
        self.output_stride = output_stride
        self.logits_stride = self.strides[-1]

    def forward(self, encoded: Tensor, low_level: Mapping[int, Tensor]) -> Tensor:
        """Returns logits (N, K, H/s, W/s) at the last of the decoder's strides s."""
        decoded, decoded_stride = encoded, self.output_stride
        for stage, stride in zip(self.stages, self.strides, strict=True):
            low = low_level[stride]
            low_stride = min(stride, self.output_stride)  # atrous features may be finer
            step = stride // low_stride
            size = (-(-low.shape[-2] // step), -(-low.shape[-1] // step))
            decoded = stage(decoded, low, (decoded_stride, low_stride, stride), size)
            decoded_stride = stride
        return self.classifier(decoded)


class BilinearDecoder(nn.Module):
    """No decoder: classifies the encoder's output, to be upsampled bilinearly (DeepLabv3)."""

    def __init__(self, in_channels: int, num_classes: int, *, output_stride: int = 16) -> None:
        super().__init__()
        self.classifier = classifier(in_channels, num_classes)
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Tells the stride of the encoder's output."""
        self.output_stride = output_stride
        self.logits_stride = output_stride

    def forward(self, encoded: Tensor, low_level: Mapping[int, Tensor]) -> Tensor:
        """Returns logits (N, K, H/OS, W/OS)."""
        return self.classifier(encoded)
