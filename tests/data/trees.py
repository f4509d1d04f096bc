"""Small data sets on disk, in the ways people have them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.classes import VOC, Color

Array = NDArray[np.generic]


def picture(seed: int = 0, size: tuple[int, int] = (72, 96)) -> NDArray[np.uint8]:
    """Returns a smooth colour picture (H, W, 3) that no other seed gives."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))


def blocks(
    num_classes: int, seed: int = 0, size: tuple[int, int] = (72, 96), *, first: int = 0
) -> NDArray[np.uint8]:
    """Returns labels (H, W) in blocks of 8 pixels, in which every class occurs."""
    rng = np.random.default_rng(seed)
    rows, columns = -(-size[0] // 8), -(-size[1] // 8)
    cells = np.arange(rows * columns) % num_classes + first
    grid = rng.permutation(cells).reshape(rows, columns).astype(np.uint8)
    return np.kron(grid, np.ones((8, 8), np.uint8))[: size[0], : size[1]]


def save(path: Path, pixels: Array, *, palette: tuple[Color, ...] = (), **options: object) -> Path:
    """Writes pixels in the format of the path's suffix, with a palette if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image = Image.fromarray(pixels, mode="P")
        image.putpalette([channel for color in palette for channel in color])
    image.save(path, **options)
    return path


def write(path: Path, text: str | bytes = "") -> Path:
    """Writes a file and the folders it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def voc(root: Path, splits: Mapping[str, int]) -> dict[str, NDArray[np.uint8]]:
    """Makes a VOC devkit with some samples a split; returns its labels by name."""
    labels, seed = {}, 0
    for split, count in splits.items():
        names = [f"{split}_{i:03d}" for i in range(count)]
        write(root / "ImageSets/Segmentation" / f"{split}.txt", "\n".join(names) + "\n")
        for name in names:
            seed += 1
            labels[name] = blocks(21, seed)
            save(root / "JPEGImages" / f"{name}.jpg", picture(seed), quality=90)
            save(root / "SegmentationClass" / f"{name}.png", labels[name], palette=VOC.palette)
    return labels


def folders(root: Path, *, num_classes: int = 3, count: int = 4) -> dict[str, NDArray[np.uint8]]:
    """Makes images/ and masks/ with train/ and val/ in them, and classes.txt."""
    labels = {}
    for seed in range(2 * count):
        split, name = ("train", "val")[seed % 2], f"picture{seed}"
        labels[name] = blocks(num_classes, seed)
        save(root / "images" / split / f"{name}.jpg", picture(seed))
        save(root / "masks" / split / f"{name}.png", labels[name])
    write(root / "classes.txt", "\n".join(f"name{k}" for k in range(num_classes)))
    return labels
