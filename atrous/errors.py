"""The package's one exception, which says what is wrong, where, and how to fix it; exit codes."""

import copyreg
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    OK = 0
    BUG = 1
    USAGE = 2
    SOME_FAILED = 3
    DATA = 4
    RESOURCES = 5


class AtrousError(ValueError):
    """Bad input, a bad file or a missing resource; never a bug of this package.

    Args:
        code: A stable name that programs can match, such as ``E-IMAGE-BROKEN``.
        what: The problem in one sentence, with the offending value.
        where: The file, option or tensor with the problem; empty if there is none.
        fix: The remedy; empty if only the user can know it.
        exit_code: Exit code of the command line if no code catches the error; None: of the kind.
    """

    exit_code = ExitCode.USAGE

    def __init__(
        self,
        code: str,
        what: str,
        *,
        where: object = "",
        fix: str = "",
        exit_code: ExitCode | None = None,
    ) -> None:
        self.code = code
        self.what = what
        self.where = str(where)
        self.fix = fix
        self.exit_code = type(self).exit_code if exit_code is None else exit_code
        super().__init__(self.what)

    def __str__(self) -> str:
        location = f"{printable(self.where)}: " if self.where else ""
        remedy = f"\n  fix: {self.fix}" if self.fix else ""
        return f"{location}{self.what} [{self.code}]{remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # Pickle would call the class with `args`, which lack the code. Worker processes send errors
        # to their parent by pickle: the attributes are copied instead.
        return copyreg.__newobj__, (type(self), self.what), vars(self)  # type: ignore[attr-defined]


class DataError(AtrousError):
    """A file or data set that is damaged, or is not what it claims to be: exit code 4."""

    exit_code = ExitCode.DATA


class ResourceError(AtrousError):
    """Memory, disk, network or another process fails: exit code 5."""

    exit_code = ExitCode.RESOURCES


class InputError(AtrousError):
    """A picture, video or other file that cannot be used while others may be: exit code 3."""

    exit_code = ExitCode.SOME_FAILED


_LISTED = 200  # a longer list of names, such as timm's 1,300 backbones, helps no reader


def unknown_name(kind: str, name: str, known: Iterable[str]) -> AtrousError:
    """Returns the error for a misspelt name, with the nearest known ones.

    >>> print(unknown_name("backbone", "xception66", ["xception65", "resnet50"]))
    unknown backbone 'xception66' [E-UNKNOWN-NAME]
      fix: did you mean 'xception65'? known: resnet50, xception65
    """
    choices = sorted(known)
    near = get_close_matches(name, choices, n=3, cutoff=0.5)
    suggestion = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    known = ", ".join(choices) if len(choices) <= _LISTED else f"{len(choices)} names"
    return AtrousError(
        "E-UNKNOWN-NAME", f"unknown {kind} {name!r}", fix=f"{suggestion}known: {known}"
    )


def printable(text: object) -> str:
    """Returns text with control characters and undecodable bytes escaped, safe on a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def listed(items: Iterable[object], most: int = 10) -> str:
    """Returns the first items between commas, and how many more there are.

    >>> listed("abcd", 2), listed([])
    ('a, b and 2 more', 'nothing')
    """
    texts = [printable(item) for item in items]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return (", ".join(texts[:most]) or "nothing") + more


@contextmanager
def needing(feature: str, extra: str = "train") -> Iterator[None]:
    """Turns an import in the block that fails into the error of `missing_extra`."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_extra(feature, error, extra) from error


def missing_extra(feature: str, error: ModuleNotFoundError, extra: str = "train") -> AtrousError:
    """Returns the error for a feature whose optional packages are not installed.

    Raises:
        ModuleNotFoundError: A module of this package is missing, which is a bug.
    """
    module = (error.name or "").split(".")[0]
    if module == "atrous":
        raise error
    if module in sys.stdlib_module_names:  # no package to install: another operating system
        return AtrousError(
            "E-PLATFORM",
            f"{feature} needs Python's module {module!r}, which {sys.platform} does not have",
            fix="use Linux or macOS; on Windows, the Windows Subsystem for Linux",
        )
    return AtrousError(
        "E-MISSING-EXTRA",
        f"{feature} needs the package {error.name!r}, which is not installed",
        fix=f"pip install 'atrous[{extra}]' (in a checkout: pip install '.[{extra}]')",
    )
