"""The doctor's quick look before training: can anything be learnt at all."""

import random

from atrous.data.dataset import Dataset
from atrous.data.doctor.findings import one_class
from atrous.errors import AtrousError


def check_trainable(dataset: Dataset, split: str = "train") -> None:
    """Raises the doctor's error if all labelled pixels of a data set are of one class.

    Samples are read in a random order until two classes have been seen: mostly one or two samples,
    and all of them only where the answer is an error.

    Args:
        dataset: What is going to be trained on.
        split: Its name in the message.

    Raises:
        AtrousError: E-DATA-ONE-CLASS.
    """
    seen: set[int] = set()
    for index in random.Random(0).sample(range(len(dataset)), len(dataset)):
        try:
            target = dataset[index].target
        except AtrousError:
            continue  # training decides what a sample that cannot be read means
        seen.update(label for label in set(target.ravel().tolist()) if label < len(dataset.classes))
        if len(seen) > 1:
            return
    raise one_class(split, dataset.classes[min(seen)] if seen else "").as_error()
