"""The parts of a scene: sky, hills, water, shore, trees, houses, boats and balloons.

Each function paints one object on a `Canvas`, in the colours of a `Light`. A generator varies
the object. The order of the draws must not change: it decides which picture a seed gives.
"""

import numpy as np
from numpy.random import Generator

from atrous.classes import ClassTable, Color
from atrous.data.dataset import Sample
from atrous.data.scenes.painting import Canvas, Light, Point, noise

SCENES = ClassTable(
    "scenes",
    ("sky", "water", "land", "tree", "house", "boat", "balloon"),
    (
        (135, 190, 240), (30, 80, 170), (170, 150, 100), (40, 130, 60), (200, 60, 50),
        (240, 200, 60), (170, 70, 190),
    ),
)  # fmt: skip
SKY, WATER, LAND, TREE, HOUSE, BOAT, BALLOON = range(7)


def _usually(rng: Generator, hue: float) -> float:
    """Returns about the given hue two times in three, any other hue otherwise."""
    return hue + rng.normal(0, 0.02) if rng.random() < 2 / 3 else rng.uniform()


def paint_sky(canvas: Canvas, rng: Generator, light: Light) -> None:
    """Covers the canvas with sky, clouds and a sun or moon."""
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


def paint_hills(canvas: Canvas, rng: Generator, light: Light, hue: float, horizon: float) -> None:
    """Paints one or two ranges of hills on the horizon; the farther range is paler."""
    for haze in (0.75, 0.45)[rng.integers(0, 2) :]:
        color = light.haze(light.color(hue + rng.uniform(-0.05, 0.05), 0.4, 0.55), haze)
        height = rng.uniform(0.06, 0.2) * (haze + 0.3)
        _paint_ridge(canvas, rng, horizon - 0.5 * height, height, color)


def _paint_ridge(canvas: Canvas, rng: Generator, y: float, height: float, color: Color) -> None:
    ridge = noise(rng, (2, 41), (2, rng.uniform(4, 10)))[0]
    ridge = y + 0.5 * height * (ridge + 0.3 * noise(rng, (2, 41), (2, 2))[0])
    points = list(zip(np.linspace(-0.01, canvas.width + 0.01, 41), ridge, strict=True))
    canvas.polygon([(-0.01, 1.1), *points, (canvas.width + 0.01, 1.1)], color, LAND)


def paint_water(canvas: Canvas, rng: Generator, light: Light, horizon: float) -> None:
    """Turns everything below the horizon into water that mirrors the upper part."""
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
    share = rng.uniform(0.3, 0.55)
    canvas.flood(reflected * (1 - share) + deep * share, WATER, below=horizon)


def paint_shore(canvas: Canvas, rng: Generator, light: Light, hue: float, shore: float) -> None:
    """Covers everything below a wavy shore line with land."""
    sand = light.color(hue + rng.uniform(-0.1, 0.1), 0.25, 0.85)
    state = rng.bit_generator.state
    _paint_ridge(canvas, rng, shore, 0.12, sand)
    rng.bit_generator.state = state  # the same line again, a little lower
    grass = light.color(hue, rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.75))
    _paint_ridge(canvas, rng, shore + 0.02, 0.12, grass)


def draw_tree(canvas: Canvas, rng: Generator, light: Light, foot: Point, height: float) -> None:
    """Draws a conifer or a leafy tree of the given height on its foot."""
    x, y = foot
    trunk = light.color(rng.uniform(0.05, 0.1), 0.45, 0.35)
    canvas.line([(x, y), (x, y - 0.6 * height)], 0.07 * height, trunk, TREE)
    hue = _usually(rng, 0.33)
    dark, bright = light.color(hue, 0.65, 0.36), light.color(hue, 0.6, 0.56)
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


def draw_house(canvas: Canvas, rng: Generator, light: Light, foot: Point, height: float) -> None:
    """Draws a house of the given height, the middle of its front wall on `foot`."""
    x, y = foot
    wall = light.color(_usually(rng, 0.1), rng.uniform(0.1, 0.4), rng.uniform(0.75, 1))
    roof = light.color(_usually(rng, 0.01), 0.6, rng.uniform(0.4, 0.7))
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


def draw_boat(canvas: Canvas, rng: Generator, light: Light, keel: Point, height: float) -> None:
    """Draws a sailing boat of the given height, mast included."""
    x, y = keel
    hull = light.color(_usually(rng, 0.62), rng.uniform(0.5, 0.8), rng.uniform(0.3, 0.7))
    pale = 0.08 if rng.random() < 2 / 3 else 0.5
    sail, jib = (light.color(rng.uniform(), pale, rng.uniform(0.85, 1)) for _ in range(2))
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


def draw_balloon(
    canvas: Canvas, rng: Generator, light: Light, center: Point, radius: float
) -> None:
    """Draws a hot-air balloon; rope and basket hang below the envelope."""
    x, y = center
    radius *= rng.uniform(0.9, 1.2)
    first = light.color(rng.uniform(), rng.uniform(0.6, 0.95), rng.uniform(0.75, 1))
    second = light.color(rng.uniform(), rng.uniform(0, 0.6), rng.uniform(0.8, 1))
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


def finish(canvas: Canvas, rng: Generator, horizon: float) -> Sample:
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
