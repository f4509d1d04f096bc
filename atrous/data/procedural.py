"""Scenes: painted landscapes with exact labels, made from a seed and nothing else.

Every picture has sky above water above land, with trees, houses, boats and balloons in front of
one another. Colours say little about classes: water mirrors what stands behind it, hills fade into
the sky, walls, sails, leaves and balloons share their hues, and each picture has its own light.
What decides is texture, shape and place, so a network must see context.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from atrous.classes import ClassTable, Color
from atrous.data.dataset import Sample, combined_digest
from atrous.data.painting import Canvas, Light, Point, noise
from atrous.errors import AtrousError

SCENES = ClassTable(
    "scenes",
    ("sky", "water", "land", "tree", "house", "boat", "balloon"),
    (
        (135, 190, 240), (30, 80, 170), (170, 150, 100), (40, 130, 60), (200, 60, 50),
        (240, 200, 60), (170, 70, 190),
    ),
)  # fmt: skip
SKY, WATER, LAND, TREE, HOUSE, BOAT, BALLOON = range(7)

_LAND_HUES = (0.1, 0.14, 0.22, 0.28, 0.33, 0.38, 0.47, 0.83)  # ochre, greens, teal, heather

_VERSION = 1  # part of the fingerprint: raise it when the same seed gives other pictures


@dataclass(frozen=True)
class Scenes:
    """A `Dataset` of painted landscapes; sample `index` depends on seed, index and size alone.

    Args:
        seed: Chooses the pictures; no two seeds share one.
        n: How many pictures.
        size: (height, width) in pixels. The layout of a picture is the same at every height.
    """

    seed: int
    n: int
    size: tuple[int, int] = (128, 160)

    classes: ClassVar[tuple[str, ...]] = SCENES.classes
    palette: ClassVar[tuple[Color, ...]] = SCENES.palette

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``scene-SEED-INDEX``."""
        return tuple(f"scene-{self.seed}-{index:06d}" for index in range(self.n))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        """Paints picture `index`."""
        if not -self.n <= index < self.n:
            raise IndexError(f"scene {index} of {self.n}")
        return paint_scene(self.seed, index % self.n, self.size)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(self.n))

    def fingerprint(self) -> str:
        """Hashes what the pictures are made from."""
        parts = ("scenes", _VERSION, self.seed, self.n, *self.size)
        return combined_digest(str(part).encode() for part in parts)


def scenes(seed: int, n: int, *, size: tuple[int, int] = (128, 160)) -> Scenes:
    """Returns `n` painted landscapes with exact labels, as a data set and as an iterable.

    >>> image, target = scenes(0, 1)[0]
    >>> image.shape, target.shape
    ((128, 160, 3), (128, 160))

    Args:
        seed: 0 or more; training and validation take different seeds.
        n: How many pictures. The first ones are the same whatever `n` is.
        size: (height, width) in pixels.

    Raises:
        AtrousError: A negative seed or count, or a size below 16 pixels.
    """
    if seed < 0 or n < 0 or min(size) < 16:
        raise AtrousError(
            "E-SCENES",
            f"no scenes of seed {seed}, count {n}, size {size[0]}x{size[1]}",
            fix="seed and count are 0 or more, height and width 16 or more",
        )
    return Scenes(seed, n, (size[0], size[1]))


