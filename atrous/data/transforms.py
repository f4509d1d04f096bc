"""What training does to a picture and its target: the paper's augmentation, and more if asked.

DeepLabv3+ (arXiv:1802.02611) Sec. 4 and the authors' ``input_preprocess``: random scale, padding
at the bottom and right with the mean pixel and 255, random crop, random left-right flip.
Everything else is off unless an `Augmentation` asks for it.

The window to keep is chosen first and only it is resized, in 8 bits. The authors resize the whole
picture in floating point: ours differs from that by at most one level of 255 in the picture, and
not at all in the target. Their mean pixel of 127.5 becomes 128.

All randomness comes from a generator the caller makes with `sample_generator`: the result is a
function of (seed, epoch, index) whoever computes it.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from atrous.classes import Color
from atrous.data.dataset import Dataset, Sample, Target
from atrous.data.resize import Window, resized_image, resized_target
from atrous.errors import AtrousError

_CROP_ATTEMPTS = 10


@dataclass(frozen=True)
class Augmentation:
    """How training samples are varied. The defaults are the paper's for PASCAL VOC.

    Args:
        crop_size: (height, width) of every augmented sample; (769, 769) for Cityscapes.
        scale_range: Smallest and largest scale of the picture.
        scale_step: Distance between the equally likely scales; 0 draws any in the range.
        flip: Probability of a left-right flip.
        mean_pixel: Colour of padding: what the model's normalisation turns into zero.
        photometric: Probability of each of a change of brightness (factor 0.875..1.125), contrast
            (0.5..1.5), saturation (0.5..1.5) and hue (-0.05..0.05 of a turn), in this order.
        rotation: Largest rotation in degrees, either way; the corners become unlabelled.
        rare_classes: Class indices `rare_crop` and `copy_paste` are about.
        rare_crop: Probability that the crop must hold a random pixel of a random rare class
            (where the picture has one).
        copy_paste: Probability that the rare classes of another random sample, augmented
            likewise, are pasted over this one.
        max_class_share: While one class fills more than this share of the crop's labelled pixels,
            it is drawn again, up to 10 times.
    """

    crop_size: tuple[int, int] = (513, 513)
    scale_range: tuple[float, float] = (0.5, 2.0)
    scale_step: float = 0.25
    flip: float = 0.5
    mean_pixel: Color = (128, 128, 128)
    photometric: float = 0.0
    rotation: float = 0.0
    rare_classes: tuple[int, ...] = ()
    rare_crop: float = 0.0
    copy_paste: float = 0.0
    max_class_share: float = 1.0

    def __post_init__(self) -> None:
        probabilities = (self.flip, self.photometric, self.rare_crop, self.copy_paste)
        low, high = self.scale_range
        if not (
            min(self.crop_size) > 0
            and 0 < low <= high
            and self.scale_step >= 0
            and all(0 <= p <= 1 for p in probabilities)
            and 0 < self.max_class_share <= 1
        ):
            raise AtrousError(
                "E-AUGMENTATION",
                f"impossible values in {self}",
                fix="sizes and scales are above 0, probabilities and shares between 0 and 1",
            )
        if (self.rare_crop or self.copy_paste) and not self.rare_classes:
            raise AtrousError(
                "E-AUGMENTATION",
                "rare_crop and copy_paste need rare_classes",
                fix="list the class indices they are about",
            )
        if self.photometric or self.rotation:
            torchvision_transforms()  # before worker processes are forked, each of which would

    def __call__(self, dataset: Dataset, index: int, rng: Generator) -> Sample:
        """Returns sample `index` of a data set, varied (`augmented`)."""
        return augmented(dataset, index, self, rng)


@cache
def torchvision_transforms() -> Any:
    """Imports torchvision, which imports torch's compiler: 155 MB and two seconds.

    Only changes of colour and rotations need it.
    """
    from torchvision.transforms import v2

    return v2


def sample_generator(seed: int, epoch: int, index: int, attempt: int = 0) -> Generator:
    """Returns the source of all randomness of one sample in one epoch.

    Attempts after the first are for samples that stand in for one that cannot be read.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, index, attempt)))


def augmented(dataset: Dataset, index: int, augmentation: Augmentation, rng: Generator) -> Sample:
    """Returns sample `index`, augmented; copy-paste takes a second sample of the data set."""
    sample = augment(dataset[index], augmentation, rng)
    if augmentation.copy_paste and rng.random() < augmentation.copy_paste:
        donor = augment(dataset[int(rng.integers(len(dataset)))], augmentation, rng)
        sample = paste(donor, sample, augmentation.rare_classes)
    return sample


def augment(sample: Sample, augmentation: Augmentation, rng: Generator) -> Sample:
    """Returns a varied view of the sample, of the augmentation's crop size.

    Args:
        sample: Image (H, W, 3) and target (H, W) of any size.
        augmentation: What to vary.
        rng: Where every choice comes from (`sample_generator`).
    """
    window = choose_window(sample.target, augmentation, rng)
    image = resized_image(sample.image, window)  # (3, h, w)
    target = resized_target(sample.target, window)  # (h, w)
    if augmentation.photometric:
        image = distort_colors(image, augmentation.photometric, rng)
    if augmentation.rotation:
        angle = rng.uniform(-augmentation.rotation, augmentation.rotation)
        image, target = rotate(image, target, angle, augmentation.mean_pixel)
    image, target = pad(image, target, augmentation.crop_size, augmentation.mean_pixel)
    if rng.random() < augmentation.flip:
        image, target = image[None].flip(-1)[0], target[:, ::-1]
    return Sample(image.permute(1, 2, 0).numpy(), np.ascontiguousarray(target))


