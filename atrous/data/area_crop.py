"""Crops of classified pictures: a random part for training, the middle for evaluation.

The paper says only that pictures are 299x299. This is the convention of ImageNet training since
GoogLeNet (arXiv:1409.4842, Sec. 6): a part of the picture of 8 to 100 % of its area and an aspect
of 3:4 to 4:3, resized to the network's input size without keeping the aspect.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from torch import Tensor

from atrous.data.dataset import Dataset, Sample
from atrous.data.resize import Window, random_window, resized_image
from atrous.data.transforms import distort_colors
from atrous.images.bands import Pixels

CENTRAL = 0.875  # of height and width, in evaluation

_ATTEMPTS = 10


@dataclass(frozen=True)
class AreaCrop:
    """Varies classified pictures: crops a random area and aspect, and may mirror the crop.

    A call returns sample `index` of a data set as a (height, width) crop, with its class as a
    target of shape (1, 1). All randomness comes from the generator, as in `transforms`.

    Args:
        crop_size: (height, width) of every crop.
        flip: Probability of a left-right flip.
        photometric: Probability of each change of colour, as `transforms.Augmentation`.
        area_range: Smallest and largest share of the picture's area, drawn uniformly.
        aspect_range: Smallest and largest width / height of the crop; its logarithm is drawn
            uniformly.
    """

    crop_size: tuple[int, int]
    flip: float = 0.5
    photometric: float = 0.0
    area_range: tuple[float, float] = (0.08, 1.0)
    aspect_range: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, dataset: Dataset, index: int, rng: Generator) -> Sample:
        """Returns a varied view of a sample."""
        image, target = dataset[index]
        height, width = image.shape[:2]
        part = self._draw(height, width, rng)
        # The picture is resized so that the part has the size of the crop.
        sides = zip((height, width), self.crop_size, part, strict=True)
        whole = tuple(max(crop, round(side * crop / cut)) for side, crop, cut in sides)
        crop = resized_image(image, random_window(whole, self.crop_size, rng))
        if self.photometric:
            crop = distort_colors(crop, self.photometric, rng)
        if rng.random() < self.flip:
            crop = crop.flip(-1)
        return Sample(np.ascontiguousarray(crop.permute(1, 2, 0).numpy()), target[:1, :1])

    def _draw(self, height: int, width: int, rng: Generator) -> tuple[float, float]:
        """Draws height and width of a part of the picture; the whole picture after ten misses."""
        for _ in range(_ATTEMPTS):
            area = rng.uniform(*self.area_range) * height * width
            narrow, wide = self.aspect_range
            aspect = math.exp(rng.uniform(math.log(narrow), math.log(wide)))
            cut = (math.sqrt(area / aspect), math.sqrt(area * aspect))
            if cut[0] <= height and cut[1] <= width:
                return cut
        return height, width


def central_crop(image: Pixels, size: tuple[int, int]) -> Tensor:
    """Returns the middle of a picture (H, W, C), 7/8 of its height and width, resized to `size`.

    TensorFlow's rule for the margins, `tf.image.central_crop`: int((H - 7/8 H) / 2).

    Returns:
        (C, height, width) as `resized_image`, channels last in memory.
    """
    height, width = image.shape[:2]
    top, left = int((height - CENTRAL * height) / 2), int((width - CENTRAL * width) / 2)
    middle = image[top : height - top, left : width - left]
    return resized_image(middle, Window(size, 0, 0, *size))
