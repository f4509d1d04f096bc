"""How many labels an exported file keeps in bfloat16, measured on pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atrous.engines.machine import processor
from atrous.engines.openvino import ExportedEngine, has_bf16_units
from atrous.engines.protocol import Engine
from atrous.engines.torch import TorchEngine
from atrous.model import DeepLabV3Plus
from atrous.predict import upsample


def bf16_agreement(
    model: DeepLabV3Plus, path: Path, pictures: Sequence[NDArray[np.uint8]]
) -> tuple[float, str]:
    """Compares the labels of a file in bfloat16 with its labels in float32.

    On a processor with bf16 units, OpenVINO runs the file itself. Elsewhere torch rounds the
    weights and activations of the model to bfloat16.

    Args:
        model: The model that was exported.
        path: The exported file.
        pictures: Real pictures (H, W, 3).

    Returns:
        The share of pixels with equal labels, 0..1, and the means of the measurement.
    """
    exact = ExportedEngine(path, keep_compiled=False, precision="fp32")
    if has_bf16_units():
        rounded: Engine = ExportedEngine(path, keep_compiled=False, precision="bf16")
        means = f"OpenVINO on {processor()}"
    else:
        rounded, means = TorchEngine(model, precision="bf16"), "emulated in torch"
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
