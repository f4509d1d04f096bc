"""Peak memory of `atrous predict` on large pictures, each in a process of its own.

python benchmarks/memory.py [CASE ...]

The networks have random weights, the pictures are made up; neither matters to memory. A picture
of 20,000 x 20,000 is a tiled TIFF of about 400 megapixels. Also shown: the megapixels the network
saw, overlaps counted each time, and whether tiles overlap by the whole reach of the network.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measuring import machine, save
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from atrous import create_model
from atrous.engines.openvino import ExportedEngine
from atrous.export.export import export
from atrous.images.raster import PixelsInMemory
from atrous.images.tiff_windows import open_tiff
from atrous.predict import tiles
from tests.tiffs import write_tiled


class Case(NamedTuple):
    """A picture, a network and what `--memory` allows."""

    side: int
    suffix: str
    backbone: str
    options: dict[str, Any]
    memory: int


PREDICT = """
import sys
from atrous.cli import main
try:
    main(sys.argv[1:])
except SystemExit as error:
    assert not error.code
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""
SMALL = {"num_classes": 21, "depth_multiplier": 0.25, "decoder": False, "atrous_rates": ()}
CASES = {
    "150 classes, 4096": Case(4096, ".tif", "mobilenet_v2", {"num_classes": 150}, 2 * 10**9),
    "150 classes, 4096, JPEG": Case(4096, ".jpg", "mobilenet_v2", {"num_classes": 150}, 2 * 10**9),
    "150 classes, 4096, Xception-65": Case(
        4096, ".tif", "xception65", {"num_classes": 150}, 2 * 10**9
    ),
    "small network, 4096": Case(4096, ".tif", "mobilenet_v2", SMALL, 10**9),
    "small network, 20000": Case(20_000, ".tif", "mobilenet_v2", SMALL, 10**9),
}


def pixels(top: int, left: int, side: int = 256) -> np.ndarray:
    """Returns waves under a little noise."""
    rows, columns = np.mgrid[top : top + side, left : left + side].astype(np.float32)
    waves = [128 + 60 * (np.sin(rows / (40 + c)) + np.cos(columns / (90 - c))) for c in range(3)]
    noise = np.random.default_rng(top * 65536 + left).integers(-8, 8, (side, side, 1))
    return np.clip(np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)


def run(case: Case, folder: Path) -> dict[str, Any]:
    """Writes picture and model, and runs the command."""
    picture, model = folder / f"picture{case.suffix}", folder / "model.onnx"
    if case.suffix == ".tif":
        write_tiled(picture, (case.side, case.side), pixels)
    else:
        Image.fromarray(pixels(0, 0, case.side)).save(picture)
    export(create_model(case.backbone, **case.options), model)
    engine = ExportedEngine(model)
    windows = open_tiff(picture) or PixelsInMemory(np.asarray(Image.open(picture)), copies=2)
    grid = tiles.plan(engine, windows, case.memory)
    command = [sys.executable, "-c", PREDICT, "predict", str(picture), "--model", str(model)]
    command += ["--out", f"{folder}/out", "--memory", str(case.memory)]
    environment = {**os.environ, "ATROUS_CACHE": f"{folder}/cache"}
    start = time.perf_counter()
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return {
        "picture": f"{case.side} x {case.side} {case.suffix}",
        "network": case.backbone,
        "options": case.options,
        "memory_megabytes": case.memory // 10**6,
        "peak_megabytes": round(int(result.stdout.split()[-1]) * 1024 / 1e6),
        "seconds": round(time.perf_counter() - start),
        "tiles": f"{grid.rows.number} x {grid.columns.number} of "
        f"{grid.rows.length} x {grid.columns.length}",
        "megapixels": round(case.side**2 / 1e6, 1),
        "megapixels_seen": round(grid.pixels / 1e6, 1),
        "overlap_is_whole_reach": grid.margin >= engine.reach,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    results = {}
    what = "peak resident memory of atrous predict, picture to files"
    for name in parser.parse_args().cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = run(CASES[name], Path(folder))
        save("memory", {"what": what, "cases": results, "machine": machine("openvino", "pillow")})


if __name__ == "__main__":
    main()
