"""The page's files, and the page as a folder that works from any web server without Python."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from atrous import built_in
from atrous.errors import AtrousError
from atrous.images import atomic
from atrous.onnx_file import Header, read_header

PAGE = Path(__file__).with_name("page")


def page_files() -> dict[str, Path]:
    """Returns the files of the page by their relative addresses, ``index.html`` among them."""
    files = (path for path in sorted(PAGE.rglob("*")) if path.is_file())
    return {path.relative_to(PAGE).as_posix(): path for path in files}


def model_entry(name: str, path: Path, header: Header, file: str) -> dict[str, Any]:
    """Returns what the page has to know of a model before it loads it.

    Args:
        name: What the page calls it.
        path: The exported file.
        header: What the file says about itself.
        file: Its address, relative to the page.
    """
    return {
        "name": name,
        "classes": header.classes,
        "palette": header.palette,
        "licence": header.licence,
        "notes": header.notes,
        "source": header.source,
        "precision": header.precision,
        "output_stride": header.output_stride,
        "logits_stride": header.logits_stride,
        "sha256": header.sha256,
        "bytes": path.stat().st_size,
        "file": file,
    }


def models_document(entries: Sequence[dict[str, Any]], *, server: bool) -> str:
    """Returns ``models.json``, which the page asks for first.

    Args:
        entries: From `model_entry`; the page starts with the first.
        server: Whether ``v1/segment`` answers beside the page.
    """
    return json.dumps({"server": server, "models": list(entries)}, ensure_ascii=False) + "\n"


def write_site(out: Path, models: Sequence[str | Path]) -> dict[str, Any]:
    """Writes the page and its models into a folder.

    Files that are there already are replaced, others are left alone. ``models.json`` comes last,
    so that a page with models is whole.

    Args:
        out: The folder, made if need be.
        models: Names of built-in models, or paths of exported files; the first is the default.

    Returns:
        The folder, the names of the models, the number of files and their bytes.

    Raises:
        AtrousError: No such model, two of one name, or one that is fixed to one size.
    """
    found = [_exported(model) for model in models]
    names = [name for name, _, _ in found]
    for name in names:
        if names.count(name) > 1:
            raise AtrousError(
                "E-OPTIONS", f"two models would be called {name!r}", fix="rename one of the files"
            )
    entries = [
        model_entry(name, path, header, f"models/{quote(name)}.onnx")
        for name, path, header in found
    ]
    files = {**page_files(), **{f"models/{name}.onnx": path for name, path, _ in found}}
    for address, path in files.items():
        with atomic(out / address) as temporary:
            shutil.copyfile(path, temporary)
    with atomic(out / "models.json") as temporary:
        temporary.write_text(models_document(entries, server=False), encoding="utf-8")
    size = sum((out / address).stat().st_size for address in (*files, "models.json"))
    return {"out": str(out), "models": names, "files": len(files) + 1, "bytes": size}


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
    if any(header.size):
        raise AtrousError(
            "E-MODEL-SIZE",
            f"this model takes pictures of {header.size[0]} x {header.size[1]} only",
            where=path,
            fix="export it again without --size",
        )
    return path.stem, path, header
