"""Errors a client sees: which HTTP status an error has, and what its JSON says."""

from typing import Any

from atrous.errors import AtrousError, printable

# By code of an `AtrousError`. Whatever is not here is the client's picture or option: 422.
_STATUS = {
    "E-ANSWER-BYTES": 413,
    "E-BODY-BYTES": 413,
    "E-BODY-TIMEOUT": 408,
    "E-BUG": 500,
    "E-BUSY": 503,
    "E-CONTENT-ENCODING": 415,
    "E-DEADLINE": 504,
    "E-HOST": 421,
    "E-IMAGE-FORMAT": 415,
    "E-IMAGE-MEMORY": 413,
    "E-IMAGE-PIXELS": 413,
    "E-MEMORY": 413,
    "E-METHOD": 405,
    "E-NOT-FOUND": 404,
    "E-ORIGIN": 403,
    "E-SECONDS": 413,
    "E-TOKEN": 401,
    "E-WORKER": 503,
}


def status_of(error: AtrousError) -> int:
    """Returns the HTTP status of an error."""
    return _STATUS.get(error.code, 422)


def fields(error: AtrousError) -> dict[str, Any]:
    """Returns code, message and hint, safe to print."""
    return {"code": error.code, "message": printable(error.what), "hint": printable(error.fix)}


class Busy(AtrousError):  # noqa: N818 (not the client's error)
    """Too much is being done already.

    Args:
        what: Of what there is too much.
        retry_after: Seconds after which there should be room.
    """

    def __init__(self, what: str, retry_after: float = 1.0, code: str = "E-BUSY") -> None:
        super().__init__(code, what, fix="try again later")
        self.retry_after = max(1, round(retry_after + 0.5))
