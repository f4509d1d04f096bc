"""Files the server gives out: those of the page, each by its exact name, and model files."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from atrous.serve import site

_CHUNK = 1 << 17
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".gz": "application/gzip",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".onnx": "application/octet-stream",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True)
class File:
    """A file that is given out.

    Attributes:
        path: Where it lies.
        media_type: What browsers are told it is.
    """

    path: Path
    media_type: str = "application/octet-stream"

    def response(self, request: Request) -> Response:
        """Returns the file, or that the client has it already.

        Raises:
            OSError: It is gone.
        """
        status = self.path.stat()
        tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        headers["content-length"] = str(status.st_size)
        return StreamingResponse(self._parts(), headers=headers, media_type=self.media_type)

    async def _parts(self) -> AsyncIterator[bytes]:
        with self.path.open("rb") as file:
            while part := file.read(_CHUNK):
                yield part


def page_files(folder: Path) -> dict[str, File]:
    """Returns the files of the page by the path of their address; no other path means anything.

    Files of unknown kinds and hidden ones are not given out.
    """
    files = {
        name: File(path, _TYPES[path.suffix])
        for name, path in site.page_files(folder).items()
        if path.suffix in _TYPES and not path.name.startswith(".")
    }
    if "index.html" in files:
        files[""] = files["index.html"]
    return files
