"""Encoder = backbone + atrous spatial pyramid pooling (arXiv:1802.02611, Fig. 2, upper half)."""

from torch import Tensor, nn

from atrous.encoder.aspp import ASPP
from atrous.encoder.backbone import Backbone
from atrous.encoder.dense_prediction_cell import DensePredictionCell
from atrous.encoder.global_pooling import GlobalPooling
from atrous.encoder.lr_aspp import LRASPP

PyramidHead = ASPP | DensePredictionCell | LRASPP | GlobalPooling


class Encoder(nn.Module):
    """Encodes a picture at the output stride and returns the backbone's low-level features too.

    Args:
        backbone: The network before ASPP.
        aspp: ASPP, or the head that some of the authors' models and classifiers have instead.
    """

    def __init__(self, backbone: Backbone, aspp: PyramidHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.aspp = aspp

    def set_output_stride(self, output_stride: int) -> None:
        """Changes strides, rates and ASPP rates together; the weights stay."""
        self.backbone.set_output_stride(output_stride)
        self.aspp.set_output_stride(output_stride)

    def forward(self, images: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Maps normalised (N, C, H, W) to (N, 256, H/OS, W/OS) and low-level features by stride."""
        high_level, low_level = self.backbone(images)
        return self.aspp(high_level), low_level