def choose_window(target: Target, augmentation: Augmentation, rng: Generator) -> Window:
    """Returns the part of the resized picture to keep, at most as large as the crop."""
    for _ in range(_CROP_ATTEMPTS):
        window = _draw_window(target, augmentation, rng)
        cap = augmentation.max_class_share
        if cap == 1 or _largest_share(resized_target(target, window)) <= cap:
            break
    return window


def _draw_window(target: Target, augmentation: Augmentation, rng: Generator) -> Window:
    scale = _draw_scale(augmentation, rng)
    size = (max(1, int(target.shape[0] * scale)), max(1, int(target.shape[1] * scale)))
    height, width = map(min, size, augmentation.crop_size)
    wanted = None  # (row, column) the window must hold
    if augmentation.rare_crop and rng.random() < augmentation.rare_crop:
        whole = resized_target(target, Window(size, 0, 0, *size))
        wanted = _draw_pixel(whole, augmentation.rare_classes, rng)
    top = _draw_offset(size[0], height, wanted and wanted[0], rng)
    left = _draw_offset(size[1], width, wanted and wanted[1], rng)
    return Window(size, top, left, height, width)


def _draw_scale(augmentation: Augmentation, rng: Generator) -> float:
    low, high = augmentation.scale_range
    if augmentation.scale_step == 0:
        return float(rng.uniform(low, high))
    steps = int((high - low) / augmentation.scale_step + 1)
    return float(np.linspace(low, high, steps)[rng.integers(steps)])


def _draw_offset(length: int, kept: int, wanted: int | None, rng: Generator) -> int:
    first, last = 0, length - kept
    if wanted is not None:
        first, last = max(first, wanted - kept + 1), min(last, wanted)
    return int(rng.integers(first, last + 1))


def _draw_pixel(target: Target, classes: tuple[int, ...], rng: Generator) -> tuple[int, int] | None:
    present = [label for label in classes if (target == label).any()]
    if not present:
        return None
    rows, columns = np.nonzero(target == present[rng.integers(len(present))])
    chosen = rng.integers(len(rows))
    return int(rows[chosen]), int(columns[chosen])


def _largest_share(target: Target) -> float:
    labelled = target[target != np.iinfo(target.dtype).max]
    return float(np.bincount(labelled).max() / len(labelled)) if len(labelled) else 1.0


def distort_colors(image: Tensor, probability: float, rng: Generator) -> Tensor:
    """Changes brightness, contrast, saturation and hue of (3, H, W), each with a probability."""
    tv = torchvision_transforms().functional
    for change, low, high in (
        (tv.adjust_brightness, 0.875, 1.125),
        (_adjust_contrast, 0.5, 1.5),
        (tv.adjust_saturation, 0.5, 1.5),
        (tv.adjust_hue, -0.05, 0.05),
    ):
        amount = rng.uniform(low, high)
        if rng.random() < probability:
            image = change(image, amount)
    return image


def _adjust_contrast(image: Tensor, factor: float) -> Tensor:
    # As torchvision's, whose mean in floating point depends on the number of threads.
    grey = torchvision_transforms().functional.rgb_to_grayscale(image)
    mean = int(grey.sum(dtype=torch.int64)) / grey.numel()
    return (image * factor + mean * (1 - factor)).clamp_(0, 255).to(torch.uint8)


def rotate(
    image: Tensor, target: Target, degrees: float, mean_pixel: Color
) -> tuple[Tensor, Target]:
    """Turns image (3, H, W) and target (H, W) about their middle, counter-clockwise."""
    v2 = torchvision_transforms()
    turned = v2.functional.rotate(
        image, degrees, v2.InterpolationMode.BILINEAR, fill=list(mean_pixel)
    )
    ignored = int(np.iinfo(target.dtype).max)
    mask = torch.from_numpy(target.astype(np.int32))[None]
    labels = v2.functional.rotate(mask, degrees, v2.InterpolationMode.NEAREST, fill=ignored)
    return turned, labels[0].numpy().astype(target.dtype)


def pad(
    image: Tensor, target: Target, size: tuple[int, int], mean_pixel: Color
) -> tuple[Tensor, Target]:
    """Extends image (3, h, w) and target (h, w) to `size` at the bottom and right."""
    height, width = target.shape
    if (height, width) == size:
        return image, target
    row = torch.tensor(mean_pixel, dtype=torch.uint8).repeat(size[1])
    padded = row.repeat(size[0], 1).view(*size, 3).permute(2, 0, 1)  # (3, H, W)
    padded[:, :height, :width] = image
    labels = np.full(size, np.iinfo(target.dtype).max, target.dtype)
    labels[:height, :width] = target
    return padded, labels


def paste(donor: Sample, onto: Sample, classes: tuple[int, ...]) -> Sample:
    """Returns `onto` with the donor's pixels of the given classes laid over it."""
    taken = np.isin(donor.target, classes)
    image = np.where(taken[..., None], donor.image, onto.image)
    return Sample(image, np.where(taken, donor.target, onto.target))
