"""A service for segmentation: HTTP, worker processes, a page (docs/serve.md).

`Server` needs ``pip install 'atrous[serve]'``; `atrous.serve.cvat` does not.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atrous.serve.server import Server
    from atrous.serve.settings import Settings

__all__ = ["Server", "Settings"]


def __getattr__(name: str) -> Any:
    if name == "Settings":
        from atrous.serve.settings import Settings

        return Settings
    if name == "Server":
        try:
            from atrous.serve.server import Server
        except ModuleNotFoundError as error:
            from atrous.errors import missing_extra

            raise missing_extra("the server", error, "serve") from error
        return Server
    raise AttributeError(f"module 'atrous.serve' has no attribute {name!r}")
