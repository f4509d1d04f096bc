"""Pictures a second, processor time and peak memory of each way to predict many pictures.

python benchmarks/bulk.py [--pictures 2000] [--side 160] [--rounds 3] [--ways plain,shards,jobs,ray]

Every way writes all files of the same pictures with the default model, on two threads in all: one
process, two processes with `--shard`, `--jobs 2`, and two actors of Ray. Wall time is that of the
whole command, its start included. Processor time and memory (PSS, so that shared pages count once)
are those of the command and all its descendants. Run it on an idle machine.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from measuring import machine, save
from PIL import Image

PREDICT = [sys.executable, "-m", "atrous.cli", "predict"]
WAYS = {
    "plain": [["--threads", "2"]],
    "shards": [["--threads", "1", "--shard", f"{i}/2"] for i in (1, 2)],
    "jobs": [["--threads", "2", "--jobs", "2"]],
    "ray": [["--engine", "ray", "--jobs", "2", "--threads", "1"]],
}
TICKS = os.sysconf("SC_CLK_TCK")


def descendants(process: int) -> Iterator[int]:
    yield process
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield from descendants(child)


class Watch(threading.Thread):
    """Samples the processes of some commands until they have ended."""

    def __init__(self, commands: list[subprocess.Popen[bytes]]) -> None:
        super().__init__()
        self.commands = commands
        self.seconds: dict[int, float] = {}  # of the processor, by process
        self.peak = 0.0  # megabytes

    def run(self) -> None:
        while any(command.poll() is None for command in self.commands):
            memory = 0.0
            for root in self.commands:
                for process in descendants(root.pid):
                    memory += self._look(process)
            self.peak = max(self.peak, memory)
            time.sleep(0.2)

    def _look(self, process: int) -> float:
        """Notes the processor time of a process; returns its megabytes."""
        try:
            stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            return 0.0
        self.seconds[process] = (int(stat[11]) + int(stat[12])) / TICKS
        pss = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
        return int(pss[1]) / 1024 if pss else 0.0


def measure(way: str, pictures: Path, folder: Path) -> dict[str, float]:
    """Runs one way into an empty folder."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        start = time.perf_counter()
        commands = [
            subprocess.Popen(
                [*PREDICT, str(pictures), "--out", out, *options],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for options in WAYS[way]
        ]
        watch = Watch(commands)
        watch.start()
        codes = [command.wait() for command in commands]
        wall = time.perf_counter() - start
        watch.join()
        done = sum(1 for _ in Path(out).rglob("*.json"))
    if any(codes):
        raise SystemExit(f"{way} ended with {codes}")
    return {
        "wall": wall,
        "processor": sum(watch.seconds.values()),
        "megabytes": watch.peak,
        "pictures": done,
    }


def draw(folder: Path, count: int, side: int) -> None:
    """Writes pictures of waves with noise, as JPEG."""
    rows, columns = np.mgrid[:side, :side]
    random = np.random.default_rng(0)
    for index in range(count):
        waves = [128 + 90 * np.sin((rows * a + columns * b) / 20) for a, b in random.random((3, 2))]
        noise = random.integers(-8, 8, (side, side, 1))
        pixels = np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:06}.jpg", quality=90)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", default=",".join(WAYS))
    options = parser.parse_args()
    samples: dict[str, list[dict[str, float]]] = {way: [] for way in options.ways.split(",")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        draw(folder / "in", options.pictures, options.side)
        for _ in range(options.rounds):  # in turns, so that other load hits all ways alike
            for way, found in samples.items():
                found.append(measure(way, folder / "in", folder))
                print(way, found[-1], flush=True)
    ways = {}
    for way, found in samples.items():
        median = {key: float(np.median([each[key] for each in found])) for key in found[0]}
        ways[way] = {
            "pictures_per_second": round(median["pictures"] / median["wall"], 1),
            "wall_seconds": round(median["wall"], 1),
            "fastest_wall_seconds": round(min(each["wall"] for each in found), 1),
            "processor_seconds": round(median["processor"], 1),
            "peak_megabytes": round(median["megabytes"]),
            "pictures": int(median["pictures"]),
        }
    ratio = None
    if {"jobs", "shards"} <= ways.keys():
        ratio = round(ways["jobs"]["wall_seconds"] / ways["shards"]["wall_seconds"], 3)
    packages = ("openvino", "ray") if "ray" in ways else ("openvino",)
    save(
        "bulk",
        {
            "what": "atrous predict with the default model, all files written",
            "picture": f"{options.side} x {options.side}",
            "rounds": options.rounds,
            "ways": ways,
            "jobs_to_shards": ratio,
            "machine": machine(*packages),
        },
    )


if __name__ == "__main__":
    main()
