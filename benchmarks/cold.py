"""From the shell to files on disk in a cold process: ours against the peer's shortest script.

python benchmarks/cold.py MODEL.onnx PHOTO [--rounds N]

Seconds and peak memory of whole processes, alternating. The first run of ours compiles and keeps
what it compiled; it is reported apart. The peer does what its README shows: eager, padded to 528,
labels saved as PNG.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import machine, save

PEER = """
import sys, numpy as np, torch, segmentation_models_pytorch as smp
from PIL import Image
model = smp.DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=21).eval()
image = np.asarray(Image.open(sys.argv[1]).convert("RGB"), np.float32) / 255
height, width = image.shape[:2]
image = np.pad(image, ((0, -height % 16), (0, -width % 16), (0, 0)))
image = (image - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
with torch.inference_mode():
    logits = model(torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32)))
labels = logits.argmax(1)[0, :height, :width].numpy().astype(np.uint8)
Image.fromarray(labels).save(sys.argv[2])
"""


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Returns seconds, processor seconds and megabytes of peak memory of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"failed: {command}")
    assert isinstance(usage, resource.struct_rusage)
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "ATROUS_CACHE": f"{folder}/cache"}
        commands = {
            "ours": [
                *(sys.executable, "-m", "atrous.cli", "predict", str(arguments.photo)),
                *("--model", str(arguments.model), "--out", f"{folder}/out", "--overwrite"),
            ],
            "peer": [sys.executable, "-c", PEER, str(arguments.photo), f"{folder}/peer.png"],
        }
        first = run(commands["ours"], environment)
        run(commands["peer"], environment)  # warms the file cache for it, too
        samples: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                samples[name].append(run(command, environment))
    medians = {
        name: [round(statistics.median(column), 2) for column in zip(*rows, strict=True)]
        for name, rows in samples.items()
    }
    keys = ("seconds", "processor_seconds", "peak_megabytes")
    ours, peer = medians["ours"], medians["peer"]
    save(
        "cold",
        {
            "what": f"atrous predict of {arguments.photo.name} by an exported MobileNetV2 "
            f"({arguments.model.stat().st_size / 1e6:.1f} MB) against the peer's script",
            "medians": {n: dict(zip(keys, v, strict=True)) for n, v in medians.items()},
            "ours_first_run": dict(zip(keys, [round(v, 2) for v in first], strict=True)),
            "ratios": {k: round(p / o, 2) for k, o, p in zip(keys, ours, peer, strict=True)},
            "rounds": arguments.rounds,
            "machine": machine("openvino", "torch", "segmentation-models-pytorch"),
        },
    )


if __name__ == "__main__":
    main()
