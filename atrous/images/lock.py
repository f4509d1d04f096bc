"""A lock on an open file."""

import sys
from typing import IO, Any


def locked(file: IO[Any]) -> bool:
    """Takes a lock that the operating system gives back when the process ends; False: it is taken.

    The modules exist on one kind of system each, so neither is imported with this file.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
