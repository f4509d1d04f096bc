"""The tables of docs/ablations.md, from the committed results of `ablations.py`."""

from collections.abc import Iterator
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "ablations"


def tables() -> Iterator[str]:
    """Yields the lines of all tables."""
    yield ""
