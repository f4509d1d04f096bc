"""The channels of a picture: their names, type, normalisation, and what a preview shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from atrous.errors import InputError

Pixels = NDArray[Any]  # (H, W, C) of one of the three types
DType = Literal["uint8", "uint16", "float32"]

RGB = ("red", "green", "blue")
_ROWS = 64
SHOWN_DEVIATIONS = 2.0  # a preview shows mean -2 to +2 deviations as black to white


@dataclass(frozen=True)
class Bands:
    """What the numbers of a pixel are. The defaults are those of a photograph.

    Attributes:
        names: The C channels in order.
        dtype: Type of the values. In float32, NaN is a pixel without a value.
        sources: Where each channel comes from: the number of a band in the picture's file, from
            1, or a file beside it such as ``{stem}_B04.tif``. Empty: all bands of the file.
        preview: The channels that a preview shows as red, green and blue; empty: those of these
            names, otherwise the first three, or the first one in grey.
        mean: Of the normalisation (x - mean) / std, one value per channel or one for all; empty:
            not known.
        std: Standard deviation of the same.
    """

    names: tuple[str, ...] = RGB
    dtype: DType = "uint8"
    sources: tuple[str, ...] = ()
    preview: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, network: Mapping[str, Any]) -> "Bands":
        """Returns what a network reads, from the fields of `atrous.architecture.Architecture`."""
        count = network.get("in_channels", len(RGB))
        unnamed = RGB if count == len(RGB) else tuple(f"band_{n + 1}" for n in range(count))
        names, dtype = tuple(network.get("channels") or unnamed), network.get("dtype", "uint8")
        others = ("bands", "preview", "mean", "std")
        return cls(names, dtype, *(tuple(network.get(key) or ()) for key in others))

    @property
    def plain(self) -> bool:
        """Whether pixels are 8-bit RGB of one file, which any picture can be converted to."""
        return self.is_rgb and not self.sources

    @property
    def is_rgb(self) -> bool:
        """Whether pixels are 8-bit RGB."""
        return self.names == RGB and self.dtype == "uint8"

    @property
    def colors(self) -> tuple[int, ...]:
        """The places of red, green and blue; empty unless all three are there."""
        return tuple(self.names.index(n) for n in RGB) if set(RGB) <= {*self.names} else ()

    def shown(self, image: Pixels) -> NDArray[np.uint8]:
        """Returns a picture (H, W, C) as the RGB (H, W, 3) that a person sees.

        Values of 8 bits stay as they are. Others are scaled from `SHOWN_DEVIATIONS` below the mean
        of their channel to as much above, or, where the mean is not known, from the 2nd to the
        98th percentile of the picture. Pixels without a value are black.
        """
        if self.is_rgb:
            return image
        few = self.names[:3] if len(self.names) >= 3 else self.names[:1] * 3
        chosen = self.preview or (RGB if self.colors else few)
        places = [self.names.index(name) for name in chosen]
        values = image[..., places]
        if self.dtype == "uint8":
            return np.ascontiguousarray(values)
        if self.mean:
            mean, std = (np.broadcast_to(v, len(self.names))[places] for v in (self.mean, self.std))
            low, high = mean - SHOWN_DEVIATIONS * std, mean + SHOWN_DEVIATIONS * std
        else:
            known = values[np.isfinite(values).all(-1)]
            low, high = np.percentile(known if len(known) else [[0.0] * 3], (2, 98), axis=0)
        first, scale = np.float32(low), np.float32(255 / np.maximum(high - low, 1e-12))
        shown = np.empty(values.shape, np.uint8)
        for top in range(0, len(values), _ROWS):  # a few rows at a time: a tile may be large
            scaled = (values[top : top + _ROWS].astype(np.float32) - first) * scale
            shown[top : top + _ROWS] = np.nan_to_num(np.clip(np.rint(scaled), 0, 255))
        return shown

    def made_up(self, values: NDArray[np.floating[Any]]) -> Pixels:
        """Returns made-up pixels (H, W, C): 8-bit values, scaled to this type's usual range."""
        if self.dtype != "uint8":
            mean, std = (np.asarray(v or (d,)) for v, d in ((self.mean, 0.0), (self.std, 1.0)))
            values = mean + std * (values / 127.5 - 1)
        limits = None if self.dtype == "float32" else (0, np.iinfo(self.dtype).max)
        return (values if limits is None else np.clip(values, *limits)).astype(self.dtype)

    def checked(self, image: Pixels, where: object = "") -> Pixels:
        """Returns a picture (H, W, C), or (H, W) of one channel, in this type.

        Raises:
            AtrousError: Another number of channels, or a type that this one does not hold.
        """
        image = image[..., None] if image.ndim == 2 else image
        fits = image.dtype == self.dtype or self.dtype == "float32"
        if image.ndim != 3 or image.shape[2] != len(self.names) or not fits or 0 in image.shape:
            raise InputError(
                "E-IMAGE-BANDS",
                f"pictures have {len(self.names)} channels of {self.dtype} "
                f"({', '.join(self.names)}), this one is {image.shape} of {image.dtype}",
                where=where,
                fix="give all channels in this order and type, as in the training data",
            )
        return image.astype(self.dtype, copy=False)


PLAIN = Bands()


def bands_of(thing: object) -> Bands:
    """Returns the channels of a data set, an engine or a model; 8-bit RGB unless it says more."""
    return getattr(thing, "bands", PLAIN)
