"""Turns everything that a Predictor accepts into an upright RGB picture."""

import io
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.errors import AtrousError
from atrous.images.bands import Bands
from atrous.images.decode import read_image, upright_rgb
from atrous.images.raster import PixelsInMemory, Raster, open_raster
from atrous.images.stores import fetch, is_address, place

if TYPE_CHECKING:
    from torch import Tensor

# The sources of a Predictor. The type names torch, and nothing here imports it.
Source = Union[str, Path, bytes, IO[bytes], Image.Image, NDArray[Any], "Tensor"]

_RULE = "an array (H, W), (H, W, 3) or (H, W, 4) of uint8, uint16, bool, or float in 0..1"


def as_picture(source: Any) -> Image.Image:
    """Returns the picture as upright 8-bit RGB.

    Args:
        source: A path, an address in a store, or the content of a picture file as bytes or as a
            file object: decoded as `read_image` does. A PIL picture: converted by the same rules.
            An array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA: uint8 as it is, uint16
            from 0..65535, bool as black and white, float from 0..1. A torch tensor (H, W),
            (C, H, W) or (1, C, H, W): as the array with its channels last.

    Raises:
        AtrousError: The file cannot be read, or the array is no picture.
    """
    source = _opened(source)
    if isinstance(source, Path) or hasattr(source, "read"):
        return read_image(source)
    if isinstance(source, Image.Image):
        return upright_rgb(source, where=getattr(source, "filename", ""))
    if isinstance(source, np.ndarray):
        return from_array(source)
    raise AtrousError(
        "E-IMAGE-ARRAY",
        "expected a path, bytes, a file object, a PIL picture, an array or a torch tensor, got "
        f"{type(source).__name__}",
    )


def as_raster(source: Any, bands: Bands) -> Raster | PixelsInMemory:
    """Returns a picture with a model's own channels, to be read by windows.

    Args:
        source: A path, bytes, a file object, a PIL picture, an array (H, W, C) or a tensor (C, H,
            W) of the channels in the model's order, in the units of its training data.
        bands: The model's channels.

    Raises:
        AtrousError: The file cannot be read, or has other channels or another type of values.
    """
    source = _opened(source)
    if isinstance(source, Path) or hasattr(source, "read"):
        return open_raster(source, bands)
    return PixelsInMemory(bands.checked(np.asarray(source)))


def _opened(source: Any) -> Any:
    """Returns a file as a path or a stream that can seek, and a tensor as an array."""
    if is_address(source):
        return fetch(place(source))
    if isinstance(source, str):
        return Path(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if hasattr(source, "read") and not getattr(source, "seekable", lambda: False)():
        return io.BytesIO(source.read())
    return _channels_last(source.detach().cpu()) if hasattr(source, "movedim") else source


def _channels_last(tensor: "Tensor") -> NDArray[np.generic]:
    if tensor.dtype.is_floating_point:
        tensor = tensor.float()  # NumPy has no bfloat16
    if tensor.ndim == 4 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.ndim == 3:
        tensor = tensor.movedim(0, 2)
    array: NDArray[np.generic] = tensor.numpy()
    return array


def from_array(array: NDArray[np.generic]) -> Image.Image:
    """Returns an array as a picture; the rules are those of `as_picture`.

    Raises:
        AtrousError: Another shape or type, or float values outside 0..1.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or 0 in array.shape or channels not in (1, 3, 4):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "move the channels to the end: array.transpose(1, 2, 0)"
        raise _refused(array, hint)
    picture = upright_rgb(Image.fromarray(np.ascontiguousarray(_in_8_bits(array))))
    if array.dtype == np.uint16:
        said = "values from 0 to 65535 became 0 to 255"
        picture.info["notes"] = (said, *picture.info.get("notes", ()))
    return picture


def _in_8_bits(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array.astype(np.uint8, copy=False)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return np.rint(array.astype(np.float32) / 257).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise _refused(array, "values in 0..255: array.astype(np.uint8)")
    values = array.astype(np.float32)
    if not (values.min() >= 0 and values.max() <= 1):  # also catches NaN
        raise _refused(
            array,
            f"float values must be in 0..1, these are in {values.min():g}..{values.max():g}; "
            "for values in 0..255: array.round().astype(np.uint8)",
        )
    return np.rint(values * 255).astype(np.uint8)


def _refused(array: NDArray[np.generic], hint: str) -> AtrousError:
    return AtrousError(
        "E-IMAGE-ARRAY", f"expected {_RULE}; got {array.shape} of {array.dtype}", fix=hint
    )
