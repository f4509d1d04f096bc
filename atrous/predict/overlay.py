"""Pictures of label maps: palettes, overlays and legends."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from atrous.classes import Color, Labels

_TINT = 140  # opacity of the tint, 0..255
_DISTINCT = 0.08  # least distance of two display colours in Oklab; .02 is just noticeable
_MOST_SEPARATED = 64  # with more classes, no choice of colours is distinct

# What a colour looks like, in linear RGB, to people who lack one kind of cone entirely
# (Machado, Oliveira and Fernandes, 2009, severity 1): protanopia, deuteranopia, tritanopia.
_EYES = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    ]
)
# Oklab (Ottosson, 2020): linear RGB to cones, cones to lightness and two axes of colour.
_TO_CONES = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
_TO_LAB = np.array(
    [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
)


def palette_image(labels: Labels, palette: Sequence[Color]) -> Image.Image:
    """Returns an index picture: mode P with the palette, or 16-bit grey above 256 classes."""
    if labels.dtype == np.uint16:
        return Image.fromarray(labels)
    image = Image.fromarray(labels, mode="P")
    image.putpalette([channel for color in palette for channel in color])
    return image


def overlay(image: Image.Image, labels: Labels, palette: Sequence[Color]) -> Image.Image:
    """Tints a picture by class and draws the borders between classes.

    Classes with a black colour (backgrounds, by custom) are left untinted.

    Args:
        image: The picture, RGB.
        labels: (H, W) of the same size.
        palette: Colour of each class.
    """
    border = len(palette) + (len(palette) == 255)  # no class has this index; 255 is the unknown
    colors = np.zeros((max(256, border + 1, int(labels.max()) + 1), 3), np.uint8)
    colors[: len(palette)] = display_colors(tuple(palette))
    colors[border] = 255
    opacities = np.where(colors.any(axis=1), _TINT, 0).astype(np.uint8)
    opacities[border] = 255
    indices = labels.astype(np.uint16 if border >= 255 else labels.dtype)
    indices[borders(labels)] = border
    if indices.dtype == np.uint8:  # Pillow looks up in a third of NumPy's time
        paletted = Image.fromarray(indices, mode="P")
        paletted.putpalette(colors.tobytes())
        tint, mask = paletted.convert("RGB"), Image.fromarray(indices).point(opacities.tolist())
    else:
        tint, mask = Image.fromarray(colors[indices]), Image.fromarray(opacities[indices])
    result = Image.composite(tint, image.convert("RGB"), mask)
    result.info.clear()  # drops the picture's metadata, such as GPS positions
    return result


def opacity(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns the opacity of a cut-out's pixels, 0..255, from their probability."""
    return np.rint(255 * np.clip(2 * probability - 0.5, 0, 1)).astype(np.uint8)


@lru_cache(maxsize=32)
def display_colors(palette: tuple[Color, ...]) -> NDArray[np.uint8]:
    """Returns the colours of the classes on overlays and legends, (K, 3).

    A class keeps its `brightened` palette colour if people with any kind of colour vision can tell
    it from the colours of the classes before. Otherwise it gets the nearest colour that is
    distinct. Label files keep the palette itself.

    Args:
        palette: Colour of each class; black is kept, for backgrounds.
    """
    wanted = brightened(palette)
    if len(palette) > _MOST_SEPARATED:
        return wanted
    steps = (0, 43, 85, 128, 170, 213, 255)
    colors = np.array([c for c in product(steps, repeat=3) if max(c) >= 128], np.uint8)
    seen_colors = seen(colors)  # (4, n, 3)
    result = wanted.copy()
    for index in range(len(palette)):
        if not wanted[index].any() or _distance(result[: index + 1]) >= _DISTINCT:
            continue
        others = seen(result[:index])[:, None]  # (4, 1, index, 3)
        gaps = np.linalg.norm(seen_colors[:, :, None] - others, axis=-1).min(axis=(0, 2))
        change = np.linalg.norm(seen_colors[0] - seen(wanted[index : index + 1])[0], axis=-1)
        # The nearest distinct colour; if there is none, the most distinct one.
        best = np.where(gaps >= _DISTINCT, change, np.inf)
        result[index] = colors[best.argmin() if np.isfinite(best).any() else gaps.argmax()]
    return result


def seen(colors: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns colours (n, 3) in Oklab as four kinds of eyes see them, (4, n, 3).

    Full colour vision, then protanopia, deuteranopia and tritanopia. Distances in Oklab are
    differences as seen.
    """
    values = colors.astype(np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    cones = np.clip(linear @ _EYES.transpose(0, 2, 1), 0, 1) @ _TO_CONES.T
    lab: NDArray[np.float64] = np.cbrt(cones) @ _TO_LAB.T
    return lab


def _distance(colors: NDArray[np.uint8]) -> float:
    """Returns the distance of the last colour to the nearest other, for the eye that sees least."""
    if len(colors) < 2:
        return np.inf
    lab = seen(colors)
    return float(np.linalg.norm(lab[:, :-1] - lab[:, -1:], axis=-1).min())


def brightened(palette: Sequence[Color]) -> NDArray[np.uint8]:
    """Returns lighter colours, (K, 3), because many PASCAL colours darken a picture too much."""
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
    classes: Sequence[str],
    colors: Sequence[Color],
    shares: Sequence[float],
    *,
    width: int,
) -> Image.Image:
    """Draws a strip of colour, name and share for each class, wrapped at `width` pixels.

    Args:
        classes: Names.
        colors: As on the overlay; see `display_colors`.
        shares: Share of the picture of each class, 0..1.
        width: Width of the strip in pixels; a longer entry is cut off.
    """
    size = 14
    font = _font(size)
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
    for (x, y), entry, color in zip(places, entries, colors, strict=True):
        draw.rectangle((x, y, x + size, y + size), fill=tuple(map(int, color)), outline="black")
        draw.text((x + size + 5, y - 1), entry, fill="black", font=font)
    return strip


_font = lru_cache(ImageFont.load_default)  # it reads the font anew in each call


def stacked(picture: Image.Image, strip: Image.Image) -> Image.Image:
    """Returns a picture with a strip below it."""
    width = max(picture.width, strip.width)
    result = Image.new("RGB", (width, picture.height + strip.height), "white")
    result.paste(picture, (0, 0))
    result.paste(strip, (0, picture.height))
    return result
