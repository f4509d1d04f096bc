"""How many pictures a second does ``atrous data check`` read?

Interleaved with a plain loop over the same pairs: Pillow decodes picture and mask, NumPy lists the
mask's values, one process. Medians; the caches of the system are warm.

    python benchmarks/data_check.py ../shared/data/camvid --out benchmarks/results/data_check.json
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, features

from atrous.data.dataset import FileDataset
from atrous.data.doctor.diagnosis import examine
from atrous.data.doctor.survey import available_cores, survey
from atrous.data.opening import recognise


def plain(root: Path) -> int:
    layout, count = recognise(root), 0
    for split in layout.splits:
        dataset, _ = layout.open(split)
        assert isinstance(dataset, FileDataset)
        for item in dataset.items:
            assert item.annotation is not None
            with Image.open(item.image) as image, Image.open(item.annotation) as mask:
                np.asarray(image.convert("RGB"))
                np.unique(np.asarray(mask))
            count += 1
    return count


def doctor(root: Path, workers: int) -> int:
    found = survey(recognise(root), workers=workers)
    examine(found)
    return len(found.measurements)


def command(root: Path) -> int:
    """Runs the whole command, from the start of Python to its last line."""
    call = [sys.executable, "-c", "from atrous.cli.data import data; data()", "check", str(root)]
    answer = subprocess.run([*call, "--json"], check=True, capture_output=True).stdout
    return sum(split["samples"] for split in json.loads(answer)["splits"].values())


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cores = available_cores()
    ways: dict[str, Callable[[], int]] = {
        "plain loop, 1 process": lambda: plain(arguments.data),
        "data check, 1 process": lambda: doctor(arguments.data, 1),
        f"data check, {cores} processes": lambda: doctor(arguments.data, cores),
        "atrous data check, whole command": lambda: command(arguments.data),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    loads = [os.getloadavg()[0]]
    for repeat in range(arguments.repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            count = way()
            if repeat:  # the first warms up
                rates[name].append(count / (time.perf_counter() - start))
        loads.append(os.getloadavg()[0])
    result = {
        "data": arguments.data.resolve().name,
        "pictures": count,
        "pictures_per_second": {n: round(statistics.median(r), 1) for n, r in rates.items()},
        "fastest": {n: round(max(r), 1) for n, r in rates.items()},
        "repeats": arguments.repeats,
        "machine": {
            "cpu": cpu_model(),
            "cores": cores,
            "load_before_and_after": loads[:: len(loads) - 1],
        },
        "versions": {
            "python": platform.python_version(),
            "pillow": PIL.__version__,
            "libjpeg_turbo": features.version("libjpeg_turbo"),
            "numpy": np.__version__,
        },
    }
    text = json.dumps(result, indent=1) + "\n"
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
