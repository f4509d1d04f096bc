"""Pictures of any number of channels: TIFF through rasterio, other files through Pillow.

rasterio (the extra ``geo``) reads every compression, cloud-optimised files and separate planes, a
window at a time. Without it, files of one band or of 8-bit RGB and RGBA are read, decoded whole.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError, InputError, missing_extra
from atrous.images.bands import PLAIN, Bands, DType, Pixels
from atrous.images.decode import TIFF_MAGIC, damaged, head_of, name_of, open_image
from atrous.images.pages import no_such_page, split_page
from atrous.images.stores import is_address

CACHE_MEGABYTES = 64  # of decoded blocks, in GDAL
_LARGEST = 1e38  # larger magnitudes in floats, and NaN, are no values

NoData = tuple[float | None, ...]  # of each channel: the value of pixels without a measurement


class Place(NamedTuple):
    """Where a picture lies on the ground.

    Attributes:
        crs: The coordinate reference system, as rasterio's; None if the file names none.
        transform: From pixels to map units, as rasterio's (an `affine.Affine`).
        bounds: Left, bottom, right and top in map units.
        no_data: Of each band.
    """

    crs: Any
    transform: Any
    bounds: tuple[float, ...]
    no_data: NoData


class Raster:
    """Windows of a picture with any channels (`atrous.images.tiff_windows.Windows`).

    Args:
        source: The file; of channels in several files, that of the first channel.
        sources: Where each channel comes from; see `Bands`.

    Attributes:
        size: Height and width.
        channels: Number of channels.
        dtype: ``uint8``, ``uint16`` or ``float32``; other types of files become float32.
        no_data: Of each channel. In float32, `read` gives NaN for it.
        place: Where it lies on the ground; None if the file does not say.
        bytes_held: The most memory that reading takes.
        bytes_per_pixel: Memory for each pixel of a window, its copies and preview included.
        notes: Empty: no value is converted.

    Raises:
        AtrousError: A file is missing or damaged, needs rasterio, or has not these bands.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, source: Path | IO[bytes], sources: Sequence[str] = ()) -> None:
        self._files = [_opened(file) for file in files_of(source, sources)]
        first = self._files[0]
        numbers = [int(text) for text in sources if text.isdigit()]
        if not numbers:
            numbers = [1] if len(self._files) > 1 else list(range(1, first.count + 1))
        self._numbers = numbers
        self.size = first.size
        for file in self._files:
            if file.size != self.size or max(numbers) > file.count:
                raise InputError(
                    "E-IMAGE-BANDS",
                    f"{file.count} bands of {file.size[0]} x {file.size[1]}, where {numbers} of "
                    f"{self.size[0]} x {self.size[1]} (height x width) are expected",
                    where=file.name,
                    fix="name bands that the file has, and resample all files to one size",
                )
        kind = np.result_type(*(kind for file in self._files for kind in file.dtypes)).name
        known: dict[str, DType] = {"uint8": "uint8", "uint16": "uint16"}
        self.dtype = known.get(kind, "float32")
        self.no_data: NoData = tuple(f.no_data[n - 1] for f in self._files for n in numbers)
        self.channels = len(self.no_data)
        self.place = first.place if isinstance(source, Path) else None
        self.bytes_per_pixel = 4 * self.channels * np.dtype(self.dtype).itemsize + 8
        self.bytes_held = (CACHE_MEGABYTES << 20) + sum(file.bytes_held for file in self._files)

    def read(self, top: int, left: int, height: int, width: int) -> Pixels:
        """Returns a window inside the picture, (height, width, C).

        Raises:
            AtrousError: The file is truncated or damaged there.
        """
        window = top, left, height, width
        parts = [file.read(self._numbers, window) for file in self._files]
        pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        if self.dtype != "float32":
            return pixels.astype(self.dtype, copy=False)
        absent = missing(pixels, self.no_data) | ~(np.abs(pixels) < _LARGEST)
        return np.where(absent, np.float32(np.nan), pixels).astype(np.float32)


class PixelsInMemory:
    """Windows of an array (H, W, C), of which there are so many copies while it is made."""

    no_data: NoData = ()
    place: Place | None = None

    def __init__(self, pixels: Pixels, notes: tuple[str, ...] = (), copies: int = 1) -> None:
        self.size = pixels.shape[0], pixels.shape[1]
        self.bytes_held, self.notes = copies * pixels.nbytes, notes
        self._pixels = pixels

    def read(self, top: int, left: int, height: int, width: int) -> Pixels:
        """Returns a window inside the picture, (height, width, C)."""
        return self._pixels[top : top + height, left : left + width]


def open_raster(source: Path | IO[bytes], bands: Bands) -> Raster:
    """Opens a picture that must have some channels.

    Raises:
        AtrousError: As `Raster`; or it has other channels or another type.
    """
    raster = Raster(source, bands.sources)
    bands.checked(np.empty((1, 1, raster.channels), raster.dtype), name_of(source))
    return raster


def open_rgb(path: Path) -> Raster | None:
    """Returns the windows of a TIFF of 8-bit RGB that rasterio reads; None for other files."""
    file = _in_rasterio(path)
    return Raster(path) if file and [*file.dtypes] == ["uint8"] * 3 else None


def missing(pixels: Pixels, no_data: NoData) -> NDArray[np.bool_]:
    """Returns where channels of pixels (H, W, C) have no value, (H, W, C)."""
    absent = np.isnan(pixels) if pixels.dtype == np.float32 else np.zeros(pixels.shape, bool)
    for place, value in enumerate(no_data):
        if value is None or np.isnan(value) or place >= pixels.shape[2]:
            continue
        if pixels.dtype.kind == "f" or 0 <= value <= np.iinfo(pixels.dtype).max:
            # Compared in the type of the file: 1e20 in 32 bits differs from 1e20 in 64.
            absent[..., place] |= pixels[..., place] == np.float64(value).astype(pixels.dtype)
    return absent


