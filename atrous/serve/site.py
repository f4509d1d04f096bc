"""The page's files, and the page as a folder that works from any web server without Python."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from atrous.engines import built_in
from atrous.engines.exported_file import Header, read_header
from atrous.errors import AtrousError

PAGE = Path(__file__).with_name("page")

# How index.html says whether a server answers beside it, and where the list of models is.
_SERVED, _STATIC = 'data-served-by="atrous"', 'data-served-by="files"'


def page_files(folder: Path = PAGE) -> dict[str, Path]:
    """Returns the files of the page by their relative addresses, ``index.html`` among them."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in files}


def _entry(name: str, path: Path, header: Header) -> dict[str, Any]:
    """Returns what the page has to know of a model, as ``v1/models`` of the server says it."""
    return {
        "name": name,
        "classes": header.classes,
        "palette": header.palette,
        "licence": header.licence,
        "terms": header.notes,
        "source": header.source,
        "backbone": header.backbone,
        "precision": "int8" if header.precision == "int8" else "fp32",  # of a browser
        "fingerprint": header.sha256,
        "output_stride": header.output_stride,
        "logits_stride": header.logits_stride,
        "bytes": path.stat().st_size,
        "file": f"models/{quote(name)}.onnx",
    }


def write_site(out: Path, models: Sequence[str | Path]) -> dict[str, Any]:
    """Writes the page and its models into a folder.

    Files that are there already are replaced, others are left alone. The list of models comes
    last.

    Args:
        out: The folder, made if need be.
        models: Names of built-in models, or paths of exported files; the first is the default.

    Returns:
        The folder, the names of the models, the number of files and their bytes.

    Raises:
        AtrousError: No such model, two of one name, or one that is fixed to one size.
    """
    from atrous.images.decode import (
        atomic,
        write,
    )  # loads what decodes; the service's front must not

    found = [_exported(model) for model in models]
    names = [name for name, _, _ in found]
    for name in names:
        if names.count(name) > 1:
            raise AtrousError(
                "E-OPTIONS", f"two models would be called {name!r}", fix="rename one of the files"
            )
    files = {**page_files(), **{f"models/{name}.onnx": path for name, path, _ in found}}
    texts = {
        "index.html": files.pop("index.html").read_text("utf-8").replace(_SERVED, _STATIC),
        "models.json": json.dumps([_entry(*each) for each in found], ensure_ascii=False) + "\n",
    }
    for address, path in files.items():
        with atomic(out / address) as temporary:
            shutil.copyfile(path, temporary)
    for address, text in texts.items():
        write(out / address, text.encode())
    written = [out / address for address in (*files, *texts)]
    size = sum(path.stat().st_size for path in written)
    return {"out": str(out), "models": names, "files": len(written), "bytes": size}


def check_rgb(header: Header, path: Path) -> None:
    """Refuses a model of other pixels than those of photographs, which clients send.

    Raises:
        AtrousError: ``E-MODEL-CHANNELS``.
    """
    if not header.bands.is_rgb:
        raise AtrousError(
            "E-MODEL-CHANNELS",
            f"this model reads {', '.join(header.bands.names)} in {header.bands.dtype}",
            where=path,
            fix="page and server take 8-bit RGB; use 'atrous predict', or Python",
        )


def _exported(model: str | Path) -> tuple[str, Path, Header]:
    """Returns name, file and header of a model that a browser can run."""
    path = built_in.find(str(model)) or Path(model)
    if path.suffix != ".onnx" or not path.is_file():
        known = ", ".join(built_in.names())
        raise AtrousError(
            "E-MODEL-KIND",
            "the page runs exported models only",
            where=model,
            fix=f"name a file that 'atrous export' wrote, or one of {known}",
        )
    header = read_header(path)
    check_rgb(header, path)
    if any(header.size):
        raise AtrousError(
            "E-MODEL-SIZE",
            f"this model takes pictures of {header.size[0]} x {header.size[1]} only",
            where=path,
            fix="export it again without --size",
        )
    return path.stem, path, header
