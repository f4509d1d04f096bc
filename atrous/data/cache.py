"""A cache of decoded samples in memory that all workers share."""

import mmap
import multiprocessing
import sys

import numpy as np

from atrous.data.dataset import Dataset, Sample, target_dtype
from atrous.errors import ResourceError
from atrous.images.bands import bands_of

# Workers share memory with this process only if they are forked from it.
CONTEXT = multiprocessing.get_context("fork" if sys.platform == "linux" else None)

_ABSENT = -1


class CachedDataset:
    """A `Dataset` that decodes every sample once, up to a memory budget.

    Nothing is written to disk. The samples lie in anonymous memory, which worker processes share if
    they are forked from this process (on Linux). A spawned worker decodes its own samples. The
    system allocates memory only as samples are stored. Once the budget is used up, further
    samples are decoded every time. Do not write to the arrays of a cached sample.

    Args:
        dataset: Where the samples come from.
        budget: Bytes of decoded samples to keep at most.

    Raises:
        AtrousError: The system does not grant that much memory.
    """

    def __init__(self, dataset: Dataset, budget: int) -> None:
        self._dataset = dataset
        self.classes, self.palette = dataset.classes, dataset.palette
        self.names = dataset.names
        self._dtype = np.dtype(target_dtype(len(dataset.classes)))
        self.bands = bands_of(dataset)
        self._pixel = np.dtype((self.bands.dtype, (len(self.bands.names),)))
        self._budget = budget
        try:
            self._memory = mmap.mmap(-1, max(budget, 1))
            self._table = mmap.mmap(-1, 24 * len(dataset) + 8)
        except (OSError, OverflowError, ValueError) as error:
            raise ResourceError(
                "E-CACHE-MEMORY",
                f"no memory for a cache of {budget / 1e9:.1f} GB: {error}",
                fix="give a smaller budget",
            ) from None
        self._lock = CONTEXT.Lock()
        table = np.frombuffer(self._table, np.int64)
        self._used, self._slots = table[:1], table[1:].reshape(-1, 3)  # (offset, height, width)
        self._slots[:, 0] = _ABSENT

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        offset, height, width = (int(number) for number in self._slots[index])
        if offset == _ABSENT:
            sample = self._dataset[index]
            self._keep(index, sample)
            return sample
        return self._view(offset, height, width)

    def fingerprint(self) -> str:
        """As the data set's."""
        return self._dataset.fingerprint()

    def __reduce__(self) -> tuple[type, tuple[Dataset, int]]:
        # A spawned process cannot receive the shared memory and the lock: it gets an empty cache.
        return (CachedDataset, (self._dataset, 0))

    def _keep(self, index: int, sample: Sample) -> None:
        height, width = sample.target.shape
        with self._lock:
            offset = int(self._used[0])
            size = self._image_at(0, height * width) + height * width * self._pixel.itemsize
            if self._slots[index, 0] != _ABSENT or offset + size > self._budget:
                return
            self._used[0] += _aligned(size)
        view = self._view(offset, height, width)
        view.image[...] = sample.image
        view.target[...] = sample.target
        with self._lock:  # set last: other processes read the pixels as soon as the slot is set
            self._slots[index, 1:] = height, width
            self._slots[index, 0] = offset

    def _view(self, offset: int, height: int, width: int) -> Sample:
        pixels = height * width
        target = np.frombuffer(self._memory, self._dtype, pixels, offset)
        start = self._image_at(offset, pixels)
        image = np.frombuffer(self._memory, self._pixel, pixels, start)
        shape = (height, width, len(self.bands.names))
        return Sample(image.reshape(shape), target.reshape(height, width))

    def _image_at(self, offset: int, pixels: int) -> int:
        """Returns where the picture of a sample begins, after its target."""
        return _aligned(offset + pixels * self._dtype.itemsize)


def _aligned(offset: int) -> int:
    """Returns the next offset at which values of up to four bytes may begin."""
    return -(-offset // 4) * 4
