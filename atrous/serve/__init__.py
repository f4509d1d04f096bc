"""A service for segmentation: HTTP, worker processes, a page (docs/serve.md).

`Server` needs ``pip install 'atrous[serve]'``; `atrous.serve.cvat` does not.
"""

from typing import TYPE_CHECKING, Any

from atrous.serve.settings import Settings

if TYPE_CHECKING:
    from atrous.serve.server import Server

__all__ = ["Server", "Settings"]


def __getattr__(name: str) -> Any:
    if name != "Server":
        raise AttributeError(f"module 'atrous.serve' has no attribute {name!r}")
    try:
        from atrous.serve.server import Server
    except ModuleNotFoundError as error:
        from atrous.errors import missing_extra

        raise missing_extra("the server", error, "serve") from error
    return Server
