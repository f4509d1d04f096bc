"""Labels of a georeferenced picture: a tiled, compressed GeoTIFF, written row by row."""

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from atrous.classes import Color, Labels, unlabelled
from atrous.images.decode import atomic
from atrous.images.raster import CACHE_MEGABYTES, Place

_BLOCK = 256  # side of a tile in pixels


class LabelsTiff:
    """A GeoTIFF that is being written: whole or absent.

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

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        place: Place,
        num_classes: int,
        palette: Sequence[Color] = (),
        mark: str = "",
        *,
        new: bool = False,
    ) -> None:
        self._new = new
        self._path, self._size, self._place, self._mark = path, size, place, mark
        self._no_data = unlabelled(num_classes)
        self._palette = {value: (*color, 255) for value, color in enumerate(palette)}
        self._stack = ExitStack()
        self._top = 0

    def __enter__(self) -> Self:
        import rasterio

        with self._stack as stack:
            temporary = stack.enter_context(atomic(self._path, new=self._new))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # a transform without a coordinate system is not news
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE_MEGABYTES))
            self._file: Any = stack.enter_context(
                rasterio.open(
                    temporary, "w", driver="GTiff", height=self._size[0], width=self._size[1],
                    count=1, dtype="uint8" if self._no_data == 255 else "uint16",
                    nodata=self._no_data, crs=self._place.crs, transform=self._place.transform,
                    tiled=True, blockxsize=_BLOCK, blockysize=_BLOCK, compress="deflate",
                    bigtiff="if_safer",
                )
            )  # fmt: skip
            if self._no_data == 255:
                self._file.write_colormap(1, self._palette)
            if self._mark:
                self._file.update_tags(atrous=self._mark)
            self._stack = stack.pop_all()
        return self

    def write(self, rows: Labels) -> None:
        """Adds rows (n, W)."""
        from rasterio.windows import Window

        window = Window(0, self._top, self._size[1], len(rows))
        self._file.write(np.ascontiguousarray(rows, self._file.dtypes[0]), 1, window=window)
        self._top += len(rows)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)
