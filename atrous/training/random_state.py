"""The random states of a process: seeded, read and restored, so that a run resumes exactly."""

import base64
import json
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed(value: int, rank: int = 0) -> None:
    """Seeds Python, NumPy and torch, each process with other numbers."""
    state = np.random.SeedSequence(value, spawn_key=(rank,)).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))  # noqa: NPY002  # for code of others that draws from it
    torch.manual_seed(int(state[2]))


def state() -> dict[str, Any]:
    """Returns the states of Python, NumPy, torch and CUDA in JSON's types."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": _encoded(torch.get_rng_state()),
    }
    if torch.cuda.is_available():
        states["cuda"] = _encoded(torch.cuda.get_rng_state())
    return states


def restore(states: dict[str, Any]) -> None:
    """Restores the states that `state` returned."""
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(states["numpy"]))  # noqa: NPY002
    torch.set_rng_state(_decoded(states["torch"]))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(_decoded(states["cuda"]))


def as_tensor(states: dict[str, Any]) -> Tensor:
    """Packs states into bytes that processes can exchange without pickling."""
    return torch.tensor(list(json.dumps(states).encode().ljust(1 << 16)), dtype=torch.uint8)


def from_tensor(packed: Tensor) -> dict[str, Any]:
    """Returns the states that `as_tensor` packed."""
    unpacked: dict[str, Any] = json.loads(bytes(packed.tolist()))
    return unpacked


def _encoded(tensor: Tensor) -> str:
    return base64.b64encode(bytes(tensor.tolist())).decode()


def _decoded(text: str) -> Tensor:
    return torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)
