"""Picture to labels at 513 x 513: our exported file against the peer, at its best and as it comes.

python benchmarks/engines.py mobilenet_v2 --rounds 9 [--int8]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from measuring import interleave, machine, save
from peer import Peer, lively, multiply_adds
from peer import export as export_peer

from atrous.build import create_model
from atrous.engines import ExportedEngine, import_openvino, usable_processors
from atrous.export import export
from atrous.upsample import labels, undecided_share

SIZE = (513, 513)


def openvino_runner(path: Path, picture: np.ndarray):
    core = import_openvino().Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": usable_processors()}
    request = core.compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda: request.infer({0: picture[None]})[0]


def onnxruntime_runner(path: Path, picture: np.ndarray):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_processors()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": picture[None]})[0]


def eager_runner(model: Peer, picture: np.ndarray):
    images = torch.from_numpy(picture)[None]

    def run() -> np.ndarray:
        with torch.inference_mode():
            return model(images).argmax(1).numpy()

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("backbone")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--int8", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(usable_processors())
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    small = torch.from_numpy(picture)[None, :257, :257]

    ours = create_model(arguments.backbone, num_classes=21, output_stride=16)
    lively(ours, torch.cat([small, small]).permute(0, 3, 1, 2))
    theirs = Peer(arguments.backbone)
    lively(theirs, torch.cat([small, small]))
    images = torch.from_numpy(picture)[None]
    counts = {
        "ours": multiply_adds(ours, images.permute(0, 3, 1, 2)),
        "peer": multiply_adds(theirs, images),
    }
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in ("ours", "peer")}
        export(ours, files["ours"])
        theirs.arg_max = True
        export_peer(theirs, files["peer"], SIZE)
        engine = ExportedEngine(files["ours"], keep_compiled=False)
        stride = engine.logits_stride
        candidates = {
            "ours": lambda: labels(engine.coarse_logits(picture), stride, SIZE),
            "ours, network alone": lambda: engine.coarse_logits(picture),
            "peer, OpenVINO, ArgMax in the graph": openvino_runner(files["peer"], picture),
            "peer, ONNX Runtime, ArgMax in the graph": onnxruntime_runner(files["peer"], picture),
        }
        if arguments.int8:
            candidates |= int8_candidates(files, ours, picture, folder)
        theirs.arg_max = False
        candidates["peer, eager, interpolate, argmax"] = eager_runner(theirs, picture)
        times = interleave(candidates, rounds=arguments.rounds)
        share = undecided_share(engine.coarse_logits(picture))
    save(
        f"engines_{arguments.backbone}",
        {
            "what": f"{arguments.backbone}, uint8 picture 513 x 513 to labels, 21 classes, random "
            "weights, all candidates interleaved in one process",
            "times": times,
            "multiply_adds": counts,
            "ratios": ratios(times, counts),
            "undecided_cells": round(share, 4),
            "machine": machine("openvino", "onnxruntime", "torch", "segmentation-models-pytorch"),
        },
    )


def int8_candidates(files, ours, picture, folder):
    """Quantises both with the same tool, settings and pictures; untrained, so without a budget."""
    from atrous.quantize import Pictures, quantize, quantize_file

    paths = {name: Path(folder) / f"{name}_int8.onnx" for name in files}
    quantize(ours, paths["ours"], [picture, picture[::-1].copy()], budget=None)
    quantize_file(files["peer"], paths["peer"], Pictures([picture]))
    engine = ExportedEngine(paths["ours"], keep_compiled=False)
    return {
        "ours int8": lambda: labels(engine.coarse_logits(picture), engine.logits_stride, SIZE),
        "peer int8, OpenVINO": openvino_runner(paths["peer"], picture),
        "peer int8, ONNX Runtime": onnxruntime_runner(paths["peer"], picture),
    }


def ratios(times, counts) -> dict[str, dict[str, float]]:
    """Returns how much faster ours is than the best of the peer, raw and per multiply-add."""

    def best(prefix: str) -> float:
        return min(t["median_ms"] for name, t in times.items() if name.startswith(prefix))

    fp32 = min(best("peer, OpenVINO"), best("peer, ONNX"))
    eager = best("peer, eager")
    pairs = {
        "fp32 against the peer's best fp32": (times["ours"]["median_ms"], fp32),
        "fp32 against eager": (times["ours"]["median_ms"], eager),
    }
    if "ours int8" in times:
        int8 = times["ours int8"]["median_ms"]
        pairs["int8 against the peer's best int8"] = (int8, best("peer int8"))
        pairs["int8 against the peer's best fp32"] = (int8, fp32)
        pairs["int8 against eager"] = (int8, eager)
    work = counts["ours"] / counts["peer"]
    return {
        name: {
            "raw": round(other / own, 3),
            "per multiply-add": round(other / own * work, 3),
        }
        for name, (own, other) in pairs.items()
    }


if __name__ == "__main__":
    main()
