"""Videos: frames a second, and how much labels flicker with and without --stabilise.

python benchmarks/video.py [--model voc] [--picture FILE] [--frames 50] [--noise 8]

The video is one picture with new noise in every frame (normal, of the given standard deviation in
0..255), so that every change of a label is a flicker. It is stored without loss. Needs ffmpeg.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from atrous.predict.batch import Extras
from atrous.predict.many import segment_many
from atrous.predict.predictor import Predictor
from atrous.predict.video import VideoOptions

HOW = {
    "labels alone": Extras(overlay=False),
    "overlay": Extras(),
    "overlay, --stabilise": Extras(video=VideoOptions(stabilise=True)),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="voc")
    parser.add_argument("--picture", type=Path, default=Path("docs/gallery/chelsea.jpg"))
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--noise", type=float, default=8)
    arguments = parser.parse_args()
    predictor = Predictor(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "still.mkv"
        size = write_still(path, arguments.picture, arguments.frames, arguments.noise)
        print(f"{arguments.model} in {predictor.precision}, {arguments.frames} frames of {size}")
        for number, (name, extras) in enumerate(HOW.items()):
            start = time.perf_counter()
            (record,) = segment_many([path], predictor, Path(folder) / str(number), extras=extras)
            rate = record["num_frames"] / (time.perf_counter() - start)
            changed = f"{100 * record['changed']:.3f} % of the labels change a frame"
            print(f"{name:<22} {rate:6.2f} frames/s  {changed}", flush=True)


def write_still(path: Path, picture: Path, frames: int, noise: float) -> str:
    """Writes a video of a picture with noise, and returns its size."""
    image = np.asarray(Image.open(picture).convert("RGB"), np.float32)
    size = f"{image.shape[1]}x{image.shape[0]}"
    command = ["ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size]
    command += ["-i", "pipe:0", "-c:v", "ffv1", str(path)]
    random = np.random.default_rng(0)
    with subprocess.Popen(command, stdin=subprocess.PIPE) as encoder:
        assert encoder.stdin is not None
        for _ in range(frames):
            noisy = image + random.normal(0, noise, image.shape)
            encoder.stdin.write(noisy.clip(0, 255).astype(np.uint8).tobytes())
    return size


if __name__ == "__main__":
    main()
