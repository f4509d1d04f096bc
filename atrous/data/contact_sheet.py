"""Contact sheets: pictures with their targets over them, and augmented views."""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from atrous.classes import unlabelled
from atrous.data.dataset import Dataset, FileDataset, Sample, read_pixels
from atrous.errors import AtrousError, printable
from atrous.images.bands import bands_of
from atrous.predict.overlay import display_colors, legend, overlay, stacked

_GAP, _TEXT = 8, 14  # pixels
_WIDTH, _HEIGHT = 320, 240  # of a tile; pictures are fitted into it


class Tile(NamedTuple):
    """A picture of the sheet and the words below it."""

    image: Image.Image
    caption: str = ""


def pick_samples(dataset: Dataset, count: int, seed: int) -> list[int]:
    """Returns indices of `count` samples (or all, if there are fewer), in order."""
    return sorted(random.Random(seed).sample(range(len(dataset)), min(count, len(dataset))))


def sample_tiles(dataset: Dataset, indices: Sequence[int]) -> list[Tile]:
    """Returns two tiles for each sample: the picture, and its target over it or its error."""
    tiles = []
    for index in indices:
        name = dataset.names[index]
        try:
            image, target = dataset[index]
        except AtrousError as error:
            picture = _picture_alone(dataset, index)
            tiles += [Tile(picture, name), Tile(_blank(error.code), error.what)]
            continue
        height, width = target.shape
        tiles += [Tile(fit(Image.fromarray(bands_of(dataset).shown(image))), name)]
        tiles += [Tile(fit_overlay(Sample(image, target), dataset), f"{height} x {width}")]
    return tiles


def fit_overlay(sample: Sample, dataset: Dataset) -> Image.Image:
    """Returns a picture with its target over it, unlabelled pixels darkened, at a tile's size."""
    image, target = sample
    scale = min(_WIDTH / target.shape[1], _HEIGHT / target.shape[0], 1.0)
    size = (max(round(target.shape[1] * scale), 1), max(round(target.shape[0] * scale), 1))
    picture = Image.fromarray(bands_of(dataset).shown(image)).resize(size, Image.Resampling.BOX)
    labels = np.asarray(Image.fromarray(target).resize(size, Image.Resampling.NEAREST))
    void = labels == unlabelled(len(dataset.classes))
    dark = Image.blend(picture, Image.new("RGB", size), 0.6)
    tinted = overlay(picture, labels, dataset.palette)
    return Image.composite(dark, tinted, Image.fromarray(void))


def fit(image: Image.Image) -> Image.Image:
    """Returns a picture no larger than a tile."""
    copy = image.copy()
    copy.thumbnail((_WIDTH, _HEIGHT), Image.Resampling.BOX)
    return copy


def sheet(tiles: Sequence[Tile], columns: int) -> Image.Image:
    """Lays tiles out in rows, each with its caption below."""
    font = ImageFont.load_default(_TEXT)
    rows = -(-len(tiles) // columns)
    step_x, step_y = _WIDTH + _GAP, _HEIGHT + _TEXT + 2 * _GAP
    page = Image.new("RGB", (columns * step_x + _GAP, rows * step_y + _GAP), "white")
    draw = ImageDraw.Draw(page)
    for number, (image, caption) in enumerate(tiles):
        x, y = _GAP + number % columns * step_x, _GAP + number // columns * step_y
        page.paste(image, (x, y + _HEIGHT - image.height))  # right above its caption
        draw.text((x, y + _HEIGHT + 2), _shortened(caption, font), fill="black", font=font)
    return page


def with_legend(page: Image.Image, dataset: Dataset, indices: Sequence[int]) -> Image.Image:
    """Adds the classes that occur in some samples, with their share of the labelled pixels."""
    counts = np.zeros(len(dataset.classes), dtype=np.int64)
    for index in indices:
        try:
            target = dataset[index].target
        except AtrousError:
            continue
        counts += np.bincount(target.ravel(), minlength=len(counts))[: len(counts)]
    shown = np.flatnonzero(counts)
    colors = display_colors(tuple(dataset.palette)).tolist()
    strip = legend(
        [printable(dataset.classes[k]) for k in shown],
        [colors[k] for k in shown],
        (counts[shown] / max(counts.sum(), 1)).tolist(),
        width=page.width,
    )
    return stacked(page, strip)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    text = printable(text)
    if font.getlength(text) <= _WIDTH:
        return text
    while text and font.getlength("..." + text) > _WIDTH:
        text = text[1:]
    return "..." + text


def _picture_alone(dataset: Dataset, index: int) -> Image.Image:
    """Returns the picture of a sample whose target cannot be read, or a blank tile."""
    if isinstance(dataset, FileDataset):
        with suppress(AtrousError):
            pixels, _ = read_pixels(dataset.items[index], dataset.bands)
            return fit(Image.fromarray(dataset.bands.shown(pixels)))
    return _blank()


def _blank(word: str = "") -> Image.Image:
    image = Image.new("RGB", (_WIDTH, _HEIGHT), (235, 235, 235))
    ImageDraw.Draw(image).text((_GAP, _GAP), word, fill=(160, 0, 0))
    return image


def view_tiles(
    dataset: Dataset, index: int, views: int, view: Callable[[int, int], Sample]
) -> list[Tile]:
    """Returns a row of tiles: a sample with its target over it, and augmented views likewise.

    Args:
        dataset: The data set of the sample.
        index: Index of the sample.
        views: How many views.
        view: Called with (i, n); returns view number n of sample i.
    """
    tiles = [Tile(fit_overlay(dataset[index], dataset), dataset.names[index])]
    for number in range(views):
        sample = view(index, number)
        height, width = sample.target.shape
        caption = f"view {number + 1}, {height} x {width}"
        tiles.append(Tile(fit_overlay(sample, dataset), caption))
    return tiles
