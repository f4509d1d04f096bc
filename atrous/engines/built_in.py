"""The models that come with the package: exported files this project trained with its recipes."""

from pathlib import Path

from atrous.engines.exported_file import Header, read_header

FOLDER = Path(__file__).parents[1] / "trained"
DEFAULT = "animals"  # what `atrous predict` uses if no model is named


def names() -> tuple[str, ...]:
    """Returns the names of the built-in models."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.onnx")))


def find(name: str) -> Path | None:
    """Returns the file of a built-in model; None if there is none of this name."""
    return FOLDER / f"{name}.onnx" if name in names() else None


def header(name: str) -> Header:
    """Returns what a built-in model says about itself: classes, training, terms, attribution.

    Raises:
        AtrousError: The installed file is damaged.
    """
    return read_header(FOLDER / f"{name}.onnx")
