"""What every benchmark here shares: interleaved samples, medians, and who measured them."""

import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def interleave(
    candidates: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warm_up: int = 1,
    untimed: int = 0,
) -> dict[str, dict[str, float]]:
    """Times each candidate once a round, so that other load on the machine hits all alike.

    Args:
        candidates: What to run, by name.
        rounds: Samples of each.
        warm_up: Rounds before the first that counts.
        untimed: Runs of a candidate before each of its samples: the one before it may leave cold
            caches, and threads that spin.

    Returns:
        Milliseconds: median, fastest, between the quartiles, and number of samples by candidate.
    """
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(rounds + warm_up):
        for name, run in candidates.items():
            for _ in range(untimed):
                run()
            start = time.perf_counter()
            run()
            if round_ >= warm_up:
                samples[name].append(1e3 * (time.perf_counter() - start))
    return {name: _summary(values) for name, values in samples.items()}


class Turns:
    """A contender in a process of its own, which waits between its steps (`take_steps`).

    Args:
        command: A Python script and its arguments.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer()
        self.wall: list[float] = []  # seconds
        self.processor: list[float] = []

    def step(self) -> None:
        """Takes one step, and notes what it took."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        wall, processor = map(float, self._answer().split())
        self.wall.append(wall)
        self.processor.append(processor)

    def finish(self) -> int:
        """Ends the process; returns its peak of resident memory in megabytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        self._process.communicate()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak is not None
        return int(peak[1]) // 1024

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"ended: {self._process.args}")
        return answer


def take_steps(step: Callable[[], Any], *, untimed: int = 0) -> None:
    """Takes a step for every line of standard input; prints its wall and processor time."""
    print("ready", flush=True)
    for _ in sys.stdin:
        for _ in range(untimed):
            step()
        start, spent = time.perf_counter(), time.process_time()
        step()
        print(time.perf_counter() - start, time.process_time() - spent, flush=True)


def in_turns(
    commands: Mapping[str, Sequence[str]], *, rounds: int, warm_up: int = 1
) -> dict[str, dict[str, float]]:
    """Does what `interleave` does with a process of its own for each; adds processor time."""
    turns = {name: Turns(command) for name, command in commands.items()}
    for _ in range(rounds + warm_up):
        for contender in turns.values():
            contender.step()
    for contender in turns.values():
        contender.finish()
    return {
        name: {
            **_summary([1e3 * seconds for seconds in contender.wall[warm_up:]]),
            "processor_ms": round(1e3 * statistics.median(contender.processor[warm_up:]), 2),
        }
        for name, contender in turns.items()
    }


def _summary(milliseconds: list[float]) -> dict[str, float]:
    return {
        "median_ms": round(statistics.median(milliseconds), 2),
        "fastest_ms": round(min(milliseconds), 2),
        "spread_ms": round(_spread(milliseconds), 2),
        "samples": len(milliseconds),
    }


def _spread(values: list[float]) -> float:
    """Returns what lies between the first and the third quartile."""
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4)
    return third - first


def machine(*packages: str) -> dict[str, Any]:
    """Names processor, cores, load and versions."""
    from atrous.engines.bench import (
        processor,  # here: contenders in processes of their own do without
    )

    flags = Path("/proc/cpuinfo").read_text()
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "avx512": "avx512f" in flags,
        "vnni": "vnni" in flags,
        "bf16": "avx512_bf16" in flags,
        "amx": "amx_tile" in flags,
        "load_average": os.getloadavg()[0],
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def save(name: str, result: Mapping[str, Any]) -> None:
    """Writes a result beside the scripts, under the name of this processor, and prints it."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=1)
    result_path(name).write_text(text + "\n")
    print(text)


def result_path(name: str) -> Path:
    """Returns where this machine's result lies: results of other processors stay beside it.

    >>> result_path("labels").suffixes[-1]
    '.json'
    """
    from atrous.engines.bench import processor

    return RESULTS / f"{name}.{processor_slug(processor())}.json"


def processor_slug(processor: str) -> str:
    """Returns the name of a processor as part of a file's name.

    >>> processor_slug("Intel(R) Xeon(R) Processor @ 2.60GHz")
    'intel-xeon-processor'
    """
    plain = re.sub(r"\((R|TM)\)|CPU|@.*", " ", processor)
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
