"""The engine that runs a torch model as it is."""

import copy
import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from atrous.model import DeepLabV3Plus


class TorchEngine:
    """Runs its own copy of a model in evaluation mode; see `atrous.engines.Engine`."""

    def __init__(self, model: DeepLabV3Plus) -> None:
        self.classes = model.classes
        self.palette = model.palette
        self.logits_stride = model.logits_stride
        self.model = copy.deepcopy(model).eval().to(memory_format=torch.channels_last)
        self._device = next(model.parameters()).device
        self.fingerprint = fingerprint(model)

    def coarse_logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps a picture (H, W, 3), RGB, to logits (h, w, K) at `logits_stride`."""
        images = torch.tensor(image).permute(2, 0, 1)[None]  # a copy: PIL's memory is read-only
        with torch.inference_mode():
            logits = self.model.coarse_logits(images.to(self._device))  # (1, K, h, w)
        return np.ascontiguousarray(logits[0].permute(1, 2, 0).float().cpu().numpy())


def fingerprint(model: DeepLabV3Plus) -> str:
    """Hashes architecture and weights: the file they came from may be gone, or never was."""
    digest = hashlib.sha256(repr(model.architecture).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
