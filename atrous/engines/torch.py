"""The engine for torch models."""

import copy
import hashlib
import threading
from contextlib import AbstractContextManager
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atrous.encoder.aspp import ASPP
from atrous.engines.protocol import Precision
from atrous.errors import AtrousError
from atrous.images.bands import Pixels
from atrous.model import DeepLabV3Plus, walk_shapes

_BYTES_OF_PROCESS = 500_000_000  # Python, torch and the libraries that torch loads


_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchEngine:
    """Runs its own copy of a model in evaluation mode; see `atrous.engines.protocol.Engine`.

    Args:
        model: The model.
        precision: As in `Predictor`; None and ``auto``: the type of the model's own weights.

    Raises:
        AtrousError: int8, which only exported files have.
    """

    def __init__(self, model: DeepLabV3Plus, *, precision: Precision | None = None) -> None:
        self.classes = model.classes
        self.palette = model.palette
        self.output_stride = model.output_stride
        self.logits_stride = model.logits_stride
        self.bands = model.bands
        if precision == "int8":
            raise AtrousError(
                "E-PRECISION",
                "a torch model has no int8 form",
                fix="atrous export MODEL --int8 --calibration PICTURES --out FILE writes one",
            )
        own = next(model.parameters())
        kind = _TYPES.get(precision or "", own.dtype)
        names = {kind: name for name, kind in _TYPES.items()}
        self.precision = names.get(kind, str(kind).removeprefix("torch."))
        self.model = copy.deepcopy(model).eval().to(kind)
        self.model.to(memory_format=torch.channels_last)
        self.fingerprint = fingerprint(model)
        self.streams = 1
        self._lock = threading.RLock()

    def alone(self) -> AbstractContextManager[object]:
        """Lets no other thread in that asks for the same."""
        return self._lock

    def coarse_logits(self, image: Pixels) -> NDArray[np.float32]:
        """Maps a picture (H, W, C) to logits (h, w, K) at `logits_stride`."""
        return torch_logits(self.model, image)

    @cached_property
    def reach(self) -> int:
        """Distance in pixels beyond which a logit does not depend on the picture.

        Raises:
            AtrousError: The network cannot be exported, and the exported graph tells the reach.
        """
        from atrous.export.graph import write_graph

        try:
            return write_graph(self.model).reach
        except AtrousError as error:
            raise AtrousError(
                "E-TILES",
                f"this network cannot see a picture in tiles: {error.what}",
                where=error.where,
                fix="allow more memory, so that the picture is seen whole",
            ) from error

    @property
    def bytes_fixed(self) -> int:
        """Estimated memory of the process apart from pictures."""
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        return _BYTES_OF_PROCESS + 2 * weights

    @cached_property
    def bytes_per_pixel(self) -> int:
        """Estimated memory for each pixel seen at a time: twice that of the widest module."""
        side, widest = 512, 0

        def look(path: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal widest
            widest = max(widest, sum(4 * x.numel() for x in (*inputs, output)))

        logits = walk_shapes(self.model, (side, side), look)
        return (2 * widest + 3 * 4 * logits.numel()) // side**2

    def high_level(self, tile: Pixels) -> NDArray[np.float32] | None:
        """Maps a tile (H, W, C) to the features that image pooling averages, (h, w, C)."""
        if self._image_pooling is None:
            return None
        with torch.inference_mode():
            images = self.model.normalize(_images(self.model, tile))
            return _channels_last(self.model.encoder.backbone(images)[0])

    def tile_logits(self, tile: Pixels, pooled: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Maps a tile to logits as `coarse_logits` does, with the pooled features (C,) given."""
        if pooled is None or self._image_pooling is None:
            return self.coarse_logits(tile)
        given = torch.from_numpy(pooled).to(self.model.normalize.mean)[None, :, None, None]
        hook = self._image_pooling.register_forward_pre_hook(lambda _module, _inputs: (given,))
        try:
            return self.coarse_logits(tile)
        finally:
            hook.remove()

    @property
    def _image_pooling(self) -> nn.Module | None:
        aspp = self.model.encoder.aspp
        return aspp.image_pooling if isinstance(aspp, ASPP) else None


def torch_logits(model: DeepLabV3Plus, picture: Pixels) -> NDArray[np.float32]:
    """Returns the coarse logits (h, w, K) of a picture (H, W, C)."""
    with torch.inference_mode():
        return _channels_last(model.coarse_logits(_images(model, picture)))


def difference(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Returns the largest difference, in standard deviations of the expected values."""
    if expected.shape != found.shape:
        return float("inf")
    return float(np.abs(expected - found).max() / max(float(expected.std()), 1e-6))


def _images(model: DeepLabV3Plus, picture: Pixels) -> Tensor:
    images = torch.tensor(picture)  # a copy, because PIL's memory is read-only
    return images.permute(2, 0, 1)[None].to(model.normalize.mean.device)


def _channels_last(values: Tensor) -> NDArray[np.float32]:
    """Returns (1, C, h, w) as (h, w, C)."""
    return np.ascontiguousarray(values[0].permute(1, 2, 0).float().cpu().numpy())


def fingerprint(model: DeepLabV3Plus) -> str:
    """Hashes architecture and weights, because a model in memory need not have a file."""
    digest = hashlib.sha256(repr(model.architecture).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        # As bytes, because NumPy has no bfloat16.
        plain = tensor.detach().cpu().contiguous().flatten()
        digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
