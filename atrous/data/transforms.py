"""Augmentation of a picture and its target: the paper's, and optional extras.

DeepLabv3+ (arXiv:1802.02611) Sec. 4 and the authors' ``input_preprocess``: random scale, padding
at the bottom and right with the mean pixel and 255, random crop, random left-right flip.
Changes of colour are off by default.

The window to keep is chosen first, and only the window is resized, in 8 bits. The authors resize
the whole picture in floating point. The two pictures differ by at most one level of 255, and the
targets not at all. The authors' mean pixel of 127.5 becomes 128.

All randomness comes from a generator that the caller makes with `sample_generator`. The result is
a function of (seed, epoch, index), in any process.
"""

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from atrous.data.dataset import Dataset, Sample, Target
from atrous.data.resize import Window, random_window, resized_image, resized_target
from atrous.errors import AtrousError
from atrous.images.bands import Bands

# Of changes of brightness, contrast, saturation and hue; the last in turns.
_AMOUNTS = ((0.875, 1.125), (0.5, 1.5), (0.5, 1.5), (-0.05, 0.05))


@dataclass(frozen=True)
class Augmentation:
    """Changes of training samples. The defaults are the paper's for PASCAL VOC.

    Args:
        crop_size: (height, width) of every augmented sample; (769, 769) for Cityscapes.
        scale_range: Smallest and largest scale of the picture.
        scale_step: Distance between the equally likely scales; with 0, any scale in the range.
        flip: Probability of a left-right flip.
        mean_pixel: Padding, one value per channel: the pixel that the model's normalisation turns
            into zero.
        photometric: Probability of each of a change of brightness (factor 0.875..1.125), contrast
            (0.5..1.5), saturation (0.5..1.5) and hue (-0.05..0.05 of a turn), in this order.
            Hue changes in 8 bits alone.
        colors: Channels that changes of colour act on: red, green and blue; empty: none.
    """

    crop_size: tuple[int, int] = (513, 513)
    scale_range: tuple[float, float] = (0.5, 2.0)
    scale_step: float = 0.25
    flip: float = 0.5
    mean_pixel: tuple[float, ...] = (128, 128, 128)
    photometric: float = 0.0
    colors: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        low, high = self.scale_range
        if not (
            min(self.crop_size) > 0
            and 0 < low <= high
            and self.scale_step >= 0
            and 0 <= self.flip <= 1
            and 0 <= self.photometric <= 1
        ):
            raise AtrousError(
                "E-AUGMENTATION",
                f"impossible values in {self}",
                fix="sizes and scales are above 0, probabilities between 0 and 1",
            )
        if self.photometric:
            torchvision_transforms()  # before workers are forked: each would import it again

    def __call__(self, dataset: Dataset, index: int, rng: Generator) -> Sample:
        """Returns sample `index` of a data set, varied (`augment`)."""
        return augment(dataset[index], self, rng)


def for_channels(augmentation: Augmentation, bands: Bands) -> Augmentation:
    """Returns an augmentation that pads with the mean of some channels and knows their colours."""
    mean = np.broadcast_to(bands.mean, len(bands.names)).tolist()
    padding = tuple(mean if bands.dtype == "float32" else map(round, mean))
    return replace(augmentation, mean_pixel=padding, colors=bands.colors)


@cache
def torchvision_transforms() -> Any:
    """Imports torchvision, which imports torch's compiler: 155 MB and two seconds.

    Only changes of colour need torchvision.
    """
    from torchvision.transforms import v2

    return v2


def sample_generator(seed: int, epoch: int, index: int, attempt: int = 0) -> Generator:
    """Returns the generator of a sample in an epoch.

    Attempts after the first are for the substitutes of a sample that cannot be read.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, index, attempt)))


def augment(sample: Sample, augmentation: Augmentation, rng: Generator) -> Sample:
    """Returns a varied view of the sample, of the augmentation's crop size.

    Args:
        sample: Image (H, W, C) and target (H, W) of any size.
        augmentation: The changes and their ranges.
        rng: Source of all random choices (`sample_generator`).
    """
    window = choose_window(sample.target.shape, augmentation, rng)
    image = resized_image(sample.image, window)  # (C, h, w)
    target = resized_target(sample.target, window)  # (h, w)
    if augmentation.photometric and augmentation.colors:
        places = list(augmentation.colors)
        if places == [*range(len(image))]:  # without a copy
            image = distort_colors(image, augmentation.photometric, rng)
        else:
            image[places] = distort_colors(image[places], augmentation.photometric, rng)
    image, target = pad(image, target, augmentation.crop_size, augmentation.mean_pixel)
    if rng.random() < augmentation.flip:
        image, target = image[None].flip(-1)[0], target[:, ::-1]
    return Sample(image.permute(1, 2, 0).numpy(), np.ascontiguousarray(target))


def choose_window(size: tuple[int, ...], augmentation: Augmentation, rng: Generator) -> Window:
    """Returns the part of the resized picture to keep, at most as large as the crop.

    Args:
        size: (height, width) of the picture.
        augmentation: Crop size and scales.
        rng: Source of the random choices.
    """
    scale = _draw_scale(augmentation, rng)
    resized = (max(1, int(size[0] * scale)), max(1, int(size[1] * scale)))
    return random_window(resized, augmentation.crop_size, rng)


def _draw_scale(augmentation: Augmentation, rng: Generator) -> float:
    low, high = augmentation.scale_range
    if augmentation.scale_step == 0:
        return float(rng.uniform(low, high))
    steps = int((high - low) / augmentation.scale_step + 1)
    return float(np.linspace(low, high, steps)[rng.integers(steps)])


def distort_colors(image: Tensor, probability: float, rng: Generator) -> Tensor:
    """Changes brightness, contrast, saturation and hue of (3, H, W), each with a probability.

    Floats, which may lie in any range, are changed as bytes are but for hue, and not clipped.
    """
    if image.is_floating_point():
        grey = image.mean(0, keepdim=True)
        # Brightness changes the distance to black, contrast to the mean, saturation to grey.
        centers = (torch.zeros(1), grey.nanmean(), grey)
        changes: list[Any] = [partial(_stretch, center) for center in centers]
    else:
        tv = torchvision_transforms().functional
        changes = [tv.adjust_brightness, _adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
    for change, (low, high) in zip(changes, _AMOUNTS, strict=False):
        amount = rng.uniform(low, high)
        if rng.random() < probability:
            image = change(image, amount)
    return image


def _stretch(center: Tensor, image: Tensor, factor: float) -> Tensor:
    return center + (image - center) * factor


def _adjust_contrast(image: Tensor, factor: float) -> Tensor:
    # torchvision's mean in floating point depends on the number of threads.
    grey = torchvision_transforms().functional.rgb_to_grayscale(image)
    mean = int(grey.sum(dtype=torch.int64)) / grey.numel()
    return (image * factor + mean * (1 - factor)).clamp_(0, 255).to(torch.uint8)


def pad(
    image: Tensor, target: Target, size: tuple[int, int], mean_pixel: tuple[float, ...]
) -> tuple[Tensor, Target]:
    """Extends image (C, h, w) and target (h, w) to `size` at the bottom and right."""
    height, width = target.shape
    if (height, width) == size:
        return image, target
    row = torch.tensor(mean_pixel, dtype=image.dtype).repeat(size[1])
    padded = row.repeat(size[0], 1).view(*size, len(image)).permute(2, 0, 1)  # (C, H, W)
    padded[:, :height, :width] = image
    labels = np.full(size, np.iinfo(target.dtype).max, target.dtype)
    labels[:height, :width] = target
    return padded, labels
