"""Labels of a georeferenced picture: a tiled, compressed GeoTIFF, written row by row."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from atrous.classes import Color, Labels, unlabelled
from atrous.images.decode import atomic
from atrous.images.raster import CACHE_MEGABYTES, Place

_BLOCK = 256  # side of a tile in pixels


@contextmanager
def labels_tiff(
    path: Path,
    size: tuple[int, int],
    place: Place,
    num_classes: int,
    palette: Sequence[Color] = (),
    mark: str = "",
    *,
    new: bool = False,
) -> Iterator[Callable[[Labels], None]]:
    """Yields a function that adds rows (n, W) of labels; the file is whole or absent.

    It lies where the picture lies. Pixels without a label have the NoData value: 255, or 65535
    above 255 classes.

    Args:
        path: The file.
        size: Height and width.
        place: Of the picture.
        num_classes: Number of classes; decides the type and NoData.
        palette: Colours of the values, stored up to 256.
        mark: A text stored under the key ``atrous``; an empty one is not.
        new: As of `atomic`.
    """
    import rasterio
    from rasterio.windows import Window

    no_data, top = unlabelled(num_classes), 0
    dtype = "uint8" if no_data == 255 else "uint16"

    def write(rows: Labels) -> None:
        nonlocal top
        window = Window(0, top, size[1], len(rows))
        file.write(np.ascontiguousarray(rows, dtype), 1, window=window)
        top += len(rows)

    with (
        atomic(path, new=new) as temporary,
        warnings.catch_warnings(action="ignore"),  # a transform without a coordinate system
        rasterio.Env(GDAL_CACHEMAX=CACHE_MEGABYTES),
        rasterio.open(
            temporary, "w", driver="GTiff", height=size[0], width=size[1], count=1, dtype=dtype,
            nodata=no_data, crs=place.crs, transform=place.transform, tiled=True,
            blockxsize=_BLOCK, blockysize=_BLOCK, compress="deflate", bigtiff="if_safer",
        ) as file,
    ):  # fmt: skip
        if no_data == 255:
            file.write_colormap(1, {value: (*color, 255) for value, color in enumerate(palette)})
        if mark:
            file.update_tags(atrous=mark)
        yield write
