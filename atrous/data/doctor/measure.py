"""Measures one picture and its annotation: `measure`.

The files are read as training reads them, so that every error of training is found (progressive
JPEGs are read faster, see `atrous.data.doctor.jpeg`). Values, colours and a fingerprint of the
content go into the measurement: the checks judge them over all pictures.
"""

import hashlib
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.classes import Color
from atrous.data.dataset import Item, ReadTarget, Target, file_digest, other_size, read_pixels
from atrous.data.doctor.jpeg import without_refinements
from atrous.data.masks.colors import count_colors
from atrous.data.masks.files import Mask
from atrous.data.masks.shapes import crosses_itself
from atrous.data.masks.targets import MaskReader, ShapeReader
from atrous.data.normalisation import Sums, sums_of
from atrous.errors import AtrousError
from atrous.images.bands import PLAIN, Bands
from atrous.images.decode import check_file, decoding, open_image, orientation_of, upright
from atrous.images.raster import place_of
from atrous.images.rgb import to_rgb
from atrous.images.stores import Named
from atrous.images.tars import Member, opened

THUMBNAIL = 16  # pixels a side, of the grey copy near duplicates are found by
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_COLORS = 512  # kept of a mask in unknown colours
_SHRINK = 8  # JPEG is decoded at this fraction: the whole file is read, with far less arithmetic


class Ground(NamedTuple):
    """Where a picture lies: reference system, size of a pixel, and left, bottom, right, top."""

    crs: str
    pixel: tuple[float, float]
    bounds: tuple[float, float, float, float]


@dataclass
class Measurement:
    """The measurements of one sample."""

    name: str
    picture: str
    annotation: str
    size: tuple[int, int] | None = None  # height, width; upright
    format: str = ""  # of the picture, as Pillow names it
    turned: bool = False  # whether EXIF turns the picture
    digest: bytes = b""  # of the picture file
    annotation_digest: bytes = b""  # of the mask file, or of the target drawn
    thumbnail: bytes = b""
    mask: str = ""  # format and mode of a mask file
    values: dict[int, int] = field(default_factory=dict)  # value in the mask file -> pixels
    colors: dict[int, Color] = field(default_factory=dict)  # value -> colour in the palette
    unknown_colors: dict[Color, int] = field(default_factory=dict)  # colour -> pixels
    counts: dict[int, int] = field(default_factory=dict)  # value in the target -> pixels
    edges: int = 0  # changes of value along the rows of the mask
    blended: int = 0  # of these, at values between their neighbours, a pixel or two wide
    sums: Sums | None = None  # of the values of each channel
    ground: Ground | None = None
    crossings: tuple[str, ...] = ()  # shapes whose outline crosses itself
    troubles: tuple[AtrousError, ...] = ()  # why the sample cannot be trained on


def measure(sample: Item, read_target: ReadTarget, bands: Bands = PLAIN) -> Measurement:
    """Reads a sample as training would, and returns its measurements. Errors are among them."""
    result = Measurement(sample.name, str(sample.image), str(sample.annotation))
    as_plain = bands.plain and sample.window is None
    picture_of = _look_at_picture if as_plain else partial(_look_at_channels, bands=bands)
    for look in (picture_of, _look_at_annotation):
        try:
            look(sample, read_target, result)
        except AtrousError as error:
            result.troubles += (error,)
        except MemoryError:
            shortage = AtrousError("E-DATA-MEMORY", "not enough memory", where=sample.image)
            result.troubles += (shortage,)
    return result


