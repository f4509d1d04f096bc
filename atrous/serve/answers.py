"""What a worker makes of one picture: its bytes in, the bytes of the answer out."""

import io
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.classes import unlabelled, with_room
from atrous.errors import AtrousError
from atrous.images.decode import open_image, read_image, upright
from atrous.predict import overlay as drawn
from atrous.predict.rle import encode_coco
from atrous.predict.segmentation import JPEG_SIDE, encoded, reduced
from atrous.serve.parameters import FORMATS, Wish

if TYPE_CHECKING:
    from atrous.predict.predictor import Predictor
    from atrous.predict.segmentation import Segmentation

MOST_PROBABILITY_BYTES = 64_000_000  # of an npz answer


def answer(predictor: "Predictor", body: bytes, wish: Wish, max_pixels: int) -> bytes:
    """Segments a picture and returns the bytes of the answer.

    Raises:
        AtrousError: The picture cannot be read or has more pixels, or the answer is too large.
    """
    picture = decode(body, max_pixels=max_pixels, max_side=wish.max_side)
    return _WRITERS[wish.format](predictor(picture), wish.classes)


def decode(body: bytes, *, max_pixels: int, max_side: int = 0) -> Image.Image:
    """Decodes a picture to upright RGB, reduced if its longer side is beyond `max_side`.

    Raises:
        AtrousError: As `atrous.images.read_image`.
    """
    stream = io.BytesIO(body)
    with open_image(stream, max_pixels=max_pixels, decode=False) as image:
        drafted = bool(max_side) and image.format == "JPEG"
        if drafted:  # decodes at a half, a quarter or an eighth of the size where that is enough
            image.draft(None, (2 * max_side, 2 * max_side))
            picture = upright(image).convert("RGB")
    if not drafted:
        stream.seek(0)
        picture = read_image(stream, max_pixels=max_pixels)
    longer = max(picture.size)
    if not max_side or longer <= max_side:
        return picture
    width, height = (max(1, round(side * max_side / longer)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _labels(result: "Segmentation", classes: Sequence[str]) -> NDArray[Any]:
    """Returns the labels; those of classes not asked for become the highest value, "unknown"."""
    labels = result.labels
    if not classes:
        return labels
    labels = with_room(labels, unlabelled(len(result.classes)))
    table = np.full(np.iinfo(labels.dtype).max + 1, np.iinfo(labels.dtype).max, labels.dtype)
    for name in classes:
        index = result.classes.index(name)
        table[index] = index
    return table[labels]


def _png(result: "Segmentation", classes: Sequence[str]) -> bytes:
    palette = list(result.palette)
    if classes:
        palette += [(0, 0, 0)] * (255 - len(palette)) + [(255, 255, 255)]
    elif result.unknown_below:
        palette = list(result._stored_palette)
    return encoded(drawn.palette_image(_labels(result, classes), palette), "PNG")


def _overlay(result: "Segmentation", classes: Sequence[str]) -> bytes:
    picture = result.overlay()
    if classes:
        picture = drawn.overlay(result.image, _labels(result, classes), result.palette)
    return encoded(reduced(picture, JPEG_SIDE), "JPEG", quality=90)


def _json(result: "Segmentation", classes: Sequence[str]) -> bytes:
    areas = {name: share for name, share in result.areas.items() if not classes or name in classes}
    return _json_bytes({"size": result.size, "areas": areas, "classes": result.classes})


def _rle(result: "Segmentation", classes: Sequence[str]) -> bytes:
    masks = [
        {
            "class": name,
            "label": result.classes.index(name),
            "area": result.areas.get(name, 0.0),
            "rle": encode_coco(result.labels == result.classes.index(name)),
        }
        for name in (classes or result.areas)
        if name in result.classes
    ]
    return _json_bytes({"size": result.size, "masks": masks})


def _npz(result: "Segmentation", classes: Sequence[str]) -> bytes:
    height, width = result.size
    if len(classes) * height * width * 4 > MOST_PROBABILITY_BYTES:
        raise AtrousError(
            "E-ANSWER-BYTES",
            f"the probabilities of {len(classes)} classes at {height} x {width} pixels are more "
            f"than {MOST_PROBABILITY_BYTES / 1e6:.0f} MB",
            fix="ask for fewer classes, or for a smaller picture with max_side",
        )
    arrays: dict[str, NDArray[Any]] = {
        "labels": result.labels,
        "classes": np.array(result.classes),
        "palette": np.array(result.palette, np.uint8),
    }
    if classes:
        arrays["probability_of"] = np.array(classes)
        arrays["probability"] = np.stack([result.probability(name) for name in classes])
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def _cutout(result: "Segmentation", classes: Sequence[str]) -> bytes:
    return encoded(result.cutout(*classes), "PNG")


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


_WRITERS: dict[str, Callable[["Segmentation", Sequence[str]], bytes]] = {
    "png": _png,
    "overlay": _overlay,
    "json": _json,
    "rle": _rle,
    "npz": _npz,
    "cutout": _cutout,
}
assert set(_WRITERS) == set(FORMATS)
