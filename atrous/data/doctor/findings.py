"""A finding: one statement of the doctor about a data set."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from atrous.errors import AtrousError, DataError

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

    def as_error(self, data: object) -> AtrousError:
        """Returns the finding as an error, in the same words.

        Args:
            data: The data set, named if the finding names no file.
        """
        where = self.where[0] if self.where else data
        fix = f"{self.fix}\n{self.proposal}" if self.proposal else self.fix
        return DataError(self.code, self.what, where=where, fix=fix)


def about_files(
    where: Iterable[str], level: Level, code: str, what: str, fix: str = ""
) -> Iterator[Finding]:
    """Yields a finding that ends with the number of its files; nothing if there are no files."""
    files = tuple(where)
    if files:
        yield Finding(level, code, f"{what}: {len(files)}", fix, files)
