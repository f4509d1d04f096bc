"""The processes that torchrun started as one, or this process alone."""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from atrous.errors import AtrousError, ResourceError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Processes:
    """This process among the processes that train together.

    Attributes:
        rank: 0 for the leading process, which writes files.
        world_size: Number of processes.
        device: Where this process computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the sum over all processes, the same in each."""
        if self.world_size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Returns the tensors of all processes, in order of their ranks."""
        if self.world_size == 1:
            return [tensor]
        tensor = tensor.to(self.device)
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(gathered, tensor)
        return [part.cpu() for part in gathered]

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites tensors with those of the leading process."""
        if self.world_size > 1:
            for tensor in tensors:
                contiguous = tensor.contiguous()  # channels_last weights are not
                dist.broadcast(contiguous, 0)
                tensor.copy_(contiguous)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Overwrites tensors with their means over all processes, in one exchange."""
        if self.world_size > 1 and tensors:
            joined = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(joined)
            joined /= self.world_size
            parts = torch.split(joined, [tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))


@contextmanager
def joined(device: str, timeout: float, heartbeats: Path) -> Iterator[Processes]:
    """Joins the processes that torchrun started; without torchrun, this process is alone.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        timeout: Seconds to wait for another process before giving up.
        heartbeats: Folder in which each process notes its last step (`beat`).

    Raises:
        AtrousError: No such device; another process was lost, or hung, while in the context.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = chosen_device(device)
    processes = Processes(rank, world_size, chosen)
    if world_size == 1:
        yield processes
        return
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    limit = timedelta(seconds=timeout)
    store, _, _ = next(dist.rendezvous("env://", timeout=limit))  # type: ignore[attr-defined]
    # An elastic restart keeps the store (torch 2.14). Without a prefix, an early process would read
    # an address that the last attempt left in the store.
    store = dist.PrefixStore(f"attempt-{restarts()}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    try:
        yield processes
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, AtrousError) or not _is_communication(error):
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise ResourceError(
            "E-PROCESS-LOST",
            f"process {rank} lost contact with another: {reason}; "
            f"last signs of life: {_last_beats(heartbeats)}",
            fix="see the log of the process that stopped; the last checkpoint is valid, "
            "and torchrun --max-restarts=3 goes on from it by itself. If one hangs again, "
            "TORCH_FR_BUFFER_SIZE=20000 lets torch record what it waits for",
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def restarts() -> int:
    """Returns how many times torchrun has started these processes anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def beat(heartbeats: Path, processes: Processes, step: int) -> None:
    """Notes that this process has begun a step, so that a process that hangs can be found."""
    if processes.world_size > 1:
        heartbeats.mkdir(exist_ok=True)
        (heartbeats / f"rank-{processes.rank}").write_text(str(step))


def _last_beats(heartbeats: Path) -> str:
    now = time.time()
    beats = [
        f"{path.name} step {path.read_text()}, {now - path.stat().st_mtime:.0f} s ago"
        for path in sorted(heartbeats.glob("rank-*"))
    ]
    return "; ".join(beats) or "none"


def _is_communication(error: Exception) -> bool:
    text = str(error).lower()
    words = ("gloo", "nccl", "connection", "peer", "timed out", "socket")
    return isinstance(error, dist.DistError) or any(word in text for word in words)


def chosen_device(name: str) -> torch.device:
    """Returns the device that a config names; torchrun gives each process a GPU of its own.

    Raises:
        AtrousError: There is no CUDA device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise AtrousError(
                "E-DEVICE", "no CUDA device is available", fix="use --device cpu, or auto"
            )
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    return torch.device("cpu")
