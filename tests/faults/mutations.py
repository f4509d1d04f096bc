"""Damaged pictures and masks: does reading them ever crash, hang, or give other labels?

Each file is a picture or mask of some format and mode with bytes flipped, overwritten, inserted,
removed or cut off. Reading it must end in time, either with `AtrousError` or with a result; and a
PNG mask that is read must hold the labels it was written with. Formats without checksums cannot
promise that, and are counted.

    python -m tests.faults.mutations --count 10000
"""

import argparse
import io
import json
import multiprocessing
import platform
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import PIL
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from atrous.classes import VOC
from atrous.data.dataset import Item
from atrous.data.doctor.measure import measure
from atrous.data.masks.colors import color_table
from atrous.data.masks.files import read_mask
from atrous.data.masks.targets import MaskReader
from atrous.errors import AtrousError
from atrous.images.decode import read_image
from tests.data.trees import blocks, picture

_BAD = ("WRONG", "CRASH", "HANG", "MISSED")
SECONDS = 10  # a file; reading one takes a few milliseconds
_LABELS = blocks(21, size=(60, 80))


class Original(NamedTuple):
    """A whole file, and what it holds."""

    name: str
    data: bytes
    labels: NDArray[np.generic] | None  # None: a picture


@cache
def originals() -> tuple[Original, ...]:
    """Returns masks and pictures in the formats and modes people have."""
    found = []
    for name, image, labels, options in _masks():
        found.append(Original(name, _encoded(image, name, options), labels))
    for name, image, options in _pictures():
        found.append(Original(name, _encoded(image, name, options), None))
    return tuple(found)


def _masks() -> list[tuple[str, Image.Image, NDArray[np.generic], dict[str, Any]]]:
    indexed = Image.fromarray(_LABELS, mode="P")
    indexed.putpalette([channel for color in VOC.palette for channel in color])
    grey, wide = Image.fromarray(_LABELS), _LABELS.astype(np.uint16) * 1000
    colors = Image.fromarray(np.asarray(VOC.palette, np.uint8)[_LABELS])
    few = blocks(2, size=(60, 80))
    return [
        ("palette.png", indexed, _LABELS, {}),
        ("optimised.png", indexed, _LABELS, {"optimize": True, "bits": 8}),
        ("grey.png", grey, _LABELS, {"compress_level": 1}),
        ("stored.png", grey, _LABELS, {"compress_level": 0}),
        ("16bit.png", Image.fromarray(wide), wide, {}),
        ("bilevel.png", Image.fromarray(few.astype(bool)), few, {}),
        ("colour.png", colors, _LABELS, {}),
        ("alpha.png", colors.convert("RGBA"), _LABELS, {}),
        ("grey.tif", grey, _LABELS, {}),
        ("lzw.tif", grey, _LABELS, {"compression": "tiff_lzw"}),
        ("deflate.tif", grey, _LABELS, {"compression": "tiff_adobe_deflate"}),
        ("palette.bmp", indexed, _LABELS, {}),
        ("palette.gif", indexed, _LABELS, {}),
        ("lossless.webp", colors, _LABELS, {"lossless": True}),
    ]


def _pictures() -> list[tuple[str, Image.Image, dict[str, Any]]]:
    image = Image.fromarray(picture(1, size=(60, 80)))
    exif = Image.Exif()
    exif[274] = 6
    second = Image.fromarray(picture(2, size=(60, 80)))
    return [
        ("photo.jpg", image, {"quality": 90, "exif": exif}),
        ("progressive.jpg", image, {"progressive": True}),
        ("cmyk.jpg", image.convert("CMYK"), {}),
        ("photo.png", image, {}),
        ("animated.png", image, {"save_all": True, "append_images": [second]}),
        ("photo.webp", image, {}),
        ("animated.gif", image, {"save_all": True, "append_images": [second]}),
        ("photo.bmp", image, {}),
        ("photo.tif", image, {"compression": "tiff_lzw"}),
        ("jpeg.tif", image, {"compression": "jpeg"}),
        ("photo.ppm", image, {}),
    ]


def _encoded(image: Image.Image, name: str, options: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    image.save(
        stream, {".jpg": "JPEG", ".tif": "TIFF"}.get(name[-4:], name.split(".")[1]), **options
    )
    return stream.getvalue()


def flip_bits(data: bytearray, rng: Generator) -> None:
    for _ in range(int(rng.integers(1, 9))):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))


def overwrite(data: bytearray, rng: Generator) -> None:
    start = int(rng.integers(len(data)))
    stop = min(len(data), start + int(rng.integers(1, 65)))
    data[start:stop] = rng.bytes(stop - start)


def truncate(data: bytearray, rng: Generator) -> None:
    del data[int(rng.integers(len(data))) :]


