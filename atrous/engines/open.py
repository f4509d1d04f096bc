"""From a name, a path or a torch model to an engine.

This is the only file that knows both halves of the package. Mistakes in a name or a path are found
here, before torch is imported or asked for.
"""

import copy
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

from atrous.engines import built_in
from atrous.engines.openvino import ExportedEngine
from atrous.engines.protocol import Device, Engine, Precision
from atrous.errors import AtrousError, missing_extra, needing

if TYPE_CHECKING:
    from atrous.model import DeepLabV3Plus

# Ends of the names of model files that `atrous.load` and `atrous convert` read.
_OF_MODELS = (
    *(".onnx", ".safetensors", ".tflite", ".pb", ".index", ".meta", ".tar", ".gz", ".tgz", ".zip"),
    *(".pth", ".pt", ".ckpt", ".bin", ".pkl", ".pickle"),
)
_LOOKED_AT = 10_000  # files of a folder, in search of a model
_MAGIC = {
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"GIF8": "a GIF picture",
    b"RIFF": "a WebP picture or a film",
    b"BM": "a BMP picture",
    b"%PDF": "a PDF document",
}


def open_engine(
    model: "str | Path | DeepLabV3Plus | None",
    *,
    threads: int | None = None,
    precision: Precision | None = None,
    streams: int = 1,
    device: Device = "cpu",
) -> Engine:
    """Returns an engine for anything that is a model.

    Args:
        model: The name of a built-in model, the path of an exported ``.onnx`` file, a path or
            name as in `atrous.load`, or a DeepLabV3Plus; None: the default built-in model.
        threads: Threads to use; None: one for each processor this process may run on.
        precision: As in `Predictor`; None: the precision of the file or the model itself.
        streams: As in `Predictor`.
        device: As in `Predictor`.

    Raises:
        AtrousError: No such model, not a model, torch is needed and missing, no such device, or
            the model cannot run in this precision.
    """
    if model is None:
        model = built_in.DEFAULT
    if not isinstance(model, (str, Path)):
        return _torch_engine(model, threads, precision, device)
    path = exported_file(model, int8=precision == "int8")
    if path is None:
        return _torch_engine(load_model(model), threads, precision, device)
    if device == "cuda":
        with needing("running an exported file on cuda", "cuda"):
            from atrous.engines.onnxruntime import OnnxRuntimeEngine

            return OnnxRuntimeEngine(path, precision)
    return ExportedEngine(
        path, threads=threads, precision=precision, streams=streams, device=device
    )


def exported_file(source: str | Path, *, int8: bool = False) -> Path | None:
    """Returns the exported file that a name or a path stands for; None for other models.

    Raises:
        AtrousError: See `built_in.find`.
    """
    path = built_in.find(source, int8=int8) or Path(source)
    return path if path.suffix == ".onnx" and path.is_file() else None


def load_model(source: str | Path) -> "DeepLabV3Plus":
    """Returns the torch model behind a path or a name (`atrous.load`).

    Raises:
        AtrousError: No such model, not a model, or torch is missing.
    """
    if built_in.find(source) is None:
        _check(source)
    try:
        from atrous.loading import load
    except ModuleNotFoundError as error:
        path = Path(source)
        there = path.exists() or path.with_name(f"{path.name}.index").exists()
        if not there and not str(source).startswith("hf:"):
            raise no_such_model(source) from error
        raise missing_extra(f"reading {source}", error) from error
    return load(source)


def _check(source: str | Path) -> None:
    """Raises for a path that is certainly no model, or a file name that does not exist."""
    path = Path(source)
    if str(source).startswith("hf:") or path.with_name(f"{path.name}.index").is_file():
        return  # a model hub's name; the prefix of a TensorFlow checkpoint
    if path.is_dir():
        inside = islice(path.rglob("*"), _LOOKED_AT)
        if not any(file.suffix in _OF_MODELS for file in inside):
            raise not_a_model(path, "a folder without a model")
    elif path.is_file():
        with path.open("rb") as file:
            head = file.read(8)
        known = next((what for magic, what in _MAGIC.items() if head.startswith(magic)), None)
        if known or not (path.suffix in _OF_MODELS or head[4:] == b"TFL3"):
            raise not_a_model(path, known or "its name ends like no model's")
    elif path.suffix in _OF_MODELS:
        raise no_such_model(source)


def not_a_model(path: Path, found: str) -> AtrousError:
    """Returns the error for a file or folder that holds no model, with what it is instead."""
    return AtrousError(
        "E-MODEL-KIND",
        f"neither a model nor a folder with one: {found}",
        where=path,
        fix="name a built-in model, an .onnx, .safetensors, .tflite or TensorFlow file, or a run "
        "folder",
    )


def no_such_model(source: str | Path, published: Sequence[str] = ()) -> AtrousError:
    """Returns the error for a model that does not exist, with names and files that are nearly it.

    Args:
        source: The name or path.
        published: Names of models that can be downloaded.
    """
    path, text = Path(source), str(source)
    known = {name.casefold(): name for name in (*built_in.names(), *published)}
    near = [known[name] for name in get_close_matches(text.casefold(), known, n=2, cutoff=0.6)]
    beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    near += [str(path.with_name(name)) for name in get_close_matches(path.name, beside, n=1)]
    suggestion = f"did you mean {' or '.join(near)}? " if near else ""
    return AtrousError(
        "E-MODEL-MISSING",
        f"no such model: {text!r}",
        fix=f"{suggestion}built in: {', '.join(built_in.names())}; 'atrous models' lists published "
        "ones, which need pip install 'atrous[train]'",
    )


def _torch_engine(
    model: "DeepLabV3Plus", threads: int | None, precision: Precision | None, device: Device
) -> Engine:
    with needing("running a torch model"):
        import torch

        from atrous.engines.torch import TorchEngine
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "gpu" or (device == "cuda" and not torch.cuda.is_available()):
        raise AtrousError(
            "E-DEVICE",
            f"torch finds no device {device!r} here",
            fix="choose --device cpu, or cuda where torch.cuda.is_available(); an exported file "
            "may run on gpu",
        )
    if device == "cuda":
        model = copy.deepcopy(model).to("cuda")
    return cast(Engine, TorchEngine(model, precision=precision))
