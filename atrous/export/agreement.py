"""How many labels an exported file keeps in bfloat16, measured on pictures."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from atrous.engines.machine import processor
from atrous.engines.openvino import ExportedEngine, has_bf16_units
from atrous.engines.openvino_graph import NARROW
from atrous.engines.protocol import Engine
from atrous.engines.torch import TorchEngine
from atrous.images.bands import Pixels
from atrous.model import DeepLabV3Plus
from atrous.predict import upsample


def bf16_agreement(
    model: DeepLabV3Plus, path: Path, pictures: Sequence[Pixels]
) -> tuple[float, str]:
    """Compares the labels of a file in bfloat16 with its labels in float32.

    On a processor with bf16 units, OpenVINO runs the file itself. Elsewhere torch rounds what
    convolutions read and their weights to bfloat16, but for the layers that stay in fp32
    (`atrous.engines.openvino_graph.keep_finest_layers`).

    Args:
        model: The model that was exported.
        path: The exported file.
        pictures: Real pictures (H, W, C).

    Returns:
        The share of pixels with equal labels, 0..1, and the means of the measurement.
    """
    exact = ExportedEngine(path, keep_compiled=False, precision="fp32")
    if has_bf16_units():
        rounded: Engine = ExportedEngine(path, keep_compiled=False, precision="bf16")
        means = f"OpenVINO on {processor()}"
    else:
        rounded, means = _rounding(model), "emulated in torch"
    equal = total = 0
    for picture in pictures:
        size = (picture.shape[0], picture.shape[1])
        first, second = (
            upsample.labels(engine.coarse_logits(picture), engine.logits_stride, size)
            for engine in (exact, rounded)
        )
        equal += int((first == second).sum())
        total += first.size
    return equal / total, f"{means}, {len(pictures)} pictures"


def _rounding(model: DeepLabV3Plus) -> Engine:
    """Returns an engine whose convolutions, but for the finest narrow ones, compute in bf16."""
    engine = TorchEngine(model)
    rows = 0

    def look(_normalize: nn.Module, images: tuple[Tensor, ...]) -> None:
        nonlocal rows
        rows = images[0].shape[-2]

    def rounded(module: nn.Conv2d, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if module in narrow and 3 * inputs[0].shape[-2] > rows * module.stride[0]:
            return None
        module.weight.data = module.weight.data.bfloat16().float()
        return tuple(x.bfloat16().float() for x in inputs)

    engine.model.normalize.register_forward_pre_hook(look)
    backbone = engine.model.encoder.backbone.modules()
    narrow = {m for m in backbone if isinstance(m, nn.Conv2d) and m.out_channels <= NARROW}
    for module in engine.model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(rounded)
    return engine
