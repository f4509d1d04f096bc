"""What an engine is: one picture in, coarse logits out, NumPy on both sides."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from atrous.classes import Color


class Engine(Protocol):
    """Runs a model, whatever executes it.

    Attributes:
        classes: Names of the classes, in the order of the logits.
        palette: Their colours.
        logits_stride: Pixels of the picture per step of the coarse logits.
        fingerprint: Equal for equal weights and settings, so that finished work can be told.
    """

    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    logits_stride: int
    fingerprint: str

    def coarse_logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps a picture (H, W, 3), RGB, to logits (h, w, K) at `logits_stride`."""
        ...
