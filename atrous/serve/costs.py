"""What pictures take, learnt from those that were segmented."""

from collections import deque
from statistics import median_high

TILED = 2.2  # how much longer a pixel takes where tiles overlap
_SMALL = 100_000  # pixels, below which a picture's own cost cannot be told from the fixed one
_REMEMBERED = 31  # pictures; their median is no outlier's victim


class Costs:
    """Estimates seconds as a fixed cost and a rate for each pixel, both medians of late ones."""

    def __init__(self) -> None:
        self.whole_pixels = 0
        self._fixed: deque[float] = deque([0.005], maxlen=_REMEMBERED)
        self._rates: deque[float] = deque([0.0], maxlen=_REMEMBERED)

    def begin(self, seconds: float, pixels: int, whole_pixels: int) -> None:
        """Takes over what a worker measured when it warmed up.

        Args:
            seconds: Its last picture took.
            pixels: Of that picture.
            whole_pixels: Of the largest picture not seen in tiles; 0: none ever is.
        """
        self.whole_pixels = whole_pixels
        if len(self._rates) == 1 and pixels:
            # A fake or very fast model may cost the same at any size: a tenth is called fixed.
            self._fixed = deque([seconds / 10], maxlen=_REMEMBERED)
            self._rates = deque([0.9 * seconds / pixels], maxlen=_REMEMBERED)

    def seconds(self, pixels: int) -> float:
        """Returns what a picture should take."""
        return median_high(self._fixed) + median_high(self._rates) * self._weighted(pixels)

    def learn(self, pixels: int, seconds: float) -> None:
        """Takes note of what a picture took."""
        if pixels < _SMALL:
            self._fixed.append(seconds)
        else:
            rate = (seconds - median_high(self._fixed)) / self._weighted(pixels)
            self._rates.append(max(0.0, rate))

    def _weighted(self, pixels: int) -> float:
        tiled = 0 < self.whole_pixels < pixels
        return pixels * (TILED if tiled else 1.0)