def files_of(source: Path | IO[bytes], sources: Sequence[str]) -> list[Path | IO[bytes]]:
    """Returns the files of a picture, of which `source` holds the first channel.

    Raises:
        AtrousError: The name of the file is not that of the first channel.
    """
    if not sources or sources[0].isdigit():
        return [source]
    path, ending = Path(str(name_of(source))), sources[0].removeprefix("{stem}")
    if not path.name.endswith(ending):
        raise InputError(
            "E-IMAGE-BANDS",
            f"not a file of the first channel, whose name would end in {ending}",
            where=path,
            fix="name the file of the first channel; those of the others are found beside it",
        )
    stem = path.name.removesuffix(ending)
    return [path.with_name(name.replace("{stem}", stem)) for name in sources]


def place_of(path: Path) -> Place | None:
    """Returns where a picture lies on the ground; None without rasterio or a georeference.

    Of an address in a store it is not asked: that would fetch the file once more.
    """
    file = _in_rasterio(path)
    return file.place if file else None


def has_rasterio() -> bool:
    """Returns whether rasterio is installed."""
    return find_spec("rasterio") is not None


def _is_tiff(source: Path | IO[bytes]) -> bool:
    file = split_page(source)[0] if isinstance(source, Path) else source
    return head_of(file, 4) in TIFF_MAGIC


def _in_rasterio(path: Path) -> "_File | None":
    """Opens a TIFF of this machine; None without rasterio, and for other or damaged files."""
    with suppress(AtrousError, OSError):
        if not is_address(path) and _is_tiff(path) and has_rasterio():
            return _File(path)
    return None


def _opened(source: Path | IO[bytes]) -> "_File | _Decoded":
    exists = not isinstance(source, Path) or split_page(source)[0].is_file()
    return (_File if exists and _is_tiff(source) and has_rasterio() else _Decoded)(source)


@contextmanager
def _reading(name: object) -> Iterator[None]:
    """Bounds GDAL's memory, and turns rasterio's errors into ours."""
    import rasterio
    from rasterio.errors import RasterioError

    try:
        # A picture without a place is not news.
        with warnings.catch_warnings(action="ignore"), rasterio.Env(GDAL_CACHEMAX=CACHE_MEGABYTES):
            yield
    except RasterioError as error:
        raise damaged(name, f"the picture cannot be decoded: {error}") from None


class _File:
    """A TIFF, through rasterio."""

    bytes_held = 0

    def __init__(self, source: Path | IO[bytes]) -> None:
        import rasterio

        self.name = name_of(source)
        path, page = split_page(source) if isinstance(source, Path) else (source, None)
        with _reading(self.name):
            file = rasterio.open(path, driver="GTiff")
            pages = file.subdatasets  # empty: there is one
            count = len(pages) or 1
            if (page is None and pages) or (page is not None and not 1 <= page <= count):
                raise no_such_page(count, page, self.name)
            self._file = file = rasterio.open(pages[page - 1]) if page and pages else file
            self.size = int(file.height), int(file.width)
            self.count, self.dtypes = int(file.count), file.dtypes
            self.no_data: NoData = tuple(file.nodatavals)
            placed = file.crs is not None or not file.transform.is_identity
            place = Place(file.crs, file.transform, tuple(file.bounds), self.no_data)
            self.place = place if placed else None

    def read(self, numbers: Sequence[int], window: tuple[int, int, int, int]) -> Pixels:
        from rasterio.windows import Window

        top, left, height, width = window
        with _reading(self.name):
            planes = self._file.read(list(numbers), window=Window(left, top, width, height))
        return np.ascontiguousarray(np.moveaxis(planes, 0, 2))


class _Decoded:
    """A file that Pillow decodes whole, with its values as they are."""

    place: Place | None = None

    def __init__(self, source: Path | IO[bytes]) -> None:
        self.name = name_of(source)
        try:
            with open_image(source) as image:
                deep = bool(image.info.get("deep_rgb"))  # of which Pillow keeps the upper 8 bits
                values = np.asarray(image.convert("RGB") if image.mode == "P" else image)
        except AtrousError as error:
            if error.code != "E-IMAGE-FORMAT" or not _is_tiff(source):
                raise
            deep = True
        if deep:
            absent = ModuleNotFoundError(name="rasterio")
            raise missing_extra("reading several bands of more than 8 bits", absent, "geo")
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if values.dtype == bool:
            values = values.astype(np.uint8)
        self._values: Pixels = values[..., None] if values.ndim == 2 else values
        self.size = self._values.shape[0], self._values.shape[1]
        self.count, self.dtypes = self._values.shape[2], (values.dtype,)
        self.no_data: NoData = (None,) * self.count
        self.bytes_held = 2 * values.nbytes

    def read(self, numbers: Sequence[int], window: tuple[int, int, int, int]) -> Pixels:
        top, left, height, width = window
        rows = self._values[top : top + height, left : left + width]
        return rows[..., [number - 1 for number in numbers]]


def read_raster(source: Path | IO[bytes], bands: Bands = PLAIN) -> Pixels:
    """Returns a whole picture (H, W, C) with some channels; errors as `open_raster`."""
    raster = open_raster(source, bands)
    return bands.checked(raster.read(0, 0, *raster.size), name_of(source))
