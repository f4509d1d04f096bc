"""Whether more labelled pictures would teach a head on Google's MobileNetV2 anything.

    python benchmarks/frozen_backbone.py START VOC_FOLDER

`voc_animals` keeps the backbone of START (deeplabv3_mnv2_pascal_quant.tflite) as it is and trains
the head on pictures that backbone has seen. Here the recipe's head is trained twice on the official
training pictures: alone, and with four fifths of the val pictures, which the backbone has not seen,
as half of each batch. The latter is done five times, so that each val picture is labelled once by a
head that was not trained on it. What the second gains, pictures could give; what it does not gain
has to come from the backbone.

Nothing trained here is kept: no weights of the project have been trained on val pictures.
Writes results/frozen_backbone.json (twenty minutes on two cores).
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ablations import ANIMALS
from measuring import machine, save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

import atrous
from atrous.data.dataset import Dataset
from atrous.data.opening import open_dataset
from atrous.evaluation.metrics import Counts, class_iou, confusion_matrix, pixel_accuracy
from atrous.predict.upsample import labels
from atrous.training.recipes import voc_animals
from atrous.weights.edit_classes import graft

FOLDS = 5
LOW_LEVEL = 4  # stride of the features the decoder takes


class Seen(NamedTuple):
    """What the backbone says of a picture, in 16 bits, and the picture's labels."""

    high_level: Tensor
    low_level: Tensor
    target: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("start", type=Path)
    parser.add_argument("voc", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=8)
    asked = parser.parse_args()
    model = atrous.load(asked.start).eval()
    train, val = (open_dataset(asked.voc, split) for split in ("train", "val"))
    official = [*seen(model, train), *seen(model, train, mirrored=True)]
    unseen, unseen_mirrored = seen(model, val), seen(model, val, mirrored=True)

    alone = trained(model, official, (), asked.steps, asked.batch_size)
    with_val = np.zeros((len(model.classes),) * 2, np.int64)
    for fold in range(FOLDS):
        others = [i for i in range(len(unseen)) if i % FOLDS != fold]
        more = [pictures[i] for pictures in (unseen, unseen_mirrored) for i in others]
        head = trained(model, official, more, asked.steps, asked.batch_size)
        with_val += counted(head, unseen[fold::FOLDS])
    save(
        "frozen_backbone",
        {
            "what": f"heads on the frozen backbone of {asked.start.name}, {asked.steps} updates of "
            f"{asked.batch_size} pictures; val at native size",
            "pictures": {"train": len(train), "val": len(val)},
            "start": scores(counted(start_head(model).eval(), unseen), model.classes),
            "official training pictures": scores(counted(alone, unseen), model.classes),
            "and four fifths of val": scores(with_val, model.classes),
            "machine": machine("torch"),
        },
    )


@torch.inference_mode()
def seen(model: atrous.DeepLabV3Plus, data: Dataset, mirrored: bool = False) -> list[Seen]:
    """Returns what the backbone says of each picture."""
    pictures = []
    for index in range(len(data)):
        sample = data[index]
        image, target = sample.image, sample.target
        if mirrored:
            image, target = image[:, ::-1], target[:, ::-1]
        batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
        high_level, low_level = model.encoder.backbone(model.normalize(batch))
        pictures.append(Seen(high_level.half(), low_level[LOW_LEVEL].half(), target.copy()))
    return pictures


def start_head(model: atrous.DeepLabV3Plus) -> atrous.DeepLabV3Plus:
    """Returns the network of the recipe: at first it computes what `model` does."""
    network, _ = graft(model, replace(model.architecture, decoder=True, atrous_rates=None))
    return network.freeze_batch_norm().freeze_backbone()


def logits(network: atrous.DeepLabV3Plus, picture: Seen) -> Tensor:
    """Returns coarse logits (1, K, h, w)."""
    encoded = network.encoder.aspp(picture.high_level.float())
    return network.decoder(encoded, {LOW_LEVEL: picture.low_level.float()})


def trained(
    model: atrous.DeepLabV3Plus,
    known: Sequence[Seen],
    new: Sequence[Seen],
    steps: int,
    batch_size: int,
) -> nn.Module:
    """Trains a head as the recipe does, half of each batch from `new` if there is any."""
    recipe = voc_animals()
    network = start_head(model).train()
    learning = [p for p in network.parameters() if p.requires_grad]
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average_decay)
    )
    optimizer = torch.optim.AdamW(learning, lr=recipe.base_lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, recipe.power)
    random = np.random.default_rng(0)
    for _ in range(steps):
        for place in range(batch_size):
            pictures = new if new and place % 2 else known
            picture = pictures[random.integers(len(pictures))]
            with torch.autocast("cpu", torch.bfloat16):
                coarse = logits(network, picture)
            # Every second pixel is enough to learn from. Corners are aligned, which at sizes other
            # than 4 k + 1 is up to two pixels off at the far edge; scores are exact (`counted`).
            size = [(side + 1) // 2 for side in picture.target.shape]
            target = torch.from_numpy(picture.target[::2, ::2].astype(np.int64))[None]
            shown = interpolate(coarse.float(), size, mode="bilinear", align_corners=True)
            (cross_entropy(shown, target, ignore_index=255) / batch_size).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        average.update_parameters(network)
    return average.module.eval()


@torch.inference_mode()
def counted(network: Any, pictures: Sequence[Seen]) -> Counts:
    """Returns the confusion matrix of pictures at native size."""
    classes = len(network.classes)
    counts = np.zeros((classes, classes), np.int64)
    for picture in pictures:
        coarse = logits(network, picture)[0].permute(1, 2, 0).contiguous().numpy()
        found = labels(coarse, network.logits_stride, picture.target.shape)
        counts += confusion_matrix(picture.target, found, classes)
    return counts


def scores(counts: Counts, classes: Sequence[str]) -> dict[str, Any]:
    """Returns class IoU, their mean, and pixel accuracy."""
    iou = class_iou(counts)
    chosen = {name: round(float(iou[classes.index(name)]), 4) for name in ANIMALS}
    return {
        "mean_iou": round(float(np.mean([iou[classes.index(name)] for name in ANIMALS])), 4),
        "class_iou": chosen,
        "pixel_accuracy": round(pixel_accuracy(counts), 4),
    }


if __name__ == "__main__":
    main()
