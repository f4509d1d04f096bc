"""Checkpoints that survive kills, full disks and flipped bits.

A checkpoint is a folder ``step-00012345`` of safetensors files and a ``state.json``, with a
``manifest.json`` of sizes and SHA-256 written last. The folder is written under a temporary name,
synced to the disk and renamed, so that a checkpoint is whole or absent. The file ``last`` names the
newest. Reading takes the newest checkpoint whose manifest verifies. No file is a pickle.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from atrous.errors import AtrousError, DataError, ResourceError

logger = logging.getLogger(__name__)

FORMAT = 1  # raised when an older version could not read the files
SPARE_BYTES = 256 * 2**20  # left free beside twice the last checkpoint

_NAME = re.compile(r"step-(\d{8,})")
_TEMPORARY = ".tmp-"
_TRASH = ".old-"


@dataclass
class Checkpoint:
    """Everything a run needs to go on.

    Args:
        step: Updates done.
        tensors: Named tensors by file: ``{"model": {...}, "optimizer": {...}}``.
        state: The rest of the run's state, in JSON's types.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint, *, keep: int = 2) -> Path:
    """Writes a checkpoint, and deletes older ones after that.

    Args:
        folder: Holds the checkpoints of one run.
        checkpoint: The checkpoint.
        keep: How many of the newest checkpoints stay.

    Returns:
        The new checkpoint's folder.

    Raises:
        AtrousError: ``E-CHECKPOINT-WRITE``: no space, or the disk refuses. Earlier checkpoints
            are untouched and nothing half-written is left.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    temporary = folder / f"{_TEMPORARY}{checkpoint.step}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder, _TEMPORARY, _TRASH)
        _check_space(folder)
        temporary.mkdir()
        files = _serialize(checkpoint)
        manifest = {name: _write(temporary / name, data) for name, data in files.items()}
        text = json.dumps({"format": FORMAT, "files": manifest}, indent=1)
        _write(temporary / "manifest.json", text.encode())
        _sync_folder(temporary)
        if final.exists():  # of a run that went on from an older one
            _remove(final)
        temporary.rename(final)
        _sync_folder(folder)
        _point(folder, final.name)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ResourceError(
            "E-CHECKPOINT-WRITE",
            f"the checkpoint of step {checkpoint.step} could not be written: {error}",
            where=folder,
            fix="free some space; earlier checkpoints are untouched",
        ) from error
    for old in [path for path in _newest_first(folder) if path != final][max(0, keep - 1) :]:
        _remove(old)
    return final


def load_newest(folder: Path) -> Checkpoint | None:
    """Returns the newest checkpoint that verifies, or None where there is no checkpoint.

    A checkpoint that does not verify is named in a warning, and the next older one is read.

    Raises:
        AtrousError: There are checkpoints, and none of them verifies; or the newest was written
            by a newer version.
    """
    candidates = _newest_first(folder)
    problems = []
    for path in candidates:
        try:
            return load(path)
        except AtrousError as error:
            if error.code == "E-CHECKPOINT-NEWER":
                raise
            logger.warning("%s; trying the one before", error)
            problems.append(str(error))
    if problems:
        raise DataError(
            "E-CHECKPOINT-NONE",
            f"none of {len(candidates)} checkpoints is valid: {'; '.join(problems)}",
            where=folder,
            fix="the disk damaged them; start again, or from best.safetensors",
        )
    return None


def load(path: Path) -> Checkpoint:
    """Reads one checkpoint, after checking every byte against its manifest.

    Raises:
        AtrousError: A file is missing or differs, or a newer version wrote it.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        if manifest["format"] > FORMAT:
            raise AtrousError(
                "E-CHECKPOINT-NEWER",
                f"written in format {manifest['format']}, this version reads {FORMAT}",
                where=path,
                fix="upgrade atrous",
            )
        files = {name: (path / name).read_bytes() for name in manifest["files"]}
        for name, data in files.items():
            expected = manifest["files"][name]
            if len(data) != expected["size"] or _sha256(data) != expected["sha256"]:
                raise _invalid(path, f"{name} differs from its SHA-256 in the manifest")
        state = json.loads(files.pop("state.json"))
        tensors = {
            name.removesuffix(".safetensors"): safetensors.torch.load(data)
            for name, data in files.items()
        }
        return Checkpoint(state.pop("step"), tensors, state)
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        if isinstance(error, AtrousError):
            raise
        raise _invalid(path, f"not a complete checkpoint ({error})") from error


def _serialize(checkpoint: Checkpoint) -> dict[str, bytes]:
    files = {
        f"{name}.safetensors": safetensors.torch.save(
            {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        )
        for name, tensors in checkpoint.tensors.items()
    }
    state = {"step": checkpoint.step, **checkpoint.state}
    files["state.json"] = json.dumps(state, indent=1).encode()
    return files


def _write(path: Path, data: bytes) -> dict[str, Any]:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"size": len(data), "sha256": _sha256(data)}


def _point(folder: Path, name: str) -> None:
    temporary = folder / f"{_TEMPORARY}last-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    _write(temporary, f"{name}\n".encode())
    temporary.replace(folder / "last")
    _sync_folder(folder)


def _check_space(folder: Path) -> None:
    """Raises OSError where twice the last checkpoint and a reserve would not fit."""
    newest = _newest_first(folder)
    last = sum(file.stat().st_size for file in newest[0].iterdir()) if newest else 0
    needed, free = 2 * last + SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB needed")


def _newest_first(folder: Path) -> list[Path]:
    """Returns the checkpoints by their step; clocks do not matter."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def _remove(path: Path) -> None:
    """Deletes a checkpoint; a kill in between leaves no half checkpoint under its name."""
    trash = path.with_name(f"{_TRASH}{path.name}")
    path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _clear(folder: Path, *prefixes: str) -> None:
    """Deletes the temporary files of writers that were killed."""
    for path in folder.iterdir():
        if path.name.startswith(prefixes):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _invalid(path: Path, what: str) -> AtrousError:
    return DataError("E-CHECKPOINT-INVALID", what, where=path)
