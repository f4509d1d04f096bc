"""DeepLabv3+: an encoder and a decoder (arXiv:1802.02611, Fig. 2).

`Model` is the base that DeepLabv3+ shares with the classifier of whole pictures (`classifier.py`).
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from atrous.architecture import Architecture, Provenance
from atrous.classes import ClassTable, Color, numbered
from atrous.decoder import Decoder
from atrous.encoder.encoder import Encoder
from atrous.errors import AtrousError
from atrous.images.bands import Bands
from atrous.layers import Normalize, Size, resize


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Keeps a network in evaluation mode inside the context, and sets its mode back after it."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class Model(nn.Module):
    """An encoder with the names of its classes and the origin of its weights.

    Args:
        normalize: Normalises the pixels for the backbone.
        encoder: Backbone and ASPP, or another head in the place of ASPP.
        architecture: The options that normalisation, encoder and head were built with. It is the
            only record of output stride and rates; `set_output_stride` keeps the layers in step.

    Attributes:
        classes: Names of the classes, in the order of the logits.
        palette: Colours of the classes.
        provenance: Where the weights come from.
    """

    def __init__(self, normalize: Normalize, encoder: Encoder, architecture: Architecture) -> None:
        super().__init__()
        self.normalize = normalize
        self.encoder = encoder
        self.architecture = architecture
        self.provenance = Provenance()
        self._batch_norm_frozen = False
        self._backbone_frozen = False
        self.name_classes(numbered(architecture.num_classes))

    def name_classes(self, table: ClassTable) -> None:
        """Gives the classes names and colours.

        Raises:
            AtrousError: The table has another number of classes.
        """
        if len(table.classes) != self.architecture.num_classes:
            raise AtrousError(
                "E-CLASSES",
                f"{len(table.classes)} names for {self.architecture.num_classes} classes",
            )
        self.classes: tuple[str, ...] = table.classes
        self.palette: tuple[Color, ...] = table.palette

    @property
    def bands(self) -> Bands:
        """The channels that the network reads, with their normalisation."""
        mean, std = (v.flatten().tolist() for v in (self.normalize.mean, self.normalize.std))
        return Bands.of({**vars(self.architecture), "mean": mean, "std": std})

    @property
    def output_stride(self) -> int:
        """Pixels of the picture per step of the backbone's last features."""
        return self.architecture.output_stride

    def freeze_batch_norm(self, frozen: bool = True) -> Self:
        """Makes every batch norm use its running statistics, also after `train()`.

        Scale and offset still learn, and dropout stays on, as with the authors'
        ``fine_tune_batch_norm=False``.
        """
        self._batch_norm_frozen = frozen
        return self.train(self.training)

    def freeze_backbone(self) -> Self:
        """Stops the backbone from learning: no gradients, no new batch norm statistics."""
        self.encoder.backbone.requires_grad_(False)
        self._backbone_frozen = True
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode. Frozen parts stay in evaluation mode."""
        super().train(mode)
        if self._backbone_frozen:
            self.encoder.backbone.eval()
        if self._batch_norm_frozen:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def encoded(self, images: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Encodes pictures (N, C, H, W), in the units of the files: of RGB 0..255.

        Returns:
            The encoder's output and the backbone's low-level features by stride.

        Raises:
            AtrousError: Another shape or number of channels.
        """
        channels = self.architecture.in_channels
        if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape:
            raise AtrousError(
                "E-IMAGES-SHAPE",
                f"expected images of shape (N, {channels}, H, W), got {tuple(images.shape)}",
            )
        return self.encoder(self.normalize(images))

    def coarse_logits(self, images: Tensor) -> Tensor:
        """Returns logits at the stride at which the network computes them."""
        raise NotImplementedError

    def upsample(self, coarse_logits: Tensor, size: Size) -> Tensor:
        """Upsamples coarse logits to the size of the targets."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Puts backbone and output stride into the first line of `repr`."""
        return f"{self.architecture.backbone}, output_stride={self.output_stride}"


def walk_shapes(
    model: Model, size: Size, look: Callable[[str, nn.Module, tuple[Tensor, ...], Tensor], None]
) -> Tensor:
    """Runs a copy of a network on tensors that have shapes and no values, for one picture.

    Args:
        model: The network.
        size: Height and width of the picture.
        look: Called after each convolution and batch norm with its path, itself, its inputs and its
            output.

    Returns:
        The coarse logits, on the meta device as all other tensors.
    """
    ghost = copy.deepcopy(model).to("meta").eval()
    for path, module in ghost.named_modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.register_forward_hook(partial(look, path))
    with torch.inference_mode():
        return ghost.coarse_logits(
            torch.empty(1, model.architecture.in_channels, *size, device="meta")
        )


class DeepLabV3Plus(Model):
    """Assigns a score for each class to every pixel.

    Args:
        normalize: Normalises the pixels for the backbone.
        encoder: Backbone and ASPP.
        decoder: The paper's decoder, or one without stages.
        architecture: The options that the three were built with.

    Attributes:
        classes: Names of the classes, in the order of the logits.
        palette: Colours of the classes.
        provenance: Where the weights come from.
    """

    def __init__(
        self,
        normalize: Normalize,
        encoder: Encoder,
        decoder: Decoder,
        architecture: Architecture,
    ) -> None:
        super().__init__(normalize, encoder, architecture)
        self.decoder = decoder

    @property
    def logits_stride(self) -> int:
        """Pixels of the picture per step of the coarse logits."""
        return self.decoder.logits_stride

    def set_output_stride(self, output_stride: int) -> None:
        """Changes strides, atrous rates and ASPP rates together; the weights stay.

        Args:
            output_stride: 4, 8, 16 or 32; for timm backbones 8, 16 or 32. Half the stride gives
                sharper features for about four times the multiply-adds.

        Raises:
            AtrousError: The backbone does not support this stride.
        """
        self.encoder.set_output_stride(output_stride)
        self.decoder.set_output_stride(output_stride)
        self.architecture = self.architecture.at_output_stride(output_stride)

    def coarse_logits(self, images: Tensor) -> Tensor:
        """Returns logits at the stride at which the network computes them.

        Args:
            images: (N, C, H, W), integers or floats in the units of the files: of RGB 0..255.

        Returns:
            (N, K, ceil(H/4), ceil(W/4)), or at the output stride without a decoder. Logit (i, j)
            belongs to pixel (i * stride, j * stride).

        Raises:
            AtrousError: Another shape or number of channels.
        """
        encoded, low_level = self.encoded(images)
        return self.decoder(encoded, low_level)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, C, H, W), of RGB 0..255, to logits (N, K, H, W)."""
        return self.upsample(self.coarse_logits(images), (images.shape[-2], images.shape[-1]))

    def upsample(self, coarse_logits: Tensor, size: Size) -> Tensor:
        """Upsamples coarse logits to (N, K, *size), where `size` is that of the images."""
        return resize(coarse_logits, self.logits_stride, 1, size)
