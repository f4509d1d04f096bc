"""Any timm backbone that supports dilation, as ``timm/<name>``.

timm turns strides into rates by its own rule: its first dilated unit often takes the new rate
already, its features have passed a ReLU, and its ResNets have the stride in the first unit of a
stage. These are therefore not the authors' networks. docs/paper.md reports how much their features
differ between output strides.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from atrous.encoder.backbone import Backbone
from atrous.encoder.strides import check_output_stride
from atrous.errors import AtrousError, ExitCode, unknown_name

OUTPUT_STRIDES = (8, 16, 32)


class TimmBackbone(Backbone):
    """A feature network of timm. Its stage outputs are the low-level features.

    Args:
        name: A model name of timm, with or without a ``.tag`` of pretrained weights.
        output_stride: 8, 16 or 32.
        in_channels: Channels of the picture.
        weights: Tensors for timm to load. It adapts them to other numbers of channels than three.

    Raises:
        AtrousError: An unknown name, a network that cannot be dilated, or weights of another one.
    """

    def __init__(
        self,
        name: str,
        *,
        output_stride: int = 16,
        in_channels: int = 3,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self._name = name
        self._in_channels = in_channels
        self.network = self._create(output_stride, weights)
        info: Any = self.network.feature_info
        reductions = info.reduction()
        self.channels = info.channels()[-1]
        self.low_level_channels = {
            stride: info.channels()[reductions.index(stride)]
            for stride in (4, 8, 16)
            if stride in reductions
        }
        # Stages beyond the output stride all have that stride; take the first of them.
        self._low_level_index = {s: reductions.index(s) for s in self.low_level_channels}
        self.output_stride = output_stride
        config: Any = self.network.default_cfg
        self.mean = tuple(255 * m for m in config["mean"])
        self.std = tuple(255 * s for s in config["std"])

    def _create(self, output_stride: int, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        import timm  # here, because it takes half a second and other backbones do not need it

        check_output_stride(output_stride, OUTPUT_STRIDES)
        if not timm.is_model(self._name.split(".")[0]):
            raise unknown_name("timm backbone", self._name, timm.list_models())
        try:
            with warnings.catch_warnings(), _silence("timm.models._builder"):
                warnings.simplefilter("ignore")
                network: Any = timm.create_model(
                    self._name,
                    pretrained=weights is not None,
                    pretrained_cfg_overlay={"state_dict": dict(weights)} if weights else None,
                    features_only=True,
                    output_stride=output_stride,
                    in_chans=self._in_channels,
                )
        except (TypeError, AssertionError, NotImplementedError, AttributeError, RuntimeError) as e:
            if weights is None:
                raise self._refusal(str(e)) from None
            self._create(output_stride)  # raises if the network, not the weights, is the cause
            raise AtrousError(
                "E-WEIGHTS-MISMATCH",
                f"these weights do not fit timm/{self._name}: {str(e)[:400]}",
                fix="name the timm network they were saved from",
                exit_code=ExitCode.DATA,
            ) from None
        if network.feature_info.reduction()[-1] != output_stride:
            found = network.feature_info.reduction()[-1]
            raise self._refusal(f"its features stay at stride {found}")
        return network

    def _refusal(self, reason: str) -> AtrousError:
        return AtrousError(
            "E-BACKBONE-DILATION",
            f"timm/{self._name} cannot be dilated: {reason}",
            fix="use one of our own backbones, or a convolutional timm network that takes "
            "output_stride, such as timm/resnet50, timm/resnext50_32x4d, timm/regnety_016, "
            "timm/mobilenetv3_large_100 or timm/efficientnet_b0",
        )

    def set_output_stride(self, output_stride: int) -> None:
        """See `Backbone.set_output_stride`. timm builds a new network for our parameters."""
        if output_stride == self.output_stride:
            return
        old = self.network
        new = self._create(output_stride).train(old.training)
        modules = dict(new.named_modules())
        for name, module in old.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                modules[name].eps = module.eps  # which other weights than timm's may have brought
        for name, parameter in old.named_parameters():
            owner, _, leaf = name.rpartition(".")
            setattr(modules[owner], leaf, parameter)  # the same object, which optimizers refer to
        for name, buffer in old.named_buffers():
            owner, _, leaf = name.rpartition(".")
            setattr(modules[owner], leaf, buffer)
        self.network = new
        self.output_stride = output_stride

    def forward(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """See `Backbone.forward`."""
        features = self.network(x)
        return features[-1], {s: features[i] for s, i in self._low_level_index.items()}


@contextmanager
def _silence(name: str) -> Iterator[None]:
    """Silences a logger's warnings: this package checks itself for missing and unused weights."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
