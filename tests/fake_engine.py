"""An engine without a network: the class of a pixel is which of its channels is brightest."""

import numpy as np


class BrightestChannel:
    """Sees every fourth pixel; see `atrous.engines.Engine`."""

    classes = ("red", "green", "blue")
    palette = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    logits_stride = 4
    fingerprint = "brightest"

    def __init__(self) -> None:
        self.calls = 0

    def coarse_logits(self, image):
        self.calls += 1
        return image[::4, ::4].astype(np.float32)
