"""The Predictor: from a picture to its segmentation."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.classes import Color
from atrous.engines.open import open_engine
from atrous.engines.protocol import Device, Engine, Precision
from atrous.errors import AtrousError
from atrous.images.bands import bands_of
from atrous.images.decode import MAX_PIXELS
from atrous.images.raster import NoData, PixelsInMemory, Place, Raster, open_rgb, place_of
from atrous.images.stores import is_address, place
from atrous.images.tiff_windows import Windows, open_tiff
from atrous.predict import tiles
from atrous.predict.inputs import Source, as_picture, as_raster
from atrous.predict.segmentation import Segmentation, labels_of
from atrous.predict.tiled import TiledSegmentation

if TYPE_CHECKING:
    from atrous.model import DeepLabV3Plus

MEMORY = 2_000_000_000  # bytes of the process, beyond which pictures are seen in tiles


class Predictor:
    """Segments pictures with a model.

    Args:
        model: The name of a built-in model, the path of a model file, a `DeepLabV3Plus`, or an
            `Engine`; None: the default built-in model.
        threads: Threads to use; None: one for each processor this process may run on.
        memory: Bytes the process may take: larger pictures are seen in overlapping tiles. An
            estimate, kept for exported files.
        unknown_below: Probability in 0..1 that a pixel's class must reach; others get the highest
            label, and are "unknown" in the areas.
        precision: Arithmetic of the network. ``auto``: bf16 on processors with units for it, if
            `atrous export` measured that the labels of the file agree; otherwise the file's own.
            ``fp32``, ``bf16`` and ``int8`` are taken or refused.
        streams: Calls from so many threads run at a time and share `threads`, which does more
            pictures a second than one call after the other. Only exported files do, on ``cpu``.
        device: ``cpu``; ``gpu`` for exported files on Intel's graphics; ``cuda`` for exported files
            in ONNX Runtime (extra ``cuda``) and for torch models.

    Raises:
        AtrousError: No such model, a package is missing, the model or the device lacks the
            precision, there is no such device, or `unknown_below` is no probability.
    """

    def __init__(
        self,
        model: "str | Path | DeepLabV3Plus | Engine | None" = None,
        *,
        threads: int | None = None,
        memory: int = MEMORY,
        unknown_below: float = 0.0,
        precision: Precision = "auto",
        streams: int = 1,
        device: Device = "cpu",
    ) -> None:
        if not 0 <= unknown_below <= 1:
            raise AtrousError("E-OPTIONS", f"unknown_below must be in 0..1, not {unknown_below}")
        self.memory, self.unknown_below, self.device = memory, unknown_below, device
        if _is_engine(model):
            self.engine: Engine = model  # type: ignore[assignment]
        else:
            self.engine = open_engine(
                model,  # type: ignore[arg-type]
                threads=threads,
                precision=precision,
                streams=streams if device == "cpu" else 1,
                device=device,
            )
        self.bands = bands_of(self.engine)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of the label values."""
        return self.engine.classes

    @property
    def palette(self) -> tuple[Color, ...]:
        """Colours of the classes."""
        return self.engine.palette

    @property
    def precision(self) -> str:
        """The arithmetic of the network: ``fp32``, ``bf16`` or ``int8``."""
        return self.engine.precision

    def __call__(self, image: Source) -> Segmentation:
        """Segments one picture at its own size.

        A picture beyond the memory is seen in tiles, when its labels are asked for or saved; a TIFF
        of tiles or strips is then never decoded whole, and may have any size.

        Args:
            image: A path, an address in a store, the content of a picture file (bytes or a file
                object), a PIL picture, an array or a torch tensor; the rules are those of
                `atrous.predict.inputs.as_picture`, or, for a model of other channels than 8-bit
                RGB, those of `as_raster`.

        Raises:
            AtrousError: The picture cannot be read, the array is no picture, or the memory is
                too small for any tile.
        """
        if not self.bands.plain:
            return self._of_bands(as_raster(image, self.bands))
        ground = None
        if isinstance(image, (str, Path)) or is_address(image):
            path = place(image)  # type: ignore[arg-type]
            ground = place_of(path)
            windows = open_tiff(path) or open_rgb(path)
            if windows is not None and not self.fits(windows.size):
                return self._tiled(windows, ground)
        picture = as_picture(image)
        pixels = np.asarray(picture)
        if not self.fits(pixels.shape[:2]):
            notes = picture.info.get("notes", ())
            return self._tiled(PixelsInMemory(pixels, notes, copies=2), ground)
        found = self.segmented(picture, self.engine.coarse_logits(pixels))
        return found if ground is None else found.placed(pixels, ground, ground.no_data)

    def _of_bands(self, raster: Raster | PixelsInMemory) -> Segmentation:
        """Segments a picture of the model's own channels."""
        if not self.fits(raster.size):
            return self._tiled(raster, raster.place, raster.no_data)
        pixels = raster.read(0, 0, *raster.size)
        picture = Image.fromarray(self.bands.shown(pixels))
        found = self.segmented(picture, self.engine.coarse_logits(pixels))
        return found.placed(pixels, raster.place, raster.no_data)

    def segmented(self, picture: Image.Image, coarse: NDArray[np.float32]) -> Segmentation:
        """Returns the segmentation of a picture by coarse logits (h, w, K)."""
        stride = self.engine.logits_stride
        labels = labels_of(coarse, stride, (picture.height, picture.width), self.unknown_below)
        notes = picture.info.get("notes", ())
        return Segmentation(
            picture, labels, self.classes, self.palette, coarse, stride, self.unknown_below, notes
        )

    def fits(self, size: tuple[int, int]) -> bool:
        """Returns whether a picture of this height and width is seen whole, not in tiles."""
        return size[0] * size[1] <= MAX_PIXELS and tiles.fits(self.engine, size, self.memory)

    def _tiled(
        self, picture: Windows, ground: Place | None = None, no_data: NoData | None = None
    ) -> TiledSegmentation:
        grid = tiles.plan(self.engine, picture, self.memory)
        if no_data is None:
            no_data = ground.no_data if ground else ()
        return TiledSegmentation(
            self.engine, picture, grid, self.unknown_below, place=ground, no_data=no_data
        )


def _is_engine(model: object) -> bool:
    # A torch model has coarse_logits too, but no fingerprint.
    return hasattr(model, "coarse_logits") and hasattr(model, "fingerprint")
