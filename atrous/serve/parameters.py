"""What a client may write behind the question mark of ``/v1/segment``."""

from collections.abc import Sequence
from dataclasses import dataclass

from atrous.errors import AtrousError, unknown_name
from atrous.serve.picture_size import Size

# What is answered in which media type.
FORMATS = {
    "png": "image/png",
    "overlay": "image/jpeg",
    "json": "application/json",
    "rle": "application/json",
    "npz": "application/octet-stream",
    "cutout": "image/png",
}
_NAMES = ("format", "classes", "max_side", "model")
_MOST_SIDE = 100_000


@dataclass(frozen=True)
class Wish:
    """What a client asks for.

    Attributes:
        format: One of `FORMATS`.
        classes: Names; empty: all.
        max_side: Pixels of the longer side to which larger pictures are reduced; 0: never.
    """

    format: str = "png"
    classes: tuple[str, ...] = ()
    max_side: int = 0

    def pixels(self, size: Size) -> int:
        """Returns how many pixels of a picture are segmented."""
        longer = max(size)
        if not self.max_side or longer <= self.max_side:
            return size[0] * size[1]
        return int(size[0] * size[1] * (self.max_side / longer) ** 2)


def read_wish(pairs: Sequence[tuple[str, str]], classes: Sequence[str]) -> Wish:
    """Reads a query.

    Args:
        pairs: Names and values, as they came.
        classes: Of the model.

    Raises:
        AtrousError: An unknown or repeated name, or a value that cannot be.
    """
    values: dict[str, str] = {}
    wanted: dict[str, None] = {}  # in order, each once
    for name, text in pairs:
        if name not in _NAMES:
            raise unknown_name("parameter", name, _NAMES)
        if name == "classes":
            wanted.update(dict.fromkeys(_split(text, classes)))
        elif name in values:
            raise AtrousError("E-OPTIONS", f"{name} is given twice", fix="give it once")
        values[name] = text
    if (kind := values.get("format", "png")) not in FORMATS:
        raise unknown_name("format", kind, FORMATS)
    if kind == "cutout" and not wanted:
        names = ", ".join(classes)
        raise AtrousError("E-OPTIONS", "a cut-out of what?", fix=f"add classes=NAME of {names}")
    return Wish(kind, tuple(wanted), _side(values.get("max_side")))


def _split(text: str, classes: Sequence[str]) -> list[str]:
    """Returns the names in a list; a name may hold a comma itself where it stands alone."""
    names = [text] if text in classes else text.split(",")
    for name in names:
        if name not in classes:
            raise unknown_name("class", name, classes)
    return names


def _side(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 7 and int(text) > 0):
        raise AtrousError(
            "E-OPTIONS", f"max_side={text} is no number of pixels", fix="give one such as 1500"
        )
    return min(int(text), _MOST_SIDE)
