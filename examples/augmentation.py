"""Fine-tuning with augmentations of albumentations (2.0.8, MIT).

python examples/augmentation.py my_data runs/mine
"""

import os
import sys

import albumentations as A
import numpy as np

import atrous

data, out = sys.argv[1:]
vary = A.Compose(
    [A.RandomBrightnessContrast(p=0.5), A.GaussNoise(p=0.3), A.Rotate(limit=10, p=0.5)]
)


def augment(image: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps a picture (H, W, 3) and its target (H, W) to new ones; the recipe crops afterwards."""
    varied = vary(image=image, mask=target)
    return varied["image"], varied["mask"]


length = {"steps": int(os.environ["ATROUS_STEPS"])} if "ATROUS_STEPS" in os.environ else {}
config = atrous.recipes.finetune(data, **length)
atrous.train(config, out, augment=augment)