def _look_at_picture(sample: Item, read_target: ReadTarget, result: Measurement) -> None:
    stream = _stream(sample.image)
    data = stream.getvalue()
    result.digest = hashlib.sha256(data).digest()
    if coarse := without_refinements(data):
        stream = Named(coarse, str(sample.image))
    # PNG is the only format with checksums.
    with open_image(stream, checksums=data[:8] == _PNG, decode=False) as image:
        width, height = image.size
        orientation = orientation_of(image)
        result.turned = orientation > 1
        result.size = (width, height) if orientation > 4 else (height, width)
        result.format = image.format or ""
        if image.format == "JPEG":
            least = 2 * THUMBNAIL
            image.draft("L", (max(width // _SHRINK, least), max(height // _SHRINK, least)))
            image.load()
        else:
            image = to_rgb(upright(image))
        result.thumbnail = _thumbnail(image, (width, height))


def _look_at_channels(
    sample: Item, read_target: ReadTarget, result: Measurement, *, bands: Bands
) -> None:
    """Looks at a picture of any channels, or at a part of a scene."""
    assert isinstance(sample.image, Path)
    pixels, absent = read_pixels(sample, bands)
    height, width = result.size = pixels.shape[0], pixels.shape[1]
    result.format = sample.image.suffix[1:].upper()
    window = sample.window or (0, 0, height, width)
    result.digest = hashlib.sha256(file_digest(sample.image) + str(window).encode()).digest()
    result.thumbnail = _thumbnail(Image.fromarray(bands.shown(pixels)), (width, height))
    result.sums = sums_of(pixels, absent)
    if place := place_of(sample.image):
        a, b, c, d, e, f = place.transform[:6]
        corners = [
            (a * x + b * y + c, d * x + e * y + f)
            for x in (window[1], window[1] + width)
            for y in (window[0], window[0] + height)
        ]
        sides = zip(*corners, strict=True)
        (left, right), (bottom, top) = ((min(side), max(side)) for side in sides)
        pixel = (right - left) / width, (top - bottom) / height
        result.ground = Ground(str(place.crs or "unknown"), pixel, (left, bottom, right, top))


def _thumbnail(image: Image.Image, size: tuple[int, int]) -> bytes:
    """Returns a small grey copy of a picture that was decoded at `size` or smaller."""
    shrunk = max(1, round(size[0] / image.width))
    box = (0, 0, size[0] / shrunk, size[1] / shrunk)  # the decoder pads the last blocks
    if image.width != -(-size[0] // shrunk):  # turned by EXIF
        box = (0, 0, image.width, image.height)
    side = (THUMBNAIL, THUMBNAIL)
    return image.convert("L").resize(side, Image.Resampling.BILINEAR, box=box).tobytes()


def _stream(path: Path | Member) -> BytesIO:
    """Returns a file's bytes as a stream that knows its name."""
    if isinstance(path, Member):
        return path.read()
    with decoding(path):
        check_file(path)
        return Named(path.read_bytes(), str(path))


def _look_at_annotation(sample: Item, read_target: ReadTarget, result: Measurement) -> None:
    if isinstance(read_target, MaskReader) and not str(sample.annotation).endswith(".mat"):
        size = _of_mask(sample, read_target, result)
    elif result.size is None:
        return  # shapes are drawn at the picture's size
    else:
        target = read_target(sample, result.size)
        size = target.shape
        result.counts = _totals(*runs(target))
        result.annotation_digest = hashlib.sha256(target.tobytes()).digest()
    if isinstance(read_target, ShapeReader) and result.size:
        result.crossings = tuple(
            f"{sample.annotation}: {shape.where}"
            for shape in read_target.shapes(sample, result.size)
            if any(map(crosses_itself, shape.outlines))
        )
    if result.size is not None and size != result.size:
        raise other_size(result.size, size, f"{result.picture}, {result.annotation}")


def _of_mask(sample: Item, reader: MaskReader, result: Measurement) -> tuple[int, ...]:
    mask = _read_mask(sample, reader, result)
    result.mask = f"{mask.format} {mask.mode}"
    values, lengths = runs(mask.labels)
    result.values = _totals(values, lengths)
    result.colors = {v: mask.palette[v] for v in result.values if v < len(mask.palette)}
    step = np.sign(np.diff(values.astype(np.int32)))
    between = (step[1:] == step[:-1]) & (lengths[1:-1] <= 2)
    result.edges = len(step)
    result.blended = int(np.count_nonzero(between))
    # It is enough to map one pixel of each value.
    once = np.array([list(result.values)], dtype=mask.labels.dtype)
    indices = reader.target(mask._replace(labels=once), result.annotation)
    for index, pixels in zip(indices[0].tolist(), result.values.values(), strict=True):
        result.counts[index] = result.counts.get(index, 0) + pixels
    return mask.labels.shape


def _read_mask(sample: Item, reader: MaskReader, result: Measurement) -> Mask:
    assert sample.annotation is not None
    if sample.window:
        mask = reader.read(opened(sample.annotation), sample.window)
        result.annotation_digest = hashlib.sha256(mask.labels.tobytes()).digest()
        return mask
    stream = _stream(sample.annotation)
    result.annotation_digest = hashlib.sha256(stream.getbuffer()).digest()
    try:
        return reader.read(stream)
    except AtrousError as error:
        if error.code == "E-MASK-COLOR":
            stream.seek(0)
            with open_image(stream) as image:
                counted = count_colors(np.asarray(image.convert("RGB")))
            result.unknown_colors = dict(counted.most_common(_MOST_COLORS))
        raise


def runs(labels: Target) -> tuple[Target, NDArray[np.int64]]:
    """Returns value and length of each run of equal pixels, row after row."""
    flat = labels.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)
    return flat[ends], np.diff(ends, prepend=-1)


def _totals(values: Target, lengths: NDArray[np.int64]) -> dict[int, int]:
    totals = np.bincount(values, weights=lengths)  # exact: far below 2**53 pixels
    return {int(value): int(totals[value]) for value in np.flatnonzero(totals)}
