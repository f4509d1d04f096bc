"""Runs any model for the evaluation: torch models on float pictures, engines on 8-bit ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from atrous.engines.open import open_engine
from atrous.engines.openvino import ExportedEngine
from atrous.engines.openvino_package import import_openvino
from atrous.engines.protocol import Engine
from atrous.engines.torch import TorchEngine, fingerprint
from atrous.errors import AtrousError
from atrous.images.bands import Bands, bands_of
from atrous.model import DeepLabV3Plus, evaluating


class Network(Protocol):
    """A model that maps float32 pictures in the units of the files to coarse logits."""

    logits_stride: int
    bands: Bands
    mean_pixel: tuple[float, ...]  # the colour of padding

    def __call__(self, image: Tensor) -> Tensor:
        """Maps (C, H, W) to coarse logits (K, h, w), float32 on the CPU or the GPU."""


class TorchNetwork:
    """A torch model. Resized pictures are not rounded, as in the authors' graph."""

    def __init__(self, model: DeepLabV3Plus) -> None:
        self.model = model
        self.logits_stride = model.logits_stride
        self.bands = model.bands
        self.mean_pixel = tuple(np.broadcast_to(self.bands.mean, len(self.bands.names)).tolist())

    def __call__(self, image: Tensor) -> Tensor:
        """Maps (C, H, W) to coarse logits (K, h, w)."""
        images = image[None].to(self.model.normalize.mean.device)
        return self.model.coarse_logits(images.to(memory_format=torch.channels_last))[0].float()


class EngineNetwork:
    """Any other engine. Resized and padded pictures are rounded to the type that it takes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.logits_stride = engine.logits_stride
        self.bands = bands_of(engine)
        # 127.5 is the mean of the normalisation x / 127.5 - 1.
        mean = (127.5,) if self.bands.is_rgb else self.bands.mean
        self.mean_pixel: tuple[float, ...] = tuple(
            np.broadcast_to(mean, len(self.bands.names)).tolist()
        )

    def __call__(self, image: Tensor) -> Tensor:
        """Maps (C, H, W) to coarse logits (K, h, w)."""
        picture = image.permute(1, 2, 0).numpy()
        if self.bands.dtype != "float32":
            picture = np.rint(picture).clip(0, np.iinfo(self.bands.dtype).max)
        logits = self.engine.coarse_logits(np.ascontiguousarray(picture, self.bands.dtype))
        return torch.from_numpy(logits).permute(2, 0, 1).float()


def open_network(model: "DeepLabV3Plus | Engine | str | Path") -> tuple[Network, dict[str, Any]]:
    """Opens a model; returns the network and the facts that protocol and scores need."""
    source = str(model) if isinstance(model, (str, Path)) else ""
    engine: Any = open_engine(model) if isinstance(model, (str, Path)) else model
    if isinstance(engine, TorchEngine):
        engine = engine.model
    if isinstance(engine, DeepLabV3Plus):
        device = engine.normalize.mean.device
        facts: dict[str, Any] = {
            "engine": f"torch {torch.__version__}, {device.type}",
            "precision": str(next(engine.parameters()).dtype).removeprefix("torch."),
            "model": source or engine.provenance.source,
            "fingerprint": fingerprint(engine),
        }
        network: Network = TorchNetwork(engine)
    else:
        header = getattr(engine, "header", None)  # only exported files have one
        facts = {
            "engine": _engine_name(engine),
            "precision": getattr(header, "precision", None),
            "model": source or getattr(header, "source", None),
            "output_stride": getattr(header, "output_stride", None),
            "fingerprint": engine.fingerprint,
        }
        network = EngineNetwork(cast(Engine, engine))
    return network, {**facts, "classes": engine.classes, "palette": engine.palette}


def _engine_name(engine: Engine) -> str:
    if isinstance(engine, ExportedEngine):
        return f"OpenVINO {import_openvino().__version__.partition('-')[0]}, cpu"
    return type(engine).__name__


@contextmanager
def prepared(network: Network, output_stride: int | None) -> Iterator[None]:
    """Sets evaluation mode and output stride of a torch model, and restores both at the end."""
    if not isinstance(network, TorchNetwork):
        if output_stride is not None:
            raise AtrousError(
                "E-OUTPUT-STRIDE",
                "the output stride of an exported model is fixed",
                fix="evaluate the model it was exported from, or export it at this stride",
            )
        yield
        return
    model = network.model
    before = model.output_stride
    with evaluating(model):
        try:
            if output_stride is not None and output_stride != before:
                model.set_output_stride(output_stride)
            network.logits_stride = model.logits_stride
            yield
        finally:
            if model.output_stride != before:
                model.set_output_stride(before)
