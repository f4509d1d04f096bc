"""Label maps people can look at: palettes, overlays and legends."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from atrous.classes import Color

Labels = NDArray[np.uint8] | NDArray[np.uint16]


def palette_image(labels: Labels, palette: Sequence[Color]) -> Image.Image:
    """Returns an index picture: mode P with the palette, or 16-bit grey above 256 classes."""
    if labels.dtype == np.uint16:
        return Image.fromarray(labels)
    image = Image.fromarray(labels, mode="P")
    image.putpalette([channel for color in palette for channel in color])
    return image


def overlay(
    image: Image.Image, labels: Labels, palette: Sequence[Color], *, opacity: float = 0.55
) -> Image.Image:
    """Tints a picture by class and draws the borders between classes.

    Classes with a black colour (backgrounds, by custom) are left untinted.

    Args:
        image: The picture, RGB.
        labels: (H, W) of the same size.
        palette: Colour of each class.
        opacity: Of the tint, 0..1.
    """
    colors = np.zeros((max(len(palette), int(labels.max()) + 1), 3), np.uint8)
    colors[: len(palette)] = brightened(palette)
    tint = Image.fromarray(colors[labels])
    mask = np.where(colors.any(axis=1), round(255 * opacity), 0).astype(np.uint8)[labels]
    mask[borders(labels)] = 255
    tint.paste("white", mask=Image.fromarray(borders(labels)))
    result = Image.composite(tint, image.convert("RGB"), Image.fromarray(mask))
    result.info.clear()  # of the picture: comments and positions are not for whoever gets this
    return result


def brightened(palette: Sequence[Color]) -> NDArray[np.uint8]:
    """Returns lighter colours, (K, 3), in which many PASCAL colours would drown a picture."""
    colors = np.asarray(palette, np.float64).reshape(-1, 3)
    brightest = np.maximum(colors.max(axis=1, keepdims=True), 1)
    return np.rint(colors * np.sqrt(255 / brightest)).astype(np.uint8)


def borders(labels: Labels) -> NDArray[np.bool_]:
    """Returns where a pixel's right or lower neighbour has another label, (H, W)."""
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def legend(
    classes: Sequence[str], palette: Sequence[Color], shares: Sequence[float], *, width: int
) -> Image.Image:
    """Draws a strip of tint, name and share for each class, wrapped at `width` pixels."""
    size = 14
    font = ImageFont.load_default(size)
    entries = [f"{name} {100 * share:.1f} %" for name, share in zip(classes, shares, strict=True)]
    places, x, y = [], size // 2, size // 2
    for entry in entries:
        length = int(font.getlength(entry)) + 3 * size
        if x + length > width and x > size // 2:
            x, y = size // 2, y + 2 * size
        places.append((x, y))
        x += length
    strip = Image.new("RGB", (width, y + 2 * size), "white")
    draw = ImageDraw.Draw(strip)
    for (x, y), entry, color in zip(places, entries, brightened(palette), strict=True):
        draw.rectangle((x, y, x + size, y + size), fill=tuple(map(int, color)), outline="black")
        draw.text((x + size + 5, y - 1), entry, fill="black", font=font)
    return strip
