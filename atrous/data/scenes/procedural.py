"""Scenes: painted landscapes with exact labels, made from a seed and nothing else.

Every picture has sky above water above land, with trees, houses, boats and balloons in front of
one another. Colour hints at classes and no more: water mirrors what stands behind it, hills fade
into the sky, one tree or house in three has any colour at all, and each picture has its own light.
What decides is texture, shape and place, so a network must see context.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from atrous.classes import Color
from atrous.data.dataset import Sample, combined_digest
from atrous.data.scenes.painting import Canvas, Light
from atrous.data.scenes.scenery import (
    SCENES,
    draw_balloon,
    draw_boat,
    draw_house,
    draw_tree,
    finish,
    paint_hills,
    paint_shore,
    paint_sky,
    paint_water,
)
from atrous.errors import AtrousError, unknown_name

_LAND_HUES = (0.09, 0.12, 0.15, 0.18, 0.22, 0.28, 0.47, 0.83)  # ochre, greens, teal, heather

# Training and validation use seeds that never overlap.
_SPLITS = {"train": (1_000_000, 1000), "val": (2_000_000, 100)}  # seed, pictures

_VERSION = 1  # part of the fingerprint: raise it when the same seed gives other pictures


@dataclass(frozen=True)
class Scenes:
    """A `Dataset` of painted landscapes; sample `index` depends on seed, index and size alone.

    Args:
        seed: Chooses the pictures. Two seeds have no picture in common.
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
        """Hashes version, seed, count and size."""
        parts = ("scenes", _VERSION, self.seed, self.n, *self.size)
        return combined_digest(str(part).encode() for part in parts)


def scenes(seed: int, n: int, *, size: tuple[int, int] = (128, 160)) -> Scenes:
    """Returns `n` painted landscapes with exact labels, as a data set and as an iterable.

    >>> image, target = scenes(0, 1)[0]
    >>> image.shape, target.shape
    ((128, 160, 3), (128, 160))

    Args:
        seed: 0 or more; training and validation take different seeds.
        n: Number of pictures. A larger `n` adds pictures and changes none.
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

    paint_sky(canvas, rng, light)
    paint_hills(canvas, rng, light, land_hue, horizon)
    for _ in range(rng.integers(0, 3)):  # on the far bank: mirrored by the water
        draw = draw_tree if rng.random() < 0.5 else draw_house
        draw(canvas, rng, light, (x(), horizon), rng.uniform(0.18, 0.26))
    draw_balloon(canvas, rng, light, (x(), rng.uniform(0.12, horizon - 0.2)), 0.1)
    paint_water(canvas, rng, light, horizon)
    for y in sorted(rng.uniform(horizon + 0.1, shore, rng.integers(1, 3))):  # the far ones first
        draw_boat(canvas, rng, light, (x(), y), rng.uniform(0.34, 0.5))
    if rng.random() < 0.5:  # close by: in front of hills, water and boats
        draw_balloon(canvas, rng, light, (x(), rng.uniform(0.2, 0.4)), 0.17)
    paint_shore(canvas, rng, light, land_hue, shore)
    for depth in sorted(rng.uniform(0, 1, rng.integers(2, 6))):
        draw = draw_tree if rng.random() < 0.6 else draw_house
        foot = (x(), shore + 0.06 + depth * (0.94 - shore))
        draw(canvas, rng, light, foot, rng.uniform(0.36, 0.5) * (0.85 + 0.3 * depth))
    return finish(canvas, rng, horizon)


def scenes_split(split: str, seed: int = 0) -> Scenes:
    """Returns the scenes that training uses under a split's name: 1000 of train, 100 of val.

    Args:
        split: "train" or "val".
        seed: Of the run: each trains on scenes of its own, and all are validated on the same.

    Raises:
        AtrousError: Another split.
    """
    if split not in _SPLITS:
        raise unknown_name("split", split, _SPLITS)
    first, n = _SPLITS[split]
    return scenes(first + seed if split == "train" else first, n)
