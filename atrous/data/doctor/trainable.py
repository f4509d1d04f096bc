"""A quick check before training: do the targets hold at least two classes."""

import random

import numpy as np

from atrous.data.dataset import Dataset
from atrous.data.doctor.findings import one_class
from atrous.errors import AtrousError


def check_trainable(dataset: Dataset, split: str = "train") -> None:
    """Raises the doctor's error if all labelled pixels of a data set are of one class.

    Samples are read in a random order until two classes have been seen. Mostly one or two samples
    are read; all samples are read only before an error.

    Args:
        dataset: The training data.
        split: The name of the split, for the message.

    Raises:
        AtrousError: E-DATA-ONE-CLASS.
    """
    seen: set[int] = set()
    for index in random.Random(0).sample(range(len(dataset)), len(dataset)):
        try:
            target = dataset[index].target
        except AtrousError:
            continue  # training reports samples that cannot be read
        seen.update(k for k in np.unique(target).tolist() if k < len(dataset.classes))
        if len(seen) > 1:
            return
    raise one_class(split, dataset.classes[min(seen)] if seen else "").as_error()
