"""The classifier a backbone is pretrained as, on ImageNet (arXiv:1802.02611, Sec. 4).

The authors' head of Xception (`core/xception.py`): global average pooling, dropout that keeps half
of the features, logits. Other backbones get the same one.
"""

from torch import Tensor, nn

from atrous.architecture import Architecture
from atrous.encoder.encoder import Encoder
from atrous.layers import Normalize, Size
from atrous.model import Model


class Classifier(Model):
    """Assigns a score for each class to a whole picture.

    Args:
        normalize: Turns RGB values 0..255 into what the backbone expects.
        encoder: Backbone and global average pooling.
        classifier: The last 1x1 convolution.
        architecture: What they are.
        dropout: Share of features left out in training.
    """

    def __init__(
        self,
        normalize: Normalize,
        encoder: Encoder,
        classifier: nn.Conv2d,
        architecture: Architecture,
        *,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(normalize, encoder, architecture)
        self.dropout = nn.Dropout(dropout)
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, C, H, W), uint8 or 0..255, to logits (N, K, 1, 1)."""
        return self.coarse_logits(images)

    def coarse_logits(self, images: Tensor) -> Tensor:
        """Returns the same: there is one position for the whole picture."""
        pooled, _ = self.encoded(images)  # (N, C, 1, 1)
        return self.classifier(self.dropout(pooled))

    def upsample(self, coarse_logits: Tensor, size: Size) -> Tensor:
        """Returns the logits as they are: targets have one position too."""
        return coarse_logits
