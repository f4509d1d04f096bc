"""What an engine is: NumPy in, NumPy out, whatever runs the network."""

from contextlib import AbstractContextManager
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from atrous.classes import Color
from atrous.images.bands import Bands, Pixels

Precision = Literal["auto", "fp32", "bf16", "int8"]
Device = Literal["cpu", "gpu", "cuda"]


class Engine(Protocol):
    """Runs a model.

    Attributes:
        classes: Names of the classes, in the order of the logits.
        palette: Their colours.
        output_stride: Pixels of the picture per step of the features that image pooling averages.
        logits_stride: Pixels of the picture per step of the coarse logits.
        fingerprint: A hash of the weights. Equal weights have equal fingerprints.
        precision: The arithmetic of the network: ``fp32``, ``bf16`` or ``int8``.
        streams: Calls of `coarse_logits`, from so many threads, that gain time by running together.
        bands: The channels of its pictures, (H, W, C); an engine without it takes 8-bit RGB.
    """

    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    output_stride: int
    logits_stride: int
    fingerprint: str
    precision: str
    streams: int
    bands: Bands

    @property
    def reach(self) -> int:
        """Distance in pixels beyond which a logit does not depend on the picture.

        Image pooling, which sees the whole picture, is not counted.
        """
        ...

    @property
    def bytes_fixed(self) -> int:
        """Estimated memory of the process apart from pictures."""
        ...

    @property
    def bytes_per_pixel(self) -> int:
        """Estimated memory for each pixel that the network sees at a time."""
        ...

    def alone(self) -> AbstractContextManager[object]:
        """Lets no other thread in meanwhile; for pictures that take all the memory."""
        ...

    def coarse_logits(self, image: Pixels) -> NDArray[np.float32]:
        """Maps a picture (H, W, C) to logits (h, w, K) at `logits_stride`."""
        ...

    def high_level(self, tile: Pixels) -> NDArray[np.float32] | None:
        """Maps a tile (H, W, C) to the features that image pooling averages, (h, w, C).

        Returns None for networks without image pooling.
        """
        ...

    def tile_logits(self, tile: Pixels, pooled: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Maps a tile to logits as `coarse_logits` does, with the pooled features (C,) given."""
        ...
