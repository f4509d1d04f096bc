"""Peak memory of `atrous predict` on large pictures, each in a process of its own.

python benchmarks/memory.py [CASE ...]

The networks have random weights, the pictures are made up; neither matters to memory. A picture
of 20,000 x 20,000 is a tiled TIFF of about 400 megapixels. Also shown: the megapixels the network
saw, overlaps counted each time, and whether tiles overlap by the whole reach of the network.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measuring import machine, save
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from atrous import create_model, tiles
from atrous.engines import ExportedEngine
from atrous.export import export
from tests.tiffs import write_tiled


class Case(NamedTuple):
    """A picture, a network and what `--memory` allows."""

    side: int
    suffix: str
    backbone: str
    options: dict[str, Any]
    memory: int


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
    grid = tiles.plan(engine, (case.side, case.side), case.memory)
    command = [sys.executable, "-m", "atrous.cli", "predict", str(picture), "--model", str(model)]
    command += ["--out", f"{folder}/out", "--memory", str(case.memory)]
    start = time.perf_counter()
    process = os.posix_spawn(
        sys.executable, command, {**os.environ, "ATROUS_CACHE": f"{folder}/cache"}
    )
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"failed: {command}")
    return {
        "picture": f"{case.side} x {case.side} {case.suffix}",
        "network": case.backbone,
        "options": case.options,
        "memory_megabytes": case.memory // 10**6,
        "peak_megabytes": round(usage.ru_maxrss * 1024 / 1e6),
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
    for name in parser.parse_args().cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = run(CASES[name], Path(folder))
            print(name, results[name], flush=True)
    what = "peak resident memory of atrous predict, picture to files"
    save("memory", {"what": what, "cases": results, "machine": machine("openvino", "pillow")})


if __name__ == "__main__":
    main()
