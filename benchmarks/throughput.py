#!/usr/bin/env python3
"""Pictures a second from disk to disk: JPEG in; labels, overlay and JSON out.

git worktree add /tmp/before ecb34ed
python benchmarks/throughput.py --weights weights/animals.safetensors --before /tmp/before \
    --number 48 --rounds 7
python benchmarks/tables.py --write

Contenders take turns, each in a process of its own with all processors; medians are compared:

- ours: `segment_files`, which sees several pictures at a time;
- before: the loop of an older commit, given its worktree;
- peer: the best script we could write with segmentation_models.pytorch's network in OpenVINO: its
  argmax in the graph, the graph fixed to the one size of the pictures, an `AsyncInferQueue` with as
  many streams as OpenVINO wants, decoding ahead in a thread, and files written in a pool;
- eager: the usual script in PyTorch, channels last, one picture after the other;
- network alone: our graph and the peer's on pictures in memory, in one stream with all threads and
  in as many streams as there are processors. No loop around a network can be faster than that.

The peer's weights are random. So that it draws and writes the same as ours, the labels that its
network finds are replaced by those of our network, which are in memory before the clock starts.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import in_turns, machine, save, take_steps
from PIL import Image

SIZE = (375, 500)
PRECISIONS = ("fp32", "bf16", "int8")
GOALS = {"before, fp32": 1.3, "peer, fp32": 1.5, "eager, fp32": 3.0}  # ours in fp32 against them


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=Path, help="folder of JPEGs [default: drawn scenes]")
    parser.add_argument(
        "--number",
        type=int,
        default=24,
        help="16 or more: the first round is not timed, and measures row strips",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", type=Path, required=True, help="our trained MobileNetV2")
    parser.add_argument("--before", type=Path, help="worktree of an older commit")
    parser.add_argument("--contender", nargs=3, help="KIND PRECISION FOLDER: only its steps")
    asked = parser.parse_args()
    if asked.contender:
        kind, precision, folder = asked.contender
        if kind == "before":
            sys.path.insert(0, str(asked.before))
        os.environ["ATROUS_CACHE"] = f"{folder}/cache-{kind}"
        makers = {"ours": ours, "before": ours, "peer": peer, "eager": eager}
        for streams in stream_settings():
            makers[alone("ours", streams)] = partial(our_network, streams)
            makers[alone("peer", streams)] = partial(peer_network, streams)
        take_steps(makers[kind](precision, Path(folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(asked.pictures, asked.number, folder)
        write_files(asked.weights, folder)
        kinds = ["ours", *(["before"] if asked.before else []), "peer"]
        networks = [alone(whose, n) for whose in ("ours", "peer") for n in stream_settings()]
        pairs = [(kind, p) for p in usable_precisions() for kind in (*kinds, *networks)]
        pairs.append(("eager", "fp32"))
        own = [__file__, "--weights", str(asked.weights), "--before", str(asked.before)]
        commands = {
            f"{kind}, {precision}": [*own, "--contender", kind, precision, name]
            for kind, precision in pairs
        }
        times = in_turns(commands, rounds=asked.rounds)
        number = len(pictures(folder))
    save(
        "throughput",
        {
            "what": f"MobileNetV2 at output stride 16, {number} JPEGs of {SIZE[0]} x {SIZE[1]}, "
            "disk to disk: labels, overlay, JSON",
            **compared(times, number),
            "times": times,
            "machine": machine("openvino", "torch", "segmentation-models-pytorch"),
        },
    )


def compared(times: Mapping[str, Mapping[str, float]], number: int) -> dict[str, Any]:
    """Returns pictures a second and their ratios, and prints them."""
    every = {key: round(1e3 * number / each["median_ms"], 2) for key, each in times.items()}
    rates = {key: rate for key, rate in every.items() if "alone" not in key}
    networks = best_networks(every)
    ratios = {key: round(rates["ours, fp32"] / rate, 2) for key, rate in rates.items()}
    for key, each in times.items():
        spent = each["processor_ms"] / number
        print(f"{key:28} {every[key]:7.2f} pictures a second, {spent:6.2f} ms of processor each")
    for key, rate in networks.items():
        print(f"{key}: the network alone takes {100 * rates[key] / rate:.0f} % of the time")
    for key in [key for key in GOALS if key in rates]:
        most = networks["ours, fp32"] / rates[key]
        print(
            f"ours in fp32 against {key}: x{ratios[key]}, wanted {GOALS[key]}, at most x{most:.2f}"
        )
    for key in rates:
        kind, precision = key.split(", ")
        if kind in ("before", "peer"):
            print(f"ours against {key}: x{rates[f'ours, {precision}'] / rates[key]:.2f}")
    return {
        "pictures_a_second": rates,
        "ours_in_fp32_against": ratios,
        "network_alone_pictures_a_second": networks,
    }


def alone(whose: str, streams: int) -> str:
    return f"{whose} network alone {streams}"


def stream_settings() -> list[int]:
    return sorted({1, len(os.sched_getaffinity(0))})


def best_networks(rates: dict[str, float]) -> dict[str, float]:
    """Returns the pictures a second of each network alone, in its best number of streams."""
    best: dict[str, float] = {}
    for key, rate in rates.items():
        kind, precision = key.split(", ")
        if "alone" in kind:
            name = f"{kind.split()[0]}, {precision}"
            best[name] = max(best.get(name, 0.0), rate)
    return best


def usable_precisions() -> list[str]:
    from atrous.engines.openvino import has_bf16_units

    return [p for p in PRECISIONS if p != "bf16" or has_bf16_units()]


def make_pictures(source: Path | None, number: int, folder: Path) -> None:
    """Puts pictures of one size into FOLDER/in."""
    from atrous.data import scenes

    (folder / "in").mkdir()
    if source is None:
        for index, (image, _) in enumerate(scenes(0, number, size=SIZE)):
            Image.fromarray(image).save(folder / "in" / f"{index:03}.jpg", quality=90)
        return
    for path in sorted(source.glob("*.jpg")):
        with Image.open(path) as image:
            if image.size == SIZE[::-1] and number > 0:
                shutil.copy(path, folder / "in")
                number -= 1


def pictures(folder: Path) -> list[Path]:
    return sorted((folder / "in").glob("*.jpg"))


def write_files(weights: Path, folder: Path) -> None:
    """Exports and quantises both networks, and keeps the labels that ours finds."""
    import torch
    from peer import Peer, lively
    from peer import export as export_peer

    from atrous import Predictor, load
    from atrous.export.export import export
    from atrous.export.int8 import Pictures, quantize, quantize_file

    images = [np.asarray(Image.open(path).convert("RGB")) for path in pictures(folder)[:4]]
    model = load(weights)
    export(model, folder / "ours.onnx")
    quantize(model, folder / "ours8.onnx", images, budget=None)
    torch.manual_seed(0)
    theirs = Peer("mobilenet_v2", num_classes=len(model.classes))
    lively(theirs, torch.from_numpy(np.stack(images[:2])))
    torch.save(theirs.state_dict(), folder / "peer.pt")
    theirs.arg_max = True
    export_peer(theirs, folder / "peer.onnx", SIZE)
    theirs.arg_max = False
    quantize_file(folder / "peer.onnx", folder / "peer8.onnx", Pictures(images[:1]))
    predictor = Predictor(folder / "ours.onnx")
    labels = {path.name: predictor(path).labels for path in pictures(folder)}
    np.savez(folder / "labels.npz", **labels)
    about = {"classes": model.classes, "palette": model.palette}
    (folder / "classes.json").write_text(json.dumps(about))


def ours(precision: str, folder: Path) -> Callable[[], Any]:
    """Runs what `atrous predict` runs, of this tree or of an older one."""
    from atrous.engines.machine import usable_processors
    from atrous.predict import batch, find, predictor

    path = folder / ("ours8.onnx" if precision == "int8" else "ours.onnx")
    options: dict[str, Any] = {"precision": precision}
    if "streams" in predictor.Predictor.__init__.__kwdefaults__:
        options["streams"] = usable_processors()
    made = predictor.Predictor(path, **options)
    out = fresh(folder, f"{precision}-{os.getpid()}")

    def step() -> None:
        found = find.find_pictures([folder / "in"], out)
        extras = batch.Extras(legend=True)
        done = batch.segment_files(made, found.pictures, out, overwrite=True, extras=extras)
        assert all(outcome.error is None for outcome in done)

    return step


class Writer:
    """Writes what ours does with the libraries at hand: palette PNG, overlay as JPEG, JSON."""

    def __init__(self, folder: Path, out: Path) -> None:
        about = json.loads((folder / "classes.json").read_text())
        self.classes, self.out = about["classes"], out
        self.palette = bytes(channel for color in about["palette"] for channel in color)
        self.labels = dict(np.load(folder / "labels.npz"))

    def write(self, path: Path, image: Image.Image) -> None:
        labels = self.labels[path.name]
        indexed = Image.fromarray(labels)
        indexed.putpalette(self.palette)
        indexed.save(self.out / f"{path.stem}.labels.png")
        tinted = Image.blend(image, indexed.convert("RGB"), 0.5)
        tinted.save(self.out / f"{path.stem}.overlay.jpg", quality=90)
        counts = np.bincount(labels.ravel(), minlength=len(self.classes)) / labels.size
        areas = {name: share for name, share in zip(self.classes, counts, strict=True) if share}
        record = {"input": str(path), "size": list(labels.shape), "areas": areas}
        (self.out / f"{path.stem}.json").write_text(json.dumps(record))


def decoded(path: Path) -> tuple[Path, Image.Image]:
    return path, Image.open(path).convert("RGB")


def peer(precision: str, folder: Path) -> Callable[[], Any]:
    """The peer's network in OpenVINO's asynchronous queue."""
    queue = peer_queue(precision, folder, {"PERFORMANCE_HINT": "THROUGHPUT"})
    writer = Writer(folder, fresh(folder, f"peer-{precision}"))
    decoder, pool = ThreadPoolExecutor(1), ThreadPoolExecutor(os.cpu_count())

    def step() -> None:
        written: list[Any] = []
        queue.set_callback(lambda _, picture: written.append(pool.submit(writer.write, *picture)))
        for path, image in ahead(decoder, pictures(folder)):
            queue.start_async({0: np.asarray(image)[None]}, (path, image))
        queue.wait_all()
        for each in written:
            each.result()
        assert len(written) == len(pictures(folder))

    return step


def peer_queue(precision: str, folder: Path, settings: dict[str, Any]) -> Any:
    import openvino

    core = openvino.Core()
    model = core.read_model(folder / ("peer8.onnx" if precision == "int8" else "peer.onnx"))
    model.reshape([1, *SIZE, 3])
    settings["INFERENCE_PRECISION_HINT"] = "bf16" if precision == "bf16" else "f32"
    return openvino.AsyncInferQueue(core.compile_model(model, "CPU", settings))


def our_network(streams: int, precision: str, folder: Path) -> Callable[[], Any]:
    """Our network from pictures in memory to coarse logits, without labels."""
    from atrous.engines.openvino import ExportedEngine

    path = folder / ("ours8.onnx" if precision == "int8" else "ours.onnx")
    engine = ExportedEngine(path, precision=precision, streams=streams)  # type: ignore[arg-type]
    images = [np.asarray(decoded(picture)[1]) for picture in pictures(folder)]
    pool = ThreadPoolExecutor(streams)
    return lambda: list(pool.map(engine.coarse_logits, images))


def peer_network(streams: int, precision: str, folder: Path) -> Callable[[], Any]:
    """The peer's graph, which ends in labels, from pictures in memory."""
    hint = "THROUGHPUT" if streams > 1 else "LATENCY"
    queue = peer_queue(precision, folder, {"PERFORMANCE_HINT": hint, "NUM_STREAMS": streams})
    images = [np.asarray(decoded(picture)[1])[None] for picture in pictures(folder)]

    def step() -> None:
        for image in images:
            queue.start_async({0: image})
        queue.wait_all()

    return step


def ahead(pool: ThreadPoolExecutor, paths: Sequence[Path]) -> Any:
    """Yields decoded pictures, four of them ahead."""
    begun: deque[Any] = deque()
    for path in paths:
        begun.append(pool.submit(decoded, path))
        if len(begun) > 4:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def eager(precision: str, folder: Path) -> Callable[[], Any]:
    """The peer's network in PyTorch, one picture after the other."""
    import torch
    from peer import Peer

    writer = Writer(folder, fresh(folder, "eager"))
    model = Peer("mobilenet_v2", num_classes=len(writer.classes), arg_max=True).eval()
    model.load_state_dict(torch.load(folder / "peer.pt"))
    model = model.to(memory_format=torch.channels_last)

    def step() -> None:
        with torch.inference_mode():
            for path, image in map(decoded, pictures(folder)):
                model(torch.from_numpy(np.asarray(image).copy())[None])[0].numpy()
                writer.write(path, image)

    return step


def fresh(folder: Path, name: str) -> Path:
    out = folder / "out" / name
    out.mkdir(parents=True)
    return out


if __name__ == "__main__":
    main()
