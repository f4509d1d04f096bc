"""Made-up pictures in which only near infrared tells two classes apart."""

from pathlib import Path

import numpy as np
from PIL import Image

from atrous.data.dataset import Sample
from atrous.images.bands import Bands

NAMES = ("red", "green", "blue", "nir")


class Fields:
    """A data set of 16-bit pictures (32, 32, C) with discs of the class plant.

    Args:
        count: Number of pictures.
        seed: Other pictures for another seed.
        names: The first of `NAMES`.
    """

    classes = ("other", "plant")
    palette = ((0, 0, 0), (0, 160, 0))

    def __init__(self, count: int, seed: int, names: tuple[str, ...] = NAMES) -> None:
        self.bands = Bands(names, "uint16")
        self.names = [f"{seed}-{index}" for index in range(count)]
        self._seed = seed

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        image, target = field(self._seed, index)
        return Sample(image[..., : len(self.bands.names)], target)

    def fingerprint(self) -> str:
        return f"{self._seed} {self.bands}"


def field(seed: int, index: int, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Returns a picture (side, side, 4) uint16 and its target; red, green and blue are noise."""
    rng = np.random.default_rng([seed, index])
    rows, columns = np.mgrid[:side, :side]
    centre, radius = rng.uniform(0.2 * side, 0.8 * side, 2), rng.uniform(0.22 * side, 0.38 * side)
    target = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    coarse = rng.normal(900, 150, (side // 4, side // 4, 3)).repeat(4, 0).repeat(4, 1)
    colors = coarse + rng.normal(0, 60, (side, side, 3))
    nir = np.where(target, 2600, 1100) + rng.normal(0, 150, (side, side))
    image = np.clip(np.dstack([colors, nir]), 1, 65535).astype(np.uint16)
    return image, target.astype(np.uint8)


def write_fields(root: Path, *, files: bool, counts: tuple[int, int] = (6, 2)) -> Path:
    """Writes fields as a data set and returns its YAML.

    Args:
        root: Folder that is made.
        files: Write each channel into a file of its own, which Pillow reads; otherwise GeoTIFFs of
            four bands in the order blue, green, red, nir.
        counts: Pictures of train and val.
    """
    for split, count in zip(("train", "val"), counts, strict=True):
        (root / "images" / split).mkdir(parents=True)
        (root / "masks" / split).mkdir(parents=True)
        for index in range(count):
            image, target = field(len(split), index)
            stem = root / "images" / split / str(index)
            Image.fromarray(target).save(root / "masks" / split / f"{index}.png")
            if files:
                for name, plane in zip(NAMES, np.moveaxis(image, 2, 0), strict=True):
                    Image.fromarray(np.ascontiguousarray(plane)).save(f"{stem}_{name}.tif")
            else:
                write_geotiff(stem.with_suffix(".tif"), image[..., [2, 1, 0, 3]], at=(split, index))
    sources = [f"'{{stem}}_{name}.tif'" for name in NAMES] if files else [3, 2, 1, 4]
    text = f"""
path: .
train: images/train
val: images/val
names: [other, plant]
channels: [{", ".join(NAMES)}]
bands: [{", ".join(map(str, sources))}]
"""
    (root / "data.yaml").write_text(text)
    return root / "data.yaml"


def write_geotiff(
    path: Path, image: np.ndarray, *, at: tuple[str, int] = ("train", 0), **options: object
) -> Path:
    """Writes a picture (H, W, C) with 10 m pixels; `at` says where on the ground it lies."""
    import rasterio
    from affine import Affine

    west, north = 500_000 + 1000 * at[1], 5_000_000 + 100_000 * (at[0] == "val")
    profile = {
        "driver": "GTiff", "height": image.shape[0], "width": image.shape[1],
        "count": image.shape[2], "dtype": image.dtype.name, "crs": "EPSG:32633",
        "transform": Affine(10, 0, west, 0, -10, north), "nodata": 0, "compress": "deflate",
        **options,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.moveaxis(image, 2, 0))
    return path
