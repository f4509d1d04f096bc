"""What a check of a data set has to say."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is so, and where.

    Args:
        level: Error: training would fail or learn something wrong. Warning: somebody should look.
            Note: it is good to know.
        code: A stable name programs can match.
        what: What is so, in one sentence.
        fix: What to do about it; empty for notes.
        where: What it is about, one entry a file.
        proposal: Lines of a dataset YAML that would put it right.
    """

    level: Level
    code: str
    what: str
    fix: str = ""
    where: tuple[str, ...] = ()
    proposal: str = ""
