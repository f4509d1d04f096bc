"""Picture to labels at 513 x 513: our exported file against the peer, at its best and as it comes.

python benchmarks/engines.py --network mobilenet_v2 [--rounds N] [--picture FILE]
                             [--weights FILE | --labels-of MODEL]

Both networks have random weights, output stride 16 and 21 classes. With --weights ours has trained
ones of the same network: what labels cost depends on how many cells are undecided, and random
weights leave four times as many as trained ones or more; nothing of the peer depends on its
weights. With --labels-of our random network is timed with labels of another model's logits of the
same picture and shape, for networks of which there are no trained weights here.

Both are exported and quantised here, the second with the same tool, settings and picture; no
budget of accuracy, which means nothing without training. The peer's labels come from an ArgMax in
its graph, in OpenVINO and in ONNX Runtime, whichever is faster; eager PyTorch with interpolation
and argmax is what most people run. All take turns in one process, each run once untimed before
every sample.

Two rows without labels show what the engine's own rewriting of the graph saves.

On processors with bfloat16, OpenVINO computes float files in it unless told otherwise. The rows
called fp32 are told otherwise, as our engine always is; the others are reported apart.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import interleave, machine, save
from peer import Peer, lively, multiply_adds
from peer import export as export_peer
from PIL import Image

from atrous.build import create_model
from atrous.data.procedural import scenes
from atrous.engines import Compiler, ExportedEngine, openvino_core, usable_processors
from atrous.export import export, torch_logits
from atrous.loading import load
from atrous.quantize import Pictures, quantize, quantize_file
from atrous.upsample import labels, undecided_share

SIZE = (513, 513)
FP32 = "fp32 against the peer's best fp32"
INT8 = "int8 against the peer's best int8"
INT8_FP32 = "int8 against the peer's best fp32"
INT8_EAGER = "int8 against eager"
# What must hold per multiply-add, and what is aimed at.
GOALS = {
    "mobilenet_v2": {FP32: (1.25, 1.5), INT8: (1.5, 2), INT8_FP32: (3, 4), INT8_EAGER: (8, 10)},
    "xception65": {FP32: (1.05, 1.15), INT8: (1.1, 1.25), INT8_FP32: (3.3, 4)},
    "resnet101": {FP32: (1.03, 1.3), INT8_FP32: (3.3, 4)},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", choices=tuple(GOALS), required=True)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--picture", type=Path, help="default: a drawn scene")
    parser.add_argument("--weights", type=Path, help="trained weights for our network")
    parser.add_argument("--labels-of", type=Path, help="trained model whose logits are labelled")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(usable_processors())
    picture = read(arguments.picture)
    with tempfile.TemporaryDirectory() as folder:
        files, theirs, counts = write_files(
            arguments.network, arguments.weights, picture, Path(folder)
        )
        usual = torch_logits(load(arguments.labels_of), picture) if arguments.labels_of else None
        candidates, engine = make_candidates(files, theirs, picture, usual)
        times = interleave(candidates, rounds=arguments.rounds, untimed=1)
        share = undecided_share(engine.coarse_logits(picture) if usual is None else usual)
    if arguments.labels_of:
        trained = f"random weights, labels of {arguments.labels_of.name}'s logits"
    else:
        trained = f"ours {arguments.weights.name}, the peer's random" if arguments.weights else ""
    kind = trained or "random weights"
    shown = "a drawn scene" if arguments.picture is None else arguments.picture.name
    save(
        f"engines_{arguments.network}",
        {
            "what": f"{arguments.network}, uint8 picture 513 x 513 ({shown}) to labels, 21 "
            f"classes, output stride 16, {kind}; int8 without a budget of accuracy",
            "times": times,
            "multiply_adds": counts,
            "ratios": ratios(times, counts, GOALS[arguments.network]),
            "undecided_cells": round(share, 4),
            "machine": machine("openvino", "onnxruntime", "torch", "segmentation-models-pytorch"),
        },
    )


def read(path: Path | None) -> np.ndarray:
    """Returns a picture of `SIZE`."""
    if path is None:
        image = Image.fromarray(scenes(0, 1, size=SIZE)[0][0])
    else:
        image = Image.open(path).convert("RGB")
    return np.asarray(image.resize(SIZE[::-1], Image.Resampling.BICUBIC)).copy()


def write_files(
    network: str, weights: Path | None, picture: np.ndarray, folder: Path
) -> tuple[dict[str, Path], Peer, dict[str, int]]:
    """Exports and quantises both networks; counts their multiply-adds."""
    crops = torch.from_numpy(np.stack([picture[:257, :257], picture[-257:, -257:]]))
    ours = create_model(network, num_classes=21, output_stride=16)
    if weights is None:
        lively(ours, crops.permute(0, 3, 1, 2))
    else:  # of the same network, or this refuses
        ours.load_state_dict(load(weights).state_dict())
    theirs = Peer(network)
    lively(theirs, crops)
    images = torch.from_numpy(picture)[None]
    counts = {
        "ours": multiply_adds(ours, images.permute(0, 3, 1, 2)),
        "peer": multiply_adds(theirs, images),
    }
    files = {name: folder / f"{name}.onnx" for name in ("ours", "ours8", "peer", "peer8")}
    export(ours, files["ours"])
    quantize(ours, files["ours8"], [picture, picture[:, ::-1].copy()], budget=None)
    theirs.arg_max = True
    export_peer(theirs, files["peer"], SIZE)
    theirs.arg_max = False
    quantize_file(files["peer"], files["peer8"], Pictures([picture]))
    return files, theirs, counts


def make_candidates(
    files: Mapping[str, Path], theirs: Peer, picture: np.ndarray, usual: np.ndarray | None
) -> tuple[dict[str, Callable[[], Any]], ExportedEngine]:
    """Returns what is timed, by name, and our engine."""
    engine = ExportedEngine(files["ours"], keep_compiled=False)
    engine8 = ExportedEngine(files["ours8"], keep_compiled=False)
    stride = engine.logits_stride
    ours16 = in_openvino(files["ours"], picture, {})

    def ours(engine: Callable[[np.ndarray], np.ndarray]) -> Callable[[], Any]:
        def run() -> Any:
            coarse = engine(picture)
            return labels(coarse if usual is None else usual, stride, SIZE)

        return run

    f32 = {"INFERENCE_PRECISION_HINT": "f32"}
    return {
        "ours, fp32": ours(engine.coarse_logits),
        "ours, int8": ours(engine8.coarse_logits),
        "peer, fp32, OpenVINO": in_openvino(files["peer"], picture, f32),
        "peer, fp32, ONNX Runtime": in_onnxruntime(files["peer"], picture),
        "peer, int8, OpenVINO": in_openvino(files["peer8"], picture, {}),
        "peer, int8, ONNX Runtime": in_onnxruntime(files["peer8"], picture),
        "peer, eager, interpolate, argmax": eagerly(theirs, picture),
        "ours, OpenVINO's default precision": lambda: labels(ours16()[0], stride, SIZE),
        "peer, OpenVINO's default precision": in_openvino(files["peer"], picture, {}),
        "graph alone, fp32": graph_alone(files["ours"], picture, rewrites=True),
        "graph alone, fp32, as exported": graph_alone(files["ours"], picture, rewrites=False),
    }, engine


def graph_alone(path: Path, picture: np.ndarray, *, rewrites: bool) -> Callable[[], Any]:
    compiler = Compiler(path, usable_processors(), keep_compiled=False, rewrites=rewrites)
    request = compiler.compile((1, *picture.shape))
    return lambda: request.infer({0: picture[None]})


def in_openvino(
    path: Path, picture: np.ndarray, settings: Mapping[str, str]
) -> Callable[[], np.ndarray]:
    core = openvino_core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": usable_processors(),
        **settings,
    }
    model = core.read_model(str(path))
    model.reshape([1, *SIZE, 3])
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer({0: picture[None]})[0]


def in_onnxruntime(path: Path, picture: np.ndarray) -> Callable[[], np.ndarray]:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)  # it warns of what it optimised away
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_processors()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": picture[None]})[0]


def eagerly(model: Peer, picture: np.ndarray) -> Callable[[], np.ndarray]:
    images = torch.from_numpy(picture)[None]

    def run() -> np.ndarray:
        with torch.inference_mode():
            return model(images).argmax(1).numpy()

    return run


def ratios(
    times: Mapping[str, Mapping[str, float]],
    counts: Mapping[str, int],
    goals: Mapping[str, tuple[float, float]],
) -> dict[str, dict[str, float]]:
    """Returns how much faster ours is than the peer's best, raw and per multiply-add."""

    def best(prefix: str) -> float:
        return min(t["median_ms"] for name, t in times.items() if name.startswith(prefix))

    pairs = {
        FP32: ("ours, fp32", "peer, fp32"),
        "fp32 against eager": ("ours, fp32", "peer, eager"),
        INT8: ("ours, int8", "peer, int8"),
        INT8_FP32: ("ours, int8", "peer, fp32"),
        INT8_EAGER: ("ours, int8", "peer, eager"),
        "OpenVINO's default precision, both": ("ours, OpenVINO", "peer, OpenVINO"),
        "int8 against OpenVINO's default precision": ("ours, int8", "peer, OpenVINO"),
    }
    work = counts["ours"] / counts["peer"]
    result = {}
    for name, (own, other) in pairs.items():
        raw = best(other) / best(own)
        result[name] = {"raw": round(raw, 3), "per multiply-add": round(raw * work, 3)}
        if name in goals:
            result[name] |= dict(zip(("hold", "aim"), goals[name], strict=True))
    return result


if __name__ == "__main__":
    main()
