"""Compiled models of one file for whole pictures, and who may run at a time."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import LifoQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

# After so many pictures of one size, a model for that size has saved the time of compiling it.
REPEATS_WORTH_COMPILING = 16

Size = tuple[int, int]  # (height, width)


class Requests:
    """The inference requests of a compiled model, one for each picture that it sees at a time.

    Args:
        compiled: The `openvino.CompiledModel`.
        number: Number of requests.

    Attributes:
        compiled: The same.
    """

    def __init__(self, compiled: Any, number: int) -> None:
        self.compiled = compiled
        self._free: LifoQueue[Any] = LifoQueue()
        for _ in range(number):
            self._free.put(compiled.create_infer_request())

    def infer(self, inputs: dict[int, NDArray[Any]]) -> NDArray[np.float32]:
        """Runs one picture (1, ...), when a request is free; returns its output (...)."""
        request = self._free.get()
        try:
            outputs = request.infer(inputs, share_inputs=True, share_outputs=True)
            return np.array(outputs[0][0])  # a copy, because the next run overwrites the original
        finally:
            self._free.put(request)


class BySize:
    """Compiled models for whole pictures.

    A model that is compiled for one size is a few percent faster than one for any size, and takes
    as long to compile. So the size of the first picture gets its own model, and other sizes share
    one. A size that occurs often replaces the first.

    Args:
        compiled: Compiles the file for an input shape (1, H, W, C), in which -1 is any length. Also
            given the requests that ran often for the shape, it returns the same or faster ones.
        channels: C.

    Attributes:
        for_size: The size that has its own model, and the model.
    """

    def __init__(self, compiled: Callable[..., Requests], channels: int = 3) -> None:
        self._compiled, self._channels = compiled, channels
        self.for_size: tuple[Size, Requests] | None = None
        self._for_any_size: Requests | None = None
        self._times_seen: Counter[Size] = Counter()
        self._lock = threading.Lock()

    def requests(self, size: Size) -> Requests:
        """Returns the requests of the model for pictures of a size."""
        with self._lock:
            self._times_seen[size] += 1
            is_often = self._times_seen[size] == REPEATS_WORTH_COMPILING
            if self.for_size is None or (self.for_size[0] != size and is_often):
                self.for_size = size, self._compiled((1, *size, self._channels))
            if self.for_size[0] == size and is_often:
                used = self.for_size[1]
                self.for_size = size, self._compiled((1, *size, self._channels), used)
            if self.for_size[0] == size:
                return self.for_size[1]
            if self._for_any_size is None:
                self._for_any_size = self._compiled((1, -1, -1, self._channels))
            return self._for_any_size

    def forget(self) -> None:
        """Gives the models and their memory back."""
        self.for_size = self._for_any_size = None

    def release_memory(self) -> None:
        """Gives back the memory that runs took."""
        models = (self.for_size and self.for_size[1], self._for_any_size)
        for model in models:
            if model is not None:
                model.compiled.release_memory()


class Gate:
    """Lets in several threads that share, or one thread alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._owner: int | None = None  # the thread that is in alone

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Waits until no thread is in alone."""
        with self._changed:
            self._changed.wait_for(lambda: self._owner is None)
            self._sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until no thread is in; a thread that is in alone may go in again."""
        me = threading.get_ident()
        if self._owner == me:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: self._owner is None and not self._sharing)
            self._owner = me
        try:
            yield
        finally:
            with self._changed:
                self._owner = None
                self._changed.notify_all()
