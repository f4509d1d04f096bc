"""Classifier of whole pictures, to pretrain a backbone on ImageNet (arXiv:1802.02611, Sec. 4).

The head is the authors' for Xception (`core/xception.py`): global average pooling, dropout of one
half, logits. All backbones get this head.
"""

from torch import Tensor, nn

from atrous.architecture import Architecture
from atrous.encoder.encoder import Encoder
from atrous.layers import Normalize, Size
from atrous.model import Model


class Classifier(Model):
    """Assigns a score for each class to a whole picture.

    Args:
        normalize: Normalises RGB values 0..255 for the backbone.
        encoder: Backbone and global average pooling.
        classifier: The last 1x1 convolution.
        architecture: The options that the three were built with.
    """

    def __init__(
        self,
        normalize: Normalize,
        encoder: Encoder,
        classifier: nn.Conv2d,
        architecture: Architecture,
    ) -> None:
        super().__init__(normalize, encoder, architecture)
        self.dropout = nn.Dropout(0.5)
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, C, H, W), uint8 or 0..255, to logits (N, K, 1, 1)."""
        return self.coarse_logits(images)

    def coarse_logits(self, images: Tensor) -> Tensor:
        """Returns the logits: a whole picture has one position."""
        pooled, _ = self.encoded(images)  # (N, C, 1, 1)
        return self.classifier(self.dropout(pooled))

    def upsample(self, coarse_logits: Tensor, size: Size) -> Tensor:
        """Returns the logits unchanged: a target has one position too."""
        return coarse_logits
