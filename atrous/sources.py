"""The one place that knows both halves: a path, a name or a model becomes an engine."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from atrous.engines import Engine, ExportedEngine
from atrous.errors import AtrousError, missing_extra

if TYPE_CHECKING:
    from atrous.model import DeepLabV3Plus


def open_engine(
    model: "str | Path | DeepLabV3Plus | None", *, threads: int | None = None
) -> Engine:
    """Returns an engine for anything that is a model.

    Args:
        model: An exported ``.onnx`` file, a ``.tflite`` file, or a DeepLabV3Plus.
        threads: Threads to use; None: one for each processor this process may run on.

    Raises:
        AtrousError: Nothing there, of no known kind, or torch is needed and missing.
    """
    if model is None:
        raise AtrousError("E-MODEL-MISSING", "no model named", fix="name one with --model FILE")
    if not isinstance(model, (str, Path)):
        return _torch_engine(model, threads)
    path = Path(model)
    if not path.exists():
        raise AtrousError(
            "E-MODEL-MISSING",
            "no such model file",
            where=path,
            fix=_nearby(path) or "check the path",
        )
    if path.suffix == ".onnx":
        return ExportedEngine(path, threads=threads)
    return _torch_engine(load_model(path), threads)


def load_model(path: Path) -> "DeepLabV3Plus":
    """Returns the torch model in a file.

    Raises:
        AtrousError: Of no known kind, or torch is missing.
    """
    if path.suffix != ".tflite":
        raise AtrousError(
            "E-MODEL-KIND",
            f"not a model: {path.suffix or 'no'} suffix",
            where=path,
            fix="use .tflite",
        )
    try:
        from atrous.build import from_tflite
    except ModuleNotFoundError as error:
        raise missing_extra(f"reading {path.suffix} files", error) from error
    return from_tflite(path)


def _torch_engine(model: "DeepLabV3Plus", threads: int | None) -> Engine:
    try:
        import torch

        from atrous.torch_engine import TorchEngine
    except ModuleNotFoundError as error:
        raise missing_extra("running a torch model", error) from error
    if threads is not None:
        torch.set_num_threads(threads)
    return cast(Engine, TorchEngine(model))


def _nearby(path: Path) -> str:
    """Suggests a file of nearly this name in the same folder."""
    from difflib import get_close_matches

    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    near = get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    return f"did you mean {path.parent / near[0]}?" if near else ""
