"""The one place that knows both halves: a path, a name or a model becomes an engine."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from atrous.engines import built_in
from atrous.engines.openvino import Engine, ExportedEngine
from atrous.errors import missing_extra

if TYPE_CHECKING:
    from atrous.model import DeepLabV3Plus


def open_engine(
    model: "str | Path | DeepLabV3Plus | None", *, threads: int | None = None
) -> Engine:
    """Returns an engine for anything that is a model.

    Args:
        model: An exported ``.onnx`` file, the name of a built-in model, a path or name as in
            `atrous.load`, or a DeepLabV3Plus; None: the default built-in model.
        threads: Threads to use; None: one for each processor this process may run on.

    Raises:
        AtrousError: Nothing there, of no known kind, or torch is needed and missing.
    """
    if model is None:
        model = built_in.DEFAULT
    if not isinstance(model, (str, Path)):
        return _torch_engine(model, threads)
    path = _built_in(model) or Path(model)
    if path.suffix == ".onnx" and path.is_file():
        return ExportedEngine(path, threads=threads)
    return _torch_engine(load_model(model), threads)


def load_model(source: str | Path) -> "DeepLabV3Plus":
    """Returns the torch model behind a path or a name (`atrous.load`).

    Raises:
        AtrousError: Nothing there, of no known kind, or torch is missing.
    """
    try:
        from atrous.loading import load
    except ModuleNotFoundError as error:
        raise missing_extra(f"reading {source}", error) from error
    return load(source)


def _built_in(source: str | Path) -> Path | None:
    """Returns the file of a built-in model, unless a file or folder of that name lies here."""
    return None if Path(source).exists() else built_in.find(str(source))


def _torch_engine(model: "DeepLabV3Plus", threads: int | None) -> Engine:
    try:
        import torch

        from atrous.engines.torch import TorchEngine
    except ModuleNotFoundError as error:
        raise missing_extra("running a torch model", error) from error
    if threads is not None:
        torch.set_num_threads(threads)
    return cast(Engine, TorchEngine(model))
