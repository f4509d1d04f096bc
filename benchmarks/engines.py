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
and argmax is what most people run. Each is a process of its own, as people run it (in one process
they would share the C library's memory, and eager PyTorch would be spared most of its page faults),
and all take turns, each run once untimed before every sample.

Two rows without labels show what the engine's own rewriting of the graph saves.

On processors with bfloat16, OpenVINO computes float files in it unless told otherwise. The rows
called fp32 are told otherwise, as our engine always is; the others are reported apart.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from measuring import in_turns, machine, save, take_steps
from peer import Peer, lively, multiply_adds
from peer import export as export_peer
from PIL import Image
from safetensors.torch import load_file, save_file

from atrous.build import create_model
from atrous.data.scenes.procedural import scenes
from atrous.engines.machine import usable_processors
from atrous.engines.openvino import Compiler, ExportedEngine, has_bf16_units
from atrous.engines.openvino_package import openvino_core
from atrous.engines.torch import torch_logits
from atrous.export.export import export
from atrous.export.int8 import Pictures, quantize, quantize_file
from atrous.loading import load
from atrous.predict.upsample import labels, undecided_share

SIZE = (513, 513)
FP32 = "fp32 against the peer's best fp32"
INT8 = "int8 against the peer's best int8"
INT8_FP32 = "int8 against the peer's best fp32"
INT8_EAGER = "int8 against eager"
CONTENDERS = (
    "ours, fp32",
    "ours, int8",
    "peer, fp32, OpenVINO",
    "peer, fp32, ONNX Runtime",
    "peer, int8, OpenVINO",
    "peer, int8, ONNX Runtime",
    "peer, eager, interpolate, argmax",
    "ours, OpenVINO's default precision",
    "peer, OpenVINO's default precision",
    "graph alone, fp32",
    "graph alone, fp32, as exported",
)
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
    parser.add_argument("--contender", choices=CONTENDERS, help="only its steps, one a line")
    parser.add_argument("--folder", type=Path, help="where its files are")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(usable_processors())
    if arguments.contender:
        take_steps(contender(arguments.contender, arguments.network, arguments.folder), untimed=1)
        return
    picture = read(arguments.picture)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = write_files(arguments.network, arguments.weights, picture, folder)
        usual = torch_logits(load(arguments.labels_of), picture) if arguments.labels_of else None
        np.save(folder / "picture.npy", picture)
        if usual is not None:
            np.save(folder / "usual.npy", usual)
        own = [__file__, "--network", arguments.network, "--folder", name, "--contender"]
        times = in_turns({key: [*own, key] for key in CONTENDERS}, rounds=arguments.rounds)
        engine = ExportedEngine(folder / "ours.onnx", keep_compiled=False)
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
) -> dict[str, int]:
    """Exports and quantises both networks; returns their multiply-adds."""
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
    save_file(theirs.state_dict(), folder / "peer.safetensors")
    return counts


def contender(name: str, network: str, folder: Path) -> Callable[[], Any]:
    """Returns what is timed, in the process for it."""
    picture = np.load(folder / "picture.npy")
    usual = np.load(folder / "usual.npy") if (folder / "usual.npy").exists() else None
    files = {kind: folder / f"{kind}.onnx" for kind in ("ours", "ours8", "peer", "peer8")}
    f32 = {"INFERENCE_PRECISION_HINT": "f32"}
    return {
        "ours, fp32": lambda: ours(files["ours"], picture, usual),
        "ours, int8": lambda: ours(files["ours8"], picture, usual),
        "peer, fp32, OpenVINO": lambda: in_openvino(files["peer"], picture, f32),
        "peer, fp32, ONNX Runtime": lambda: in_onnxruntime(files["peer"], picture),
        "peer, int8, OpenVINO": lambda: in_openvino(files["peer8"], picture, {}),
        "peer, int8, ONNX Runtime": lambda: in_onnxruntime(files["peer8"], picture),
        "peer, eager, interpolate, argmax": lambda: eagerly(network, folder, picture),
        "ours, OpenVINO's default precision": lambda: ours(
            files["ours"], picture, usual, precision="bf16" if has_bf16_units() else "fp32"
        ),
        "peer, OpenVINO's default precision": lambda: in_openvino(files["peer"], picture, {}),
        "graph alone, fp32": lambda: graph_alone(files["ours"], picture, rewrites=True),
        "graph alone, fp32, as exported": lambda: graph_alone(
            files["ours"], picture, rewrites=False
        ),
    }[name]()


def ours(
    path: Path,
    picture: np.ndarray,
    usual: np.ndarray | None,
    precision: Literal["fp32", "bf16"] | None = None,
) -> Callable[[], Any]:
    engine = ExportedEngine(path, keep_compiled=False, precision=precision)
    return labelling(lambda: engine.coarse_logits(picture), engine.logits_stride, usual)


def labelling(
    infer: Callable[[], np.ndarray], stride: int, usual: np.ndarray | None
) -> Callable[[], Any]:
    """Labels what the network says, or logits of a trained one after it has spoken."""

    def run() -> Any:
        coarse = infer()
        return labels(coarse if usual is None else usual, stride, SIZE)

    return run


def graph_alone(path: Path, picture: np.ndarray, *, rewrites: bool) -> Callable[[], Any]:
    compiler = Compiler(path, usable_processors(), keep_compiled=False, rewrites=rewrites)
    requests = compiler.compile((1, *picture.shape))
    return lambda: requests.infer({0: picture[None]})


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


def eagerly(network: str, folder: Path, picture: np.ndarray) -> Callable[[], np.ndarray]:
    model = Peer(network).eval()
    model.load_state_dict(load_file(folder / "peer.safetensors"))
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
