"""Several processes as one: what torchrun started, or this process alone."""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from atrous.errors import AtrousError, ExitCode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: 0 for the one that writes files.
        world_size: How many there are.
        device: What this one computes on.
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
        """Overwrites tensors with those of the process that leads."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)


@contextmanager
def joined(device: str, timeout: float, heartbeats: Path) -> Iterator[Processes]:
    """Joins the processes torchrun started; without torchrun, this one is alone.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        timeout: Seconds to wait for another process before giving up.
        heartbeats: Folder in which each process notes its last step (`beat`).

    Raises:
        AtrousError: No such device; another process was lost, or hung, while in the context.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", 0)))
    processes = Processes(rank, world_size, chosen)
    if world_size == 1:
        yield processes
        return
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    limit = timedelta(seconds=timeout)
    store, _, _ = next(dist.rendezvous("env://", timeout=limit))  # type: ignore[attr-defined]
    # An elastic restart keeps the store (torch 2.14): without a prefix, a process that is early
    # reads the address that one of the last attempt left there.
    store = dist.PrefixStore(f"attempt-{restarts()}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    try:
        yield processes
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, AtrousError) or not _is_communication(error):
            raise
        raise AtrousError(
            "E-PROCESS-LOST",
            f"process {rank} lost contact with another: {_first_line(error)}; "
            f"last signs of life: {_last_beats(heartbeats)}",
            fix="see the log of the process that stopped; the last checkpoint is valid, "
            "and torchrun --max-restarts=3 goes on from it by itself. If one hangs again, "
            "TORCH_FR_BUFFER_SIZE=20000 lets torch record what it waits for",
            exit_code=ExitCode.RESOURCES,
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def restarts() -> int:
    """Returns how many times torchrun has started these processes anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def beat(heartbeats: Path, processes: Processes, step: int) -> None:
    """Notes that this process has begun a step, for whoever looks for one that hangs."""
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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise AtrousError(
                "E-DEVICE", "no CUDA device is available", fix="use --device cpu, or auto"
            )
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    return torch.device("cpu")
