"""Pictures in and files out: decoding to 8-bit RGB, and files that are whole or absent."""

import hashlib
import os
import platform
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from atrous.errors import AtrousError, InputError, ResourceError
from atrous.images.kinds import HEAD, kind_of
from atrous.images.pages import go_to_page, split_page
from atrous.images.rgb import to_rgb
from atrous.images.stores import fetch, is_address, place, put

# Pillow opens MPO, several JPEGs in one file, as JPEG: the first picture. AVIF needs a Pillow built
# with libavif, as its wheels are; HEIC needs the extra `heif`, JPEG XL the extra `jxl`.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".webp", ".bmp"),
        *(".dib", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".avif"),
        *(".heic", ".heif", ".jxl"),
    )
)
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two are BigTIFF
MAX_PIXELS = 100_000_000  # the largest picture that is decoded whole

_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF", "HEIF", "JXL")
_ORIENTATION = 274  # of EXIF; 1 is upright
# Tags of a TIFF that are EXIF in other files. The other tags describe the TIFF's own pixels.
_ABOUT_A_TIFF = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432, 34665, 34853)

# Pillow only warns at its limit. `_check_pixels` refuses from the header, before decoding.
Image.MAX_IMAGE_PIXELS = None


def read_image(source: str | Path | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes a picture to upright 8-bit RGB.

    The format is decided by content, not by name. EXIF orientation is applied. `to_rgb` says how
    other modes become RGB; ``info["notes"]`` of the result says what it decided. Of an animation
    the first frame is taken.

    Args:
        source: A path or a binary stream.
        max_pixels: Larger pictures are refused from their header.

    Raises:
        AtrousError: Missing, empty, unreadable, truncated, of another format, or too large.
    """
    with open_image(source, max_pixels=max_pixels) as image:
        return upright_rgb(image, where=name_of(source))


def upright_rgb(image: Image.Image, *, where: object = "") -> Image.Image:
    """Converts any Pillow picture to upright 8-bit RGB.

    Raises:
        AtrousError: The picture cannot be decoded, or holds no valid value.
    """
    with decoding(where):
        orientation = orientation_of(image)
        rgb = to_rgb(image)  # first: a turned copy has lost the tags of a TIFF
        if image.format in _ANIMATED and getattr(image, "is_animated", False):
            said = f"frame {image.tell() + 1} of an animation"
            rgb.info["notes"] = (*rgb.info.get("notes", ()), said)
        if orientation == 1:
            return rgb
        rgb.getexif()[_ORIENTATION] = orientation
        return ImageOps.exif_transpose(rgb)


def upright(image: Image.Image) -> Image.Image:
    """Returns the picture turned as its EXIF orientation asks; a broken EXIF block is ignored."""
    if orientation_of(image) == 1:
        return image  # exif_transpose would copy it
    return ImageOps.exif_transpose(image)


def orientation_of(image: Image.Image) -> int:
    """Returns EXIF's orientation, 1 to 8; a broken EXIF block is ignored."""
    if image.format == "JXL":  # its decoder turns the pixels, and leaves the EXIF as it was
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (ValueError, SyntaxError, TypeError, KeyError, OverflowError):
        return 1
    return value if value in range(1, 9) else 1


def exif_of(source: str | Path | IO[bytes]) -> bytes:
    """Returns a picture's EXIF without its orientation: the files made from it are upright."""
    if is_address(source):
        source = fetch(place(source))  # type: ignore[arg-type]
    # Only the header is read, so the picture may have any size.
    with open_image(source, max_pixels=2**62, decode=False) as image:
        exif = image.getexif()
        for tag in set(exif):
            if tag == _ORIENTATION or (image.format == "TIFF" and tag not in _ABOUT_A_TIFF):
                del exif[tag]
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
        source: A path or a binary stream. ``x.tif#3`` is the third page of a stack.
        max_pixels: Larger pictures are refused from their header.
        checksums: Verify the checksums of PNG chunks first, which decoding skips: a flipped bit
            is then an error, not another pixel. No other format has checksums.
        decode: Whether to decode now. Otherwise the block decodes, and every error in the block
            counts as damage of the file.

    Raises:
        AtrousError: As `read_image`.
    """
    where, page = name_of(source), None
    with ExitStack() as stack:
        with decoding(where, source):
            if isinstance(source, (str, Path)):
                source, page = split_page(Path(source))
                check_file(source)
            if checksums:
                _verify(source, where, max_pixels)
            image = stack.enter_context(Image.open(source, formats=_formats(source, where)))
            if image.format == "TIFF":
                go_to_page(image, page, where)
            _check_pixels(image, where, max_pixels)
            # Pillow keeps the upper 8 of 16 bits of a colour picture; `to_rgb` checks them.
            image.info["deep_rgb"] = any(";16" in str(tile[3]) for tile in image.tile) and (
                image.mode in ("RGB", "RGBA")
            )
            if decode:
                image.load()
        with nullcontext() if decode else decoding(where):
            yield image


@contextmanager
def decoding(where: object, source: str | Path | IO[bytes] = "") -> Iterator[None]:
    """Turns every error of a block that only decodes a picture into an `AtrousError`.

    Args:
        where: The name of the picture.
        source: The picture, for the error that names its kind.
    """
    try:
        # Odd metadata of a readable picture is not news.
        with warnings.catch_warnings(action="ignore"):
            yield
    except AtrousError:
        raise
    except UnidentifiedImageError:
        raise _unknown_format(source, where) from None
    except MemoryError as error:
        raise ResourceError(
            "E-IMAGE-MEMORY", "not enough memory to decode the picture", where=where
        ) from error
    except PermissionError as error:
        raise InputError(
            "E-FILE-READ", f"the file cannot be read: {error.strerror}", where=where
        ) from None
    except Exception as error:
        raise damaged(where, f"the picture cannot be decoded: {error}") from None


def damaged(where: object, what: str, code: str = "E-IMAGE-BROKEN") -> InputError:
    """Returns the error of a file that is truncated or damaged."""
    fix = "the file is truncated or damaged; copy it again from its source"
    return InputError(code, what, where=where, fix=fix)


def _formats(source: str | Path | IO[bytes], where: object) -> tuple[str, ...]:
    """Returns the formats to try; HEIC and JPEG XL need packages of their own.

    Raises:
        AtrousError: The package for the picture is missing.
    """
    head = head_of(source, 64)
    # An AVIF may have a brand of both first, and lists its own among the others.
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in head[12:]:
        kind, extra, package, register = "HEIC", "heif", "pi_heif", "register_heif_opener"
    elif head[:2] == b"\xff\x0a" or head[4:8] == b"JXL ":
        kind, extra, package, register = "JPEG XL", "jxl", "pylibjxl", "register_pillow"
    else:
        return FORMATS
    try:
        module = import_module(package)
    except ModuleNotFoundError:
        raise InputError(
            "E-MISSING-EXTRA",
            f"a {kind}, which needs the package {package!r}, and it is not installed",
            where=where,
            fix=f"pip install 'atrous[{extra}]' (in a checkout: pip install '.[{extra}]')",
        ) from None
    getattr(module, register)(**({"thumbnails": False} if extra == "heif" else {}))
    return ("HEIF" if extra == "heif" else "JXL",)


def head_of(source: str | Path | IO[bytes], size: int) -> bytes:
    """Returns the first bytes of a file, or those of a stream from where it stands."""
    if isinstance(source, (str, Path)):
        with Path(source).open("rb") as file:
            return file.read(size)
    place = source.tell()
    head = source.read(size)
    source.seek(place)
    return head


def name_of(source: object) -> object:
    """Returns the name of a picture for error messages."""
    return source if isinstance(source, (str, Path)) else getattr(source, "name", "<stream>")


def _unknown_format(source: str | Path | IO[bytes], where: object) -> AtrousError:
    what, fix = "not a picture in a known format", f"use one of {', '.join(FORMATS)}"
    with suppress(Exception):
        if not isinstance(source, (str, Path)):
            source.seek(0)
        head = head_of(source, HEAD)
        if head[:4] in TIFF_MAGIC:
            tags = ImageFileDirectory_v2(head[:8])
            with Path(str(source)).open("rb") as file:
                file.seek(tags.next)
                tags.load(file)
            bits, count = tags.get(258, (1,)), tags.get(277, 1)
            what = f"a TIFF of {count} bands with {max(bits)} bits each, which is not read"
            fix = "save three of its bands as 8-bit RGB: gdal_translate -b 1 -b 2 -b 3 -ot Byte "
            fix += "-scale IN.tif OUT.tif"
        elif found := kind_of(head):
            what, fix = f"{found[0]}, which is not read as a picture", found[1]
    return InputError("E-IMAGE-FORMAT", what, where=where, fix=fix)


def _verify(source: str | Path | IO[bytes], where: object, max_pixels: int) -> None:
    with Image.open(source, formats=_formats(source, where)) as image:
        _check_pixels(image, where, max_pixels)
        image.verify()
    if not isinstance(source, (str, Path)):
        source.seek(0)


def check_file(path: Path) -> None:
    """Makes sure that a path is a file with content.

    Raises:
        AtrousError: ``E-FILE-MISSING``, ``E-FILE-KIND`` or ``E-FILE-EMPTY``.
    """
    if not path.exists():
        code, what = "E-FILE-MISSING", "no such file"
    elif not path.is_file():
        code, what = "E-FILE-KIND", "not a regular file"
    elif path.stat().st_size == 0:
        code, what = "E-FILE-EMPTY", "the file is empty"
    else:
        return
    raise InputError(code, what, where=path)


def _check_pixels(image: Image.Image, where: object, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(
            "E-IMAGE-PIXELS",
            f"{width}x{height} is {width * height / 1e6:.0f} megapixels, "
            f"more than the {max_pixels / 1e6:.0f} decoded whole",
            where=where,
            fix="shrink or cut the picture, or save it as a plain TIFF of 8 or 16 bits, which "
            "'atrous predict' reads by windows",
        )


@contextmanager
def atomic(path: str | Path, *, new: bool = False, folder: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`, and renames it to `path` if the block succeeds.

    Renaming is atomic, so a reader sees a whole file or none, even if the writer is killed. For an
    address, the temporary file is written to the store by one request.

    Args:
        path: A file, which is replaced, or an address.
        new: Of an address: whether to refuse to replace another.
        folder: Whether it is a folder; an earlier one is removed before the renaming. Not for
            addresses.
    """
    if is_address(path):
        with TemporaryDirectory() as here:
            local = Path(here, "whole" + Path(str(path)).suffix)
            yield local
            put(place(path), local.read_bytes(), new=new)
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{_host()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        if folder:
            temporary.mkdir()
        yield temporary
        if folder:
            _remove(path)
        temporary.replace(path)
    except BaseException:
        _remove(temporary)
        raise


def write(path: Path, data: bytes, *, new: bool = False) -> None:
    """Writes a file whole or not at all; the arguments are those of `atomic`."""
    with atomic(path, new=new) as temporary:
        temporary.write_bytes(data)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@cache
def _host() -> str:
    """Returns a short name of this machine, which may share a folder with others."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes of this machine left unfinished in a folder."""
    if is_address(folder):  # stores have none
        return
    for top, folders, names in os.walk(folder):
        for name in (*folders, *names):
            match = re.match(r"\.tmp-(\d+)-(\w+)-", name)
            if match and match[2] == _host() and not _alive(int(match[1])):
                _remove(Path(top, name))


def _alive(process: int) -> bool:
    if os.name == "nt":  # kill(0) there is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True
