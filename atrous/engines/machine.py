"""The machine under this process: processors, memory, and the folder for cached files."""

import contextlib
import os
import platform
import signal
import sys
from collections.abc import Iterator
from pathlib import Path


def usable_processors() -> int:
    """Returns how many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Returns the name of the processor."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open() as lines:
        for line in lines:  # the first few: a large machine has thousands
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_megabytes() -> float:
    """Returns the largest resident memory of this process; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    try:
        import resource  # on Linux, its figure includes the parent's memory before the start
    except ModuleNotFoundError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def cache_folder() -> Path:
    """Returns the folder for compiled models and downloads.

    ``ATROUS_CACHE`` names it; otherwise it is ``atrous`` in the user's folder for caches.
    """
    if folder := os.environ.get("ATROUS_CACHE"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "atrous"


def writable(folder: Path) -> Path | None:
    """Makes a folder and returns it; None if that fails, and every start must compile."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    return None


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Holds Ctrl-C back from a process that is started here until it calls `ignore_interrupts`."""
    if sys.platform == "win32":  # it has no masks of signals
        yield
        return
    from multiprocessing import resource_tracker  # slow to import, and few need it

    resource_tracker.ensure_running()  # its start would end the hold
    held = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def ignore_interrupts() -> None:
    """Leaves Ctrl-C, which a terminal sends to worker processes too, to the process that waits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
