"""The models that come with the package: exported files that this project trained."""

from pathlib import Path

from atrous.engines.exported_file import Header, read_header
from atrous.errors import AtrousError

FOLDER = Path(__file__).parents[1] / "trained"
DEFAULT = "voc"  # the model of `atrous predict` without --model
_INT8 = ".int8"  # NAME.int8.onnx is the 8-bit file of NAME.onnx


def names() -> tuple[str, ...]:
    """Returns the names of the built-in models."""
    stems = (path.stem for path in FOLDER.glob("*.onnx"))
    return tuple(sorted(stem for stem in stems if not stem.endswith(_INT8)))


def find(source: str | Path, *, int8: bool = False) -> Path | None:
    """Returns the file of a built-in model; None if the source is no such name.

    A name always means the built-in model, also beside a file or folder of that name, which is
    then written ``./name``. A `Path` cannot show that difference, so a Path that exists is a path.

    Args:
        source: The name.
        int8: Whether to return the 8-bit file of the model.

    Raises:
        AtrousError: The model has no 8-bit file.
    """
    if str(source) not in names() or (isinstance(source, Path) and source.exists()):
        return None
    path = FOLDER / f"{source}{_INT8 if int8 else ''}.onnx"
    if not path.is_file():
        raise AtrousError(
            "E-PRECISION",
            f"the built-in model {str(source)!r} has no int8 file",
            fix="choose another --precision, or quantise a model of your own: atrous export --int8",
        )
    return path


def header(name: str) -> Header:
    """Returns the header of a built-in model: classes, training, terms, attribution.

    Raises:
        AtrousError: The installed file is damaged.
    """
    return read_header(FOLDER / f"{name}.onnx")