def remove(data: bytearray, rng: Generator) -> None:
    start = int(rng.integers(len(data)))
    del data[start : start + int(rng.integers(1, 65))]


def insert(data: bytearray, rng: Generator) -> None:
    start = int(rng.integers(len(data)))
    data[start:start] = rng.bytes(int(rng.integers(1, 65)))


def change_header(data: bytearray, rng: Generator) -> None:
    data[int(rng.integers(min(64, len(data))))] = int(rng.integers(256))


_CHANGES: tuple[Callable[[bytearray, Generator], None], ...] = (
    flip_bits, overwrite, truncate, remove, insert, change_header,
)  # fmt: skip


def mutate(seed: int) -> tuple[Original, bytes]:
    """Returns an original and a damaged copy of it, a function of the seed."""
    rng = np.random.default_rng(seed)
    original = originals()[int(rng.integers(len(originals())))]
    return original, damage(original.data, rng)


def damage(whole: bytes, rng: Generator) -> bytes:
    """Returns a copy with something changed."""
    data = bytearray(whole)
    while bytes(data) == whole:
        _CHANGES[int(rng.integers(len(_CHANGES)))](data, rng)
    return bytes(data)


class Outcome(NamedTuple):
    """What came of reading a damaged file."""

    seed: int
    name: str
    result: str  # refused, same, changed (no checksum could tell), or one of _BAD
    detail: str = ""


def examine(seed: int) -> Outcome:
    """Reads a damaged file in every way a data set is read."""
    original, data = mutate(seed)
    signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(SECONDS)
    try:
        return Outcome(seed, original.name, _read(original, data))
    except TimeoutError:
        return Outcome(seed, original.name, "HANG")
    except Exception as error:
        return Outcome(seed, original.name, "CRASH", f"{type(error).__name__}: {error}")
    finally:
        signal.alarm(0)


def _too_slow(number: int, frame: object) -> None:
    raise TimeoutError


def _read(original: Original, data: bytes) -> str:
    if original.labels is None:
        result = _read_picture(data)
    else:
        result = _read_mask(original, original.labels, data)
    troubled = _doctor_finds_trouble(original, data)
    if result == "refused" and not troubled:
        return "MISSED"  # training would stop at a file the doctor passed
    return result


def _read_mask(original: Original, written: NDArray[np.generic], data: bytes) -> str:
    try:
        labels = read_mask(io.BytesIO(data), colors=color_table(VOC.palette)).labels
    except AtrousError:
        return "refused"
    if np.array_equal(labels, written):
        return "same"
    return "WRONG" if original.name.endswith(".png") else "changed"


def _read_picture(data: bytes) -> str:
    try:
        read_image(io.BytesIO(data))
    except AtrousError:
        return "refused"
    return "changed"


def _doctor_finds_trouble(original: Original, data: bytes) -> bool:
    with TemporaryDirectory() as folder:
        damaged = Path(folder, original.name)
        damaged.write_bytes(data)
        whole = Path(folder, "whole.png")
        is_mask = original.labels is not None
        Image.fromarray(_LABELS if not is_mask else picture(3, size=(60, 80))).save(whole)
        item = Item("a", whole, damaged) if is_mask else Item("a", damaged, whole)
        found = measure(item, MaskReader(60_000, colors=color_table(VOC.palette)))
    return any(trouble.code != "E-DATA-SIZE" for trouble in found.troubles)


def run(count: int, *, first_seed: int = 0, workers: int = 1) -> list[Outcome]:
    """Examines `count` damaged files."""
    seeds = range(first_seed, first_seed + count)
    if workers == 1:
        return list(map(examine, seeds))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(pool.map(examine, seeds, chunksize=50))


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Counts outcomes, and lists the bad ones."""
    counts = Counter(outcome.result for outcome in outcomes)
    png = [o for o in outcomes if o.name.endswith(".png")]
    masks = {original.name for original in originals() if original.labels is not None}
    return {
        "files": len(outcomes),
        "results": dict(sorted(counts.items())),
        "png_masks": sum(o.name in masks for o in png),
        "png_masks_with_other_labels": counts["WRONG"],
        "crashes": counts["CRASH"],
        "hangs": counts["HANG"],
        "missed_by_the_doctor": counts["MISSED"],
        "bad": [o._asdict() for o in outcomes if o.result in _BAD],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    started = time.monotonic()
    outcomes = run(arguments.count, first_seed=arguments.seed, workers=arguments.workers)
    result = summary(outcomes) | {
        "seconds": round(time.monotonic() - started, 1),
        "versions": {"python": platform.python_version(), "pillow": PIL.__version__},
    }
    json.dump(result, sys.stdout, indent=1)
    sys.exit(bool(result["bad"]))


if __name__ == "__main__":
    main()
