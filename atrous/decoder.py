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
    """Returns the last 1x1 convolution: it has a bias and no batch norm."""
    conv = nn.Conv2d(in_channels, num_classes, kernel_size=1)
    nn.init.trunc_normal_(conv.weight, std=0.01, a=-0.02, b=0.02)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def classified(rows: Tensor, extra_rows: Sequence[int]) -> Tensor:
    """Returns the logit of each class: the largest of its rows'.

    Args:
        rows: (N, K + E, h, w), the outputs of the classifier: a row for each class, then the
            others.
        extra_rows: Classes of the E others.
    """
    if not extra_rows:
        return rows
    count = rows.shape[1] - len(extra_rows)
    logits = [rows[:, index : index + 1] for index in range(count)]
    for place, index in enumerate(extra_rows, start=count):
        logits[index] = torch.maximum(logits[index], rows[:, place : place + 1])
    return torch.cat(logits, dim=1)  # (N, K, h, w)


class DecoderStage(nn.Module):
    """Concatenates decoded features with low-level features of one stride and refines them.

    The concatenation has the authors' order: the encoder's features first, then the low-level ones.
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
        self.reduced_channels = reduced_channels or low_level_channels
        channels = in_channels + self.reduced_channels
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
        """Returns the refined features.

        Args:
            decoded: (N, C, h, w), from the encoder or from the stage before.
            low_level: (N, C', h', w').
            strides: Strides of `decoded`, of `low_level` and of the result.
            size: Height and width of the result.
        """
        return self.refine(torch.cat(self.resized(decoded, low_level, strides, size), dim=1))

    def resized(
        self, decoded: Tensor, low_level: Tensor, strides: tuple[int, int, int], size: Size
    ) -> tuple[Tensor, Tensor]:
        """Returns both inputs at the stride of the result, the low-level features reduced."""
        decoded_stride, low_level_stride, stride = strides
        return (
            resize(decoded, decoded_stride, stride, size),
            resize(self.reduce(low_level), low_level_stride, stride, size),
        )


class Decoder(nn.Module):
    """Reduces low-level features, concatenates, refines and classifies.

    The defaults are the paper's: the stride-4 features reduced to 48 channels (Table 1) and two
    3x3 convolutions of 256 filters (Table 2).

    Args:
        in_channels: Channels of the encoder's output.
        low_level_channels: Channels of the low-level features by stride.
        num_classes: Number of classes K.
        output_stride: Stride of the encoder's output.
        strides: Strides to decode at, descending: (4,) is Conv2, (8, 4) is Conv3 and Conv2; ():
            no decoder, as in DeepLabv3: the encoder's output is classified, and then upsampled.
        reduced_channels: Channels of the low-level features after the 1x1 reduction; None: no
            reduction.
        refine: Kernel size and filters of each convolution after the concatenation.
        separable: Whether 3x3 convolutions are depthwise separable.
        extra_rows: Classes of further rows of the classifier, as for `classified`.
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
        extra_rows: Sequence[int] = (),
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
        self.extra_rows = tuple(extra_rows)
        self.classifier = classifier(channels, num_classes + len(self.extra_rows))
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Sets the stride at which the encoder's output arrives."""
        self.output_stride = output_stride
        self.logits_stride = (output_stride, *self.strides)[-1]

    def forward(self, encoded: Tensor, low_level: Mapping[int, Tensor]) -> Tensor:
        """Returns logits (N, K, H/s, W/s) at the last of the decoder's strides s, or at OS."""
        decoded, decoded_stride = encoded, self.output_stride
        for stage, stride in zip(self.stages, self.strides, strict=True):
            low = low_level[stride]
            # A backbone with an output stride below `stride` has dilated away the stride between.
            low_stride = min(stride, self.output_stride)
            step = stride // low_stride
            size = (-(-low.shape[-2] // step), -(-low.shape[-1] // step))
            decoded = stage(decoded, low, (decoded_stride, low_stride, stride), size)
            decoded_stride = stride
        return classified(self.classifier(decoded), self.extra_rows)
