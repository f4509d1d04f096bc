"""A canvas that paints a picture and its exact label map with the same strokes.

Lengths are fractions of the picture's height and points are (x, y) from the top left, so that a
drawing has one layout at every size. Strokes fall on a grid of 3 x 3 samples a pixel: the picture
is their mean, the label that of the pixel's centre.
"""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from atrous.classes import Color

SUPERSAMPLING = 3  # odd, so that the middle sample is the pixel's centre

Point = tuple[float, float]
Float = NDArray[np.float32]

# Sky colours (top, bottom); each picture's lie between two of these.
_SKIES = (
    ((58, 120, 205), (188, 219, 244)),  # noon
    ((84, 110, 178), (250, 196, 150)),  # dawn
    ((60, 48, 110), (242, 124, 84)),  # dusk
    ((12, 18, 52), (62, 76, 128)),  # night
    ((146, 156, 168), (214, 217, 216)),  # overcast
    ((128, 92, 158), (252, 184, 190)),  # rose
    ((18, 62, 84), (120, 190, 170)),  # green dusk
)


class Light:
    """The sky and the tint that one picture's daylight gives every colour."""

    def __init__(self, rng: Generator) -> None:
        first, second = rng.choice(len(_SKIES), 2, replace=False)
        skies = np.array(_SKIES, np.float32)
        blend = np.float32(rng.uniform(0, 0.5))
        self.top, self.bottom = skies[first] * (1 - blend) + skies[second] * blend
        self.tint = 0.6 + 0.4 * (0.3 * self.top + 0.7 * self.bottom) / 255

    def color(self, hue: float, saturation: float, value: float) -> Color:
        """Returns a colour as it looks in this light; hue wraps around at 1."""
        rgb = colorsys.hsv_to_rgb(hue % 1, saturation, min(value, 1.0))
        red, green, blue = (round(255 * c * float(t)) for c, t in zip(rgb, self.tint, strict=True))
        return red, green, blue

    def haze(self, color: Color, amount: float) -> Color:
        """Returns a colour as seen from far away: mixed with the sky at the horizon."""
        red, green, blue = (
            round(c * (1 - amount) + float(h) * amount)
            for c, h in zip(color, self.bottom, strict=True)
        )
        return red, green, blue


class Canvas:
    """A picture being painted, and its labels."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.width = size[1] / size[0]  # in heights
        self._unit = SUPERSAMPLING * size[0]
        self._fine = (SUPERSAMPLING * size[1], SUPERSAMPLING * size[0])  # Pillow's (width, height)
        self._picture = Image.new("RGB", self._fine)
        self._labels = Image.new("L", self._fine)
        self._brush, self._marker = ImageDraw.Draw(self._picture), ImageDraw.Draw(self._labels)

    def flood(self, picture: Float, label: int, *, below: float = 0.0) -> None:
        """Covers everything below a height with that part of a picture (H, W, 3) in 0..255."""
        pixels = Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
        fine = pixels.resize(self._fine, Image.Resampling.NEAREST)
        box = (0, round(below * self._unit), *self._fine)
        self._picture.paste(fine.crop(box), box)
        self._labels.paste(label, box)

    def polygon(self, points: Sequence[Point], color: Color, label: int) -> None:
        """Fills a polygon."""
        fine = [(x * self._unit, y * self._unit) for x, y in points]
        self._brush.polygon(fine, fill=color)
        self._marker.polygon(fine, fill=label)

    def box(self, left: float, top: float, right: float, bottom: float, c: Color, k: int) -> None:
        """Fills an upright rectangle."""
        self.polygon(((left, top), (right, top), (right, bottom), (left, bottom)), c, k)

    def ellipse(self, center: Point, radii: Point, color: Color, label: int) -> None:
        """Fills an ellipse with the given half axes."""
        (x, y), (rx, ry) = center, radii
        corners = [(s * self._unit) for s in (x - rx, y - ry, x + rx, y + ry)]
        self._brush.ellipse(corners, fill=color)
        self._marker.ellipse(corners, fill=label)

    def line(self, points: Sequence[Point], width: float, color: Color, label: int) -> None:
        """Draws a line of at least one sample's width."""
        fine = [(x * self._unit, y * self._unit) for x, y in points]
        pixels = max(1, round(width * self._unit))
        self._brush.line(fine, fill=color, width=pixels, joint="curve")
        self._marker.line(fine, fill=label, width=pixels, joint="curve")

    def develop(self) -> tuple[Float, NDArray[np.uint8]]:
        """Returns the picture (H, W, 3) in 0..255 and the labels (H, W)."""
        picture = np.asarray(self._picture.reduce(SUPERSAMPLING), np.float32)
        middle = SUPERSAMPLING // 2
        labels = np.asarray(self._labels)[middle::SUPERSAMPLING, middle::SUPERSAMPLING]
        return picture, np.ascontiguousarray(labels)


def noise(rng: Generator, size: tuple[int, int], grain: tuple[float, float]) -> Float:
    """Returns smooth noise (H, W) in about -1..1 with spots of `grain` = (height, width) pixels."""
    coarse = (max(2, round(size[0] / grain[0]) + 1), max(2, round(size[1] / grain[1]) + 1))
    spots = Image.fromarray(rng.uniform(-1, 1, coarse).astype(np.float32))
    return np.asarray(spots.resize((size[1], size[0]), Image.Resampling.BILINEAR))
