"""Throughput of training data: PASCAL VOC pictures to batches of augmented 513 x 513 crops.

    python benchmarks/data.py ../shared/data/voc2012

Contenders draw the same scales, crops and flips and run in the same torch DataLoader with two
workers, in turns; a round is the time from one batch to the batch `BATCHES` later, with the
workers already at work. The plain pipelines are what is commonly written:

pil          Pillow decodes, resizes the whole picture; NumPy pads, crops, flips; torch normalises
torchvision  Pillow decodes; transforms.v2 resizes the whole picture, pads, crops, flips, normalises
atrous       `TrainingLoader`, 8-bit batches, as the model takes them
atrous+float the same, then normalised to float as the plain ones deliver it
cached       `TrainingLoader` with every decoded picture in its cache

A first pass reads all files, so that no round waits for a disk. Writes
results/data.PROCESSOR.json.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from measuring import result_path
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from atrous.classes import VOC
from atrous.data.dataset import FileDataset, Item, Target
from atrous.data.loader import Batch, TrainingLoader
from atrous.data.order import Draw, training_order
from atrous.data.resize import Window, resized_image
from atrous.data.transforms import Augmentation, choose_window, sample_generator

BATCH_SIZE = 16
BATCHES = 4  # timed in a round
WARM = 5  # more than the workers keep ready ahead
WORKERS = 2
SEED = 0
CROP = 513
AUGMENTATION = Augmentation(crop_size=(CROP, CROP))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read_mask(item: Item, size: tuple[int, int]) -> Target:
    with Image.open(item.annotation) as mask:
        return np.array(mask)


def voc(root: Path) -> FileDataset:
    names = (root / "ImageSets/Segmentation/train.txt").read_text().split()
    items = tuple(
        Item(n, root / f"JPEGImages/{n}.jpg", root / f"SegmentationClass/{n}.png") for n in names
    )
    return FileDataset(items, read_mask, VOC.classes, VOC.palette)


@dataclass(frozen=True)
class Plain:
    """A map-style data set as commonly written, drawing what ours draws."""

    items: tuple[Item, ...]
    with_torchvision: bool

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
        item = self.items[draw.sample]
        with Image.open(item.image) as file, Image.open(item.annotation) as mask_file:
            image, mask = file.convert("RGB"), mask_file.copy()
        rng = sample_generator(SEED, draw.epoch, draw.sample)
        size, top, left, *_ = choose_window(image.size[::-1], AUGMENTATION, rng)
        flip = rng.random() < 0.5
        step = _torchvision if self.with_torchvision else _pil
        return step(image, mask, size, top, left, flip)


def _pil(image, mask, size, top, left, flip):
    height, width = size
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    labels = np.asarray(mask.resize((width, height), Image.Resampling.NEAREST))
    padding = ((0, max(CROP - height, 0)), (0, max(CROP - width, 0)))
    if max(padding)[1]:
        pixels = np.pad(pixels, (*padding, (0, 0)), constant_values=128)
        labels = np.pad(labels, padding, constant_values=255)
    pixels = pixels[top : top + CROP, left : left + CROP]
    labels = labels[top : top + CROP, left : left + CROP]
    if flip:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    target = torch.from_numpy(np.ascontiguousarray(labels)).long()
    return tv.normalize(tensor.float().div_(255), MEAN, STD), target


def _torchvision(image, mask, size, top, left, flip):
    height, width = size
    pixels = tv.resize(tv.pil_to_tensor(image), size)
    labels = tv.resize(tv.pil_to_tensor(mask), size, InterpolationMode.NEAREST)
    padding = [0, 0, max(CROP - width, 0), max(CROP - height, 0)]
    if any(padding):
        pixels, labels = tv.pad(pixels, padding, 128), tv.pad(labels, padding, 255)
    pixels, labels = (tv.crop(x, top, left, CROP, CROP) for x in (pixels, labels))
    if flip:
        pixels, labels = tv.horizontal_flip(pixels), tv.horizontal_flip(labels)
    return tv.normalize(tv.to_dtype(pixels, torch.float32, scale=True), MEAN, STD), labels[0].long()


def plain_batches(dataset: FileDataset, *, with_torchvision: bool) -> Iterator[object]:
    order = training_order(len(dataset), seed=SEED, batch_size=BATCH_SIZE)
    return iter(
        DataLoader(
            Plain(dataset.items, with_torchvision),
            batch_sampler=(draws for draws, _ in order),
            num_workers=WORKERS,
        )
    )


def our_batches(loader: TrainingLoader, *, as_float: bool = False) -> Iterator[object]:
    for batch in loader.batches():
        yield normalized(batch) if as_float else batch


def normalized(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return batch.images.float().div_(127.5).sub_(1), batch.targets.long()


def seconds(start: Callable[[], Iterator[object]]) -> float:
    batches = start()
    for _ in islice(batches, WARM):
        pass
    began = time.perf_counter()
    for _ in islice(batches, BATCHES):
        pass
    return time.perf_counter() - began


def resize_milliseconds(repeats: int = 15) -> dict[str, dict[str, float]]:
    """The middle crop of a picture at twice its size: only what it needs, and all of it."""
    torch.set_num_threads(1)
    result = {}
    for (height, width), crop in (((375, 500), 513), ((1024, 2048), 769)):
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        size = (2 * height, 2 * width)
        top, left = (size[0] - crop) // 2, (size[1] - crop) // 2
        times: dict[str, list[float]] = {"window": [], "whole": []}
        for _ in range(repeats):
            for name, window in (
                ("window", Window(size, top, left, crop, crop)),
                ("whole", Window(size, 0, 0, *size)),
            ):
                began = time.perf_counter()
                resized_image(image, window)
                times[name].append(time.perf_counter() - began)
        result[f"{height}x{width}, crop {crop}"] = {
            name: round(1000 * statistics.median(values), 2) for name, values in times.items()
        }
    return result


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("voc", type=Path, help="a PASCAL VOC devkit folder (VOC2012)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=result_path("data"))
    arguments = parser.parse_args()

    dataset = voc(arguments.voc)
    for item in dataset.items:
        item.image.read_bytes()
        item.annotation.read_bytes()

    def loader(cache_bytes: int = 0) -> TrainingLoader:
        return TrainingLoader(
            dataset, AUGMENTATION, BATCH_SIZE, SEED, workers=WORKERS, cache_bytes=cache_bytes
        )

    ours, cached = loader(), loader(cache_bytes=1 << 30)
    for index in range(len(dataset)):
        cached.dataset[index]  # fills the cache
    contenders: dict[str, Callable[[], Iterator[object]]] = {
        "pil": lambda: plain_batches(dataset, with_torchvision=False),
        "torchvision": lambda: plain_batches(dataset, with_torchvision=True),
        "atrous": lambda: our_batches(ours),
        "atrous+float": lambda: our_batches(ours, as_float=True),
        "cached": lambda: our_batches(cached),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(arguments.rounds):
        for name, start in contenders.items():
            times[name].append(seconds(start))
        print(number, {name: f"{t[-1]:.2f} s" for name, t in times.items()}, flush=True)

    images = BATCHES * BATCH_SIZE
    result = {
        "what": "VOC pictures to 513x513 crops with the paper's augmentation, images per second",
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__,
            "torchvision": torchvision.__version__, "pillow": PIL.__version__,
            "numpy": np.__version__,
        },
        "setting": {
            "workers": WORKERS, "batch_size": BATCH_SIZE, "images_per_round": images,
            "rounds": arguments.rounds, "pictures": len(dataset),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
        "images_per_second": {
            name: {
                "median": round(images / statistics.median(t), 1),
                "rounds": [round(images / value, 1) for value in t],
            }
            for name, t in times.items()
        },
        "resize_milliseconds": resize_milliseconds(),
        "median_of_ratios": {
            f"{ours} / {plain}": round(
                statistics.median(p / o for p, o in zip(times[plain], times[ours], strict=True)), 2
            )
            for ours in ("atrous", "atrous+float", "cached")
            for plain in ("pil", "torchvision")
        },
    }  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["median_of_ratios"], indent=1))


if __name__ == "__main__":
    main()
