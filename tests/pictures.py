"""A tiny folder of classified pictures: discs, frames and stripes."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("disc", "frame", "stripes")
SIDE = 64


def draw(kind: str, rng: np.random.Generator) -> Image.Image:
    """Draws one 64x64 picture in random colours."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    size = rng.uniform(14, 26)
    inside = {
        "disc": np.hypot(x, y) < size,
        "frame": np.abs(np.maximum(abs(x), abs(y)) - size) < 5,
        "stripes": np.sin((x + rng.uniform(0, 9)) / rng.uniform(2, 3)) > 0,
    }[kind]
    dark, light = rng.integers(0, 90, 3), rng.integers(160, 255, 3)
    noise = rng.integers(0, 20, (SIDE, SIDE, 1))
    return Image.fromarray((np.where(inside[..., None], light, dark) - noise).clip(0).astype("u1"))


def image_folder(root: Path, *, train: int = 8, val: int = 4) -> Path:
    """Writes root/train/CLASS/*.JPEG and root/val/CLASS/*.JPEG."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for kind in CLASSES:
            folder = root / split / kind
            folder.mkdir(parents=True)
            for index in range(count):
                draw(kind, rng).save(folder / f"{kind}_{index}.JPEG", quality=95)
    return root
