"""Pictures in and out: safe decoding to RGB and files that are either whole or absent."""

import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from atrous.errors import AtrousError, ExitCode

# Decided by content. MPO, several JPEGs in a file, is opened as JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm")
)
MAX_PIXELS = 100_000_000  # of pictures decoded whole

_ORIENTATION = 274  # of EXIF; 1 is upright

Image.MAX_IMAGE_PIXELS = None  # ours is checked from the header, before anything is decoded


def read_image(source: str | Path | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes a picture to upright 8-bit RGB.

    The format is decided by content, not by name. EXIF orientation is applied. Grey, palette,
    bilevel and CMYK pictures are converted; 16-bit ones are scaled to 8 bits, not clipped;
    transparency is laid on white; of an animation the first frame is taken.

    Args:
        source: A path or a binary stream.
        max_pixels: Larger pictures are refused from their header.

    Raises:
        AtrousError: Missing, empty, unreadable, truncated, of another format, or too large.
    """
    with open_image(source, max_pixels=max_pixels) as image:
        return to_rgb(upright(image))


def upright(image: Image.Image) -> Image.Image:
    """Returns the picture turned as its EXIF orientation asks; a broken EXIF block is ignored."""
    try:
        if image.getexif().get(_ORIENTATION, 1) == 1:
            return image  # exif_transpose would copy it
        return ImageOps.exif_transpose(image)
    except (ValueError, SyntaxError, TypeError, KeyError, OverflowError):
        return image


def exif_of(source: str | Path | IO[bytes]) -> bytes:
    """Returns a picture's EXIF without its orientation: what is made of it is upright."""
    with open_image(source, decode=False) as image:
        exif = image.getexif()
    exif.pop(_ORIENTATION, None)
    return exif.tobytes() if exif else b""


@contextmanager
def open_image(
    source: str | Path | IO[bytes],
    *,
    max_pixels: int = MAX_PIXELS,
    checksums: bool = False,
    decode: bool = True,
) -> Iterator[Image.Image]:
    """Opens and decodes a picture in its own mode; Pillow's many errors become one.

    Args:
        source: A path or a binary stream.
        max_pixels: Larger pictures are refused from their header.
        checksums: Verify the checksums of PNG chunks first, which decoding skips: a flipped bit
            is then an error, not another pixel. No other format has checksums.
        decode: Whether to decode now, or leave that to the block.

    Raises:
        AtrousError: As `read_image`.
    """
    where = source if isinstance(source, (str, Path)) else getattr(source, "name", "<stream>")
    if isinstance(source, (str, Path)):
        _check_file(Path(source))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata of a readable picture is not news
            if checksums:
                _verify(source, where, max_pixels)
            with Image.open(source, formats=FORMATS) as image:
                _check_pixels(image, where, max_pixels)
                if decode:
                    image.load()
                yield image
    except UnidentifiedImageError:
        raise AtrousError(
            "E-IMAGE-FORMAT",
            "not a picture in a known format",
            where=where,
            fix=f"use one of {', '.join(FORMATS)}",
            exit_code=ExitCode.SOME_FAILED,
        ) from None
    except AtrousError:
        raise
    except MemoryError as error:
        raise AtrousError(
            "E-IMAGE-MEMORY",
            "not enough memory to decode the picture",
            where=where,
            exit_code=ExitCode.RESOURCES,
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError) as error:
        raise AtrousError(
            "E-IMAGE-BROKEN",
            f"the picture cannot be decoded: {error}",
            where=where,
            fix="the file is truncated or damaged; copy it again from its source",
            exit_code=ExitCode.SOME_FAILED,
        ) from None


def _verify(source: str | Path | IO[bytes], where: object, max_pixels: int) -> None:
    with Image.open(source, formats=FORMATS) as image:
        _check_pixels(image, where, max_pixels)
        image.verify()
    if not isinstance(source, (str, Path)):
        source.seek(0)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise AtrousError(
            "E-FILE-MISSING", "no such file", where=path, exit_code=ExitCode.SOME_FAILED
        )
    if not path.is_file():
        raise AtrousError(
            "E-FILE-KIND", "not a regular file", where=path, exit_code=ExitCode.SOME_FAILED
        )
    if path.stat().st_size == 0:
        raise AtrousError(
            "E-FILE-EMPTY", "the file is empty", where=path, exit_code=ExitCode.SOME_FAILED
        )


def _check_pixels(image: Image.Image, where: object, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise AtrousError(
            "E-IMAGE-PIXELS",
            f"{width}x{height} is {width * height / 1e6:.0f} megapixels, "
            f"more than the {max_pixels / 1e6:.0f} decoded whole",
            where=where,
            fix="shrink or cut the picture, or save it as a plain TIFF of 8 or 16 bits, which "
            "'atrous predict' reads by windows",
            exit_code=ExitCode.SOME_FAILED,
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any Pillow mode to 8-bit RGB (rules in `read_image`)."""
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_scaled_to_8_bits(image))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    values = np.asarray(image, dtype=np.float64)
    if image.mode == "F":
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        values = np.nan_to_num((values - low) / max(high - low, 1e-12)) * 255
    else:  # 16-bit files, also those Pillow opens as 32-bit "I"
        values = values / 257 if values.max(initial=0) <= 65535 else values / 2**23
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its name only if the block succeeds.

    A reader never sees half a file, whatever kills the writer.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