def paint_scene(seed: int, index: int, size: tuple[int, int]) -> Sample:
    """Returns one landscape as (image (H, W, 3) uint8, target (H, W) uint8)."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    canvas, light = Canvas(size), Light(rng)
    land_hue = rng.choice(_LAND_HUES) + rng.normal(0, 0.025)
    horizon = rng.uniform(0.36, 0.48)
    shore = horizon + rng.uniform(0.24, 0.32)

    def x() -> float:
        return rng.uniform(0, canvas.width)

    _paint_sky(canvas, rng, light)
    _paint_hills(canvas, rng, light, land_hue, horizon)
    for _ in range(rng.integers(0, 3)):  # on the far bank: mirrored by the water
        draw = _draw_tree if rng.random() < 0.5 else _draw_house
        draw(canvas, rng, light, (x(), horizon), rng.uniform(0.18, 0.26), land_hue)
    _draw_balloon(canvas, rng, light, (x(), rng.uniform(0.12, horizon - 0.2)), 0.1)
    _paint_water(canvas, rng, light, horizon)
    for y in sorted(rng.uniform(horizon + 0.1, shore, rng.integers(1, 3))):  # the far ones first
        _draw_boat(canvas, rng, light, (x(), y), rng.uniform(0.34, 0.5))
    if rng.random() < 0.5:  # close by: in front of hills, water and boats
        _draw_balloon(canvas, rng, light, (x(), rng.uniform(0.2, 0.4)), 0.17)
    _paint_shore(canvas, rng, light, land_hue, shore)
    for depth in sorted(rng.uniform(0, 1, rng.integers(2, 6))):
        draw = _draw_tree if rng.random() < 0.6 else _draw_house
        foot = (x(), shore + 0.06 + depth * (0.94 - shore))
        draw(canvas, rng, light, foot, rng.uniform(0.36, 0.5) * (0.85 + 0.3 * depth), land_hue)
    return _finish(canvas, rng, horizon)


def _paint_sky(canvas: Canvas, rng: Generator, light: Light) -> None:
    height = canvas.size[0]
    down = np.linspace(0, 1.6, height, dtype=np.float32).clip(0, 1)[:, None, None]
    sky = light.top * (1 - down) + light.bottom * down  # (H, 1, 3)
    grain = height * rng.uniform(0.05, 0.12)
    clouds = noise(rng, canvas.size, (grain, 3 * grain))
    clouds = clouds + 0.5 * noise(rng, canvas.size, (grain / 2, 1.5 * grain))
    cover = (np.float32(0.9) * clouds - np.float32(rng.uniform(-0.1, 0.9))).clip(0, 0.85)[..., None]
    white = 0.5 * light.bottom + 127 * light.tint
    canvas.flood(sky * (1 - cover) + white * cover, SKY)
    center = (rng.uniform(0, canvas.width), rng.uniform(0.08, 0.35))
    radius = rng.uniform(0.03, 0.06)
    sun = light.haze((255, 252, 240), 0.15)
    canvas.ellipse(center, (radius, radius), sun, SKY)


def _paint_hills(canvas: Canvas, rng: Generator, light: Light, hue: float, horizon: float) -> None:
    for haze in (0.75, 0.45)[rng.integers(0, 2) :]:
        color = light.haze(light.color(hue + rng.uniform(-0.05, 0.05), 0.4, 0.55), haze)
        height = rng.uniform(0.06, 0.2) * (haze + 0.3)
        _paint_ridge(canvas, rng, horizon - 0.5 * height, height, color)


def _paint_ridge(canvas: Canvas, rng: Generator, y: float, height: float, color: Color) -> None:
    ridge = noise(rng, (2, 41), (2, rng.uniform(4, 10)))[0]
    ridge = y + 0.5 * height * (ridge + 0.3 * noise(rng, (2, 41), (2, 2))[0])
    points = list(zip(np.linspace(-0.01, canvas.width + 0.01, 41), ridge, strict=True))
    canvas.polygon([(-0.01, 1.1), *points, (canvas.width + 0.01, 1.1)], color, LAND)


def _paint_water(canvas: Canvas, rng: Generator, light: Light, horizon: float) -> None:
    """Turns everything below the horizon into water that mirrors what is above."""
    picture, _ = canvas.develop()
    height, width = canvas.size
    waves = noise(rng, (height, 2), (0.02 * height, 1))
    row = np.arange(height, dtype=np.float32)
    bank = horizon * height
    mirror = bank - 1 - (row - bank) * rng.uniform(1, 1.3) + 0.01 * height * waves[:, 0]
    column = np.arange(width) + 0.015 * height * waves[:, 1:]
    mirror = np.rint(mirror).clip(0, bank - 1).astype(int)
    column = np.rint(column).clip(0, width - 1).astype(int)
    reflected = picture[mirror[:, None], column]  # (H, W, 3)
    deep = np.array(light.color(rng.uniform(0.5, 0.62), 0.6, 0.45), np.float32)
    share = rng.uniform(0.15, 0.4)
    canvas.flood(reflected * (1 - share) + deep * share, WATER, below=horizon)


def _paint_shore(canvas: Canvas, rng: Generator, light: Light, hue: float, shore: float) -> None:
    sand = light.color(hue + rng.uniform(-0.1, 0.1), 0.25, 0.85)
    state = rng.bit_generator.state
    _paint_ridge(canvas, rng, shore, 0.12, sand)
    rng.bit_generator.state = state  # the same line again, a little lower
    grass = light.color(hue, rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.75))
    _paint_ridge(canvas, rng, shore + 0.02, 0.12, grass)


def _draw_tree(
    canvas: Canvas, rng: Generator, light: Light, foot: Point, height: float, hue: float
) -> None:
    x, y = foot
    trunk = light.color(rng.uniform(0.05, 0.1), 0.45, 0.35)
    canvas.line([(x, y), (x, y - 0.6 * height)], 0.07 * height, trunk, TREE)
    hue += rng.normal(0, 0.06)
    dark, bright = light.color(hue, 0.6, 0.38), light.color(hue, 0.55, 0.6)
    if rng.random() < 0.4:  # a conifer
        width = rng.uniform(0.24, 0.32) * height
        for step in range(4):
            top, bottom = y - height * (1 - 0.2 * step), y - height * (0.62 - 0.16 * step)
            half = width * (0.5 + 0.17 * step)
            canvas.polygon([(x, top), (x - half, bottom), (x + half, bottom)], dark, TREE)
            edge = (x - 0.2 * half, bottom)
            canvas.polygon([(x, top), (x - half, bottom), edge], bright, TREE)
        return
    blobs = [
        ((x + 0.22 * height * a, y - height * (0.66 + 0.16 * b)), height * r)
        for a, b, r in zip(
            rng.uniform(-1, 1, 9), rng.uniform(-1, 1, 9), rng.uniform(0.14, 0.2, 9), strict=True
        )
    ]
    for center, radius in blobs:
        canvas.ellipse(center, (radius, radius), dark, TREE)
    for (cx, cy), radius in blobs:
        center = (cx - 0.25 * radius, cy - 0.3 * radius)
        canvas.ellipse(center, (0.6 * radius, 0.6 * radius), bright, TREE)


def _draw_house(
    canvas: Canvas, rng: Generator, light: Light, foot: Point, height: float, hue: float
) -> None:
    x, y = foot
    wall = light.color(rng.uniform(), rng.uniform(0.1, 0.5), rng.uniform(0.6, 0.95))
    roof_hue = rng.uniform() if rng.random() < 0.5 else hue
    roof = light.color(roof_hue, 0.5, rng.uniform(0.3, 0.6))
    pane = light.haze(light.color(0.13, 0.5, 1.0), rng.uniform(0.2, 0.9))
    width, eaves = rng.uniform(0.6, 1.1) * height, y - rng.uniform(0.5, 0.65) * height
    left, right, top = x - width / 2, x + width / 2, y - height
    chimney = x + rng.choice((-0.25, 0.25)) * width
    canvas.box(chimney - 0.03 * height, top, chimney + 0.05 * height, eaves, wall, HOUSE)
    canvas.box(left, eaves, right, y, wall, HOUSE)
    ridge = rng.choice((0.0, 0.3)) * width
    roof_line = [(left - 0.06 * width, eaves), (x - ridge, top), (x + ridge, top)]
    canvas.polygon([*roof_line, (right + 0.06 * width, eaves)], roof, HOUSE)
    columns = int(rng.integers(2, 5))
    door = int(rng.integers(0, columns))
    for column in range(columns):
        middle = left + width * (column + 0.5) / columns
        half = 0.22 * width / columns
        upper, lower = eaves + 0.3 * (y - eaves), eaves + 0.65 * (y - eaves)
        if column == door:
            canvas.box(middle - half, upper, middle + half, y, roof, HOUSE)
        else:
            canvas.box(middle - half, upper, middle + half, lower, pane, HOUSE)


def _draw_boat(canvas: Canvas, rng: Generator, light: Light, keel: Point, height: float) -> None:
    x, y = keel
    hull = light.color(rng.uniform(), rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.8))
    sail = light.color(rng.uniform(), rng.uniform(0.0, 0.5), rng.uniform(0.7, 1.0))
    jib = light.color(rng.uniform(), rng.uniform(0.0, 0.5), rng.uniform(0.7, 1.0))
    side = rng.choice((-1.0, 1.0))
    length = rng.uniform(0.8, 1.0) * height
    bow, stern = x - 0.5 * side * length, x + 0.5 * side * length
    deck, top, mast = y - 0.22 * height, y - height, x + 0.05 * side * length
    luff, boom = top + 0.03 * height, deck - 0.02 * height
    leech = x + 0.45 * side * length
    canvas.polygon([(mast, luff), (mast, boom), (leech, boom)], sail, BOAT)
    if rng.random() < 0.7:
        canvas.polygon([(mast, luff), (mast, boom), (bow, boom)], jib, BOAT)
    wood = light.color(0.08, 0.4, 0.4)
    canvas.line([(mast, luff), (bow, deck)], 0.008, wood, BOAT)
    canvas.line([(mast, deck), (mast, top)], 0.035 * height, wood, BOAT)
    bottom = [(x + 0.38 * side * length, y), (x - 0.3 * side * length, y)]
    canvas.polygon([(bow, deck), (stern, deck), *bottom], hull, BOAT)


def _draw_balloon(
    canvas: Canvas, rng: Generator, light: Light, center: Point, radius: float
) -> None:
    x, y = center
    radius *= rng.uniform(0.9, 1.2)
    first = light.color(rng.uniform(), rng.uniform(0.3, 0.8), rng.uniform(0.5, 1.0))
    second = light.color(rng.uniform(), rng.uniform(0.0, 0.6), rng.uniform(0.6, 1.0))
    basket = y + 1.75 * radius
    for side in (-1, 1):
        rope = [(x + 0.55 * side * radius, y + 0.8 * radius), (x + 0.14 * side * radius, basket)]
        canvas.line(rope, 0.008, second, BALLOON)
    neck = y + 1.25 * radius
    flare = [(x - 0.8 * radius, y + 0.6 * radius), (x - 0.25 * radius, neck)]
    flare += [(2 * x - px, py) for px, py in reversed(flare)]
    canvas.polygon(flare, first, BALLOON)
    for step, share in enumerate((1.0, 0.72, 0.45, 0.18)):  # gores
        color = second if step % 2 else first
        canvas.ellipse(center, (share * radius, radius), color, BALLOON)
    half = 0.18 * radius
    brown = light.color(0.08, 0.5, 0.4)
    canvas.box(x - half, basket - half, x + half, basket + half, brown, BALLOON)


# Strength of each texture by class: (fine grain, blotches, streaks along the horizon).
_TEXTURE = np.zeros((7, 3), np.float32)
_TEXTURE[WATER] = (0.00, 0.05, 0.20)
_TEXTURE[LAND] = (0.18, 0.10, 0.00)
_TEXTURE[TREE] = (0.12, 0.28, 0.00)
_TEXTURE[HOUSE] = (0.00, 0.00, 0.06)


def _finish(canvas: Canvas, rng: Generator, horizon: float) -> Sample:
    """Lays texture over the classes, then the camera's exposure and noise."""
    picture, target = canvas.develop()
    height = canvas.size[0]
    shade = np.zeros(canvas.size, np.float32)
    for index, grain in enumerate(((1.4, 1.4), (3.0, 3.0), (1.3, 7.0))):
        tall, wide = (side * height / 128 for side in grain)  # texture grows with the things
        shade += _TEXTURE[:, index][target] * noise(rng, canvas.size, (tall, wide))
    shade[: round(horizon * height)] *= np.float32(0.5)  # fainter far away
    picture *= (1 + shade)[..., None] * np.float32(rng.uniform(0.9, 1.15))
    picture += rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(1, 7))
    return Sample(np.clip(np.rint(picture), 0, 255).astype(np.uint8), target)
