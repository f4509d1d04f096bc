"""A finding: one statement of the doctor about a data set."""

from dataclasses import dataclass
from typing import Literal

from atrous.errors import AtrousError, ExitCode

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One statement about a data set, with the files it is about.

    Args:
        level: Error: training would fail or learn something wrong. Warning: a person should look at
            it. Note: information.
        code: A stable name that programs can match.
        what: The statement, in one sentence.
        fix: What to do; empty for notes.
        where: The files, one entry each.
        proposal: Lines of a dataset YAML that would solve the problem.
    """

    level: Level
    code: str
    what: str
    fix: str = ""
    where: tuple[str, ...] = ()
    proposal: str = ""

    def as_error(self) -> AtrousError:
        """Returns the finding as an error, in the same words."""
        where = self.where[0] if self.where else ""
        fix = f"{self.fix}\n{self.proposal}" if self.proposal else self.fix
        return AtrousError(self.code, self.what, where=where, fix=fix, exit_code=ExitCode.DATA)


def one_class(split: str, present: str) -> Finding:
    """Returns the finding for a split whose labelled pixels are all of one class.

    Args:
        split: Its name.
        present: The class; empty if there is none.
    """
    what = f"{split} holds one class only, {present!r}" if present else f"{split} holds no class"
    fix = "check how the masks were exported: a network that can only be right learns nothing"
    return Finding("error", "E-DATA-ONE-CLASS", what, fix)
