"""Options and progress that several commands share."""

import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from atrous.errors import printable
from atrous.images.stores import is_address, place
from atrous.images.web import is_web_address


class Place(click.Path):
    """A path, or an address such as s3://bucket/a.jpg, which is no path to click."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns a `Path`, or what `atrous.images.stores.place` makes of an address."""
        return place(value) if is_address(value) else super().convert(value, param, ctx)


class Pictures(Place):
    """A place, or an address such as https://a.org/b.jpg, which stays a text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns a place or a text."""
        return value if is_web_address(value) else super().convert(value, param, ctx)


FOLDER = click.Path(file_okay=False, path_type=Path)
ANY_PATH = click.Path(path_type=Path)
ANY_PLACE = Place(path_type=Path)
PICTURES = Pictures(path_type=Path)

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

T = TypeVar("T")


def _numbers(context: click.Context, option: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 0.5,1,1.5") from None


def _size(context: click.Context, option: click.Parameter, text: str | None) -> Any:
    if text is None:
        return None
    try:
        sides = [int(part) for part in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise click.BadParameter(f"{text!r} is neither SIDE nor HEIGHTxWIDTH")
    return (sides[0], sides[-1])


def amount(context: click.Context, option: click.Parameter, text: str) -> int:
    """Reads an amount of bytes or pixels, such as 500MB or 33MP."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)[BP]?", text.strip().upper())
    if match is None or not float(match[1]):
        raise click.BadParameter(f"{text!r} is no amount such as {option.get_default(context)}")
    return int(float(match[1]) * _UNITS[match[2]])


def _stride(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    return None if text is None else int(text)


_VIEWS = (
    click.option(
        "--scales",
        default="1",
        callback=_numbers,
        metavar="S,S,...",
        help='Average over these sizes; the paper\'s "MS" is 0.5,0.75,1,1.25,1.5,1.75.',
    ),
    click.option("--flip", is_flag=True, help="Average with the mirrored pictures too."),
    click.option(
        "--pad-to",
        callback=_size,
        metavar="SIDE|HxW",
        help="Pad to this size with the mean pixel, as the authors do (VOC: 513, Cityscapes: "
        "1025x2049). Scores differ from those at the pictures' own size [default].",
    ),
    click.option(
        "--window",
        callback=_size,
        metavar="SIDE|HxW",
        help="Slide a window of this size over larger pictures.",
    ),
    click.option(
        "--output-stride",
        type=click.Choice(["4", "8", "16", "32"]),
        callback=_stride,
        help="Output stride of the encoder [default: the model's own]. 8 is sharper than 16 and "
        "about 4 times slower.",
    ),
)


def view_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --scales, --flip, --pad-to, --window and --output-stride to a command."""
    for option in reversed(_VIEWS):
        command = option(command)
    return command


threads_option = click.option(
    "--threads", type=click.IntRange(1), help="Number of threads [default: all processors]."
)

precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "int8"]),
    default="auto",
    show_default=True,
    help="Arithmetic of the network. auto: bf16 where the processor has units for it and the "
    "labels of the file were measured to agree, else the file's own.",
)

device_option = click.option(
    "--device",
    type=click.Choice(["cpu", "gpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="gpu: Intel's graphics, for exported files. cuda: Nvidia's; exported files need the extra "
    "cuda.",
)


class Line:
    """A line on standard error that changes on a terminal; elsewhere a line every so many seconds.

    click's progress bar prints nothing without a terminal, where a log needs lines.
    """

    def __init__(self, every: float) -> None:
        self.live, self._every = sys.stderr.isatty(), every
        self._last = time.monotonic()

    def show(self, text: str, *, end: bool = False) -> None:
        """Prints the line if the last one is old enough, or if it is the last."""
        now = time.monotonic()
        if end or now - self._last >= (0.2 if self.live else self._every):
            self._last = now
            width = shutil.get_terminal_size().columns - 1  # a longer line would not be rewritten
            shown = f"\r\x1b[K{text[:width]}" if self.live else text
            click.echo(shown, err=True, nl=end or not self.live)


class Progress(Line):
    """Counts pictures, or other units, on a `Line`."""

    def __init__(self, total: int, name: str, unit: str = "pictures") -> None:
        super().__init__(every=30.0)
        self.total, self.name, self.unit = total, printable(name), unit
        self._start = time.monotonic()

    def count(self, done: int) -> None:
        """Shows how many are done."""
        rate = done / max(time.monotonic() - self._start, 1e-9)
        left = max(0, self.total - done) / rate
        text = f"{self.name}: {done} of {self.total or '?'} {self.unit}, {rate:.1f}/s"
        text += f", {left:.0f} s left" if self.total else ""
        self.show(text, end=done == self.total)

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yields the items, counting them."""
        for done, item in enumerate(items, start=1):
            yield item
            self.count(done)
