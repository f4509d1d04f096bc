"""Reads tensors from ``.safetensors`` files and from torch's pickles, and never runs their code.

Only torch's ``weights_only`` loader reads a pickle. It builds tensors and plain containers, and
nothing else but NumPy scalars here. Any other object is an error that names it; no option changes
that. Sizes that a file claims are compared with its length before memory is allocated.
"""

import json
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from atrous.errors import AtrousError, DataError
from atrous.weights.differences import broken, check_finite

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
_MAX_HEADER = 16 << 20  # bytes; a model of a thousand tensors needs 0.1 MB
_SLACK = 1 << 20  # bytes a file may claim beyond its length
_WEIGHTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network")
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
# Trainers save scores beside the weights as NumPy scalars. Building one runs no code of the file:
# it takes a number type and bytes. Types that hold Python objects are not in this list.
_NUMPY_SCALARS: list[Any] = [
    np.dtype,
    *(type(np.dtype(code)) for code in "?bhilqBHILQefd"),
    *(
        (np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar")
        for core in ("core", "_core")  # before and since NumPy 2
    ),
]
_PREFIX = re.compile(r"^(module\.|_orig_mod\.|model\.(?=module\.|_orig_mod\.))+")


def is_pickle(path: Path) -> bool:
    """Returns whether a file's name is one that torch.save usually gets.

    ``.pth.tar`` is such a name too: it is not an archive.
    """
    return path.name.endswith((*PICKLES, ".pth.tar"))


@dataclass
class TorchFile:
    """Content of a file.

    Attributes:
        tensors: Tensors by name, in the file's order.
        metadata: Metadata of a ``.safetensors`` file.
        notes: Prefixes that were stripped, entries that were chosen or left out.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_tensors(path: Path) -> TorchFile:
    """Reads the tensors of a file and strips the prefixes that wrappers add to their names.

    Raises:
        AtrousError: ``E-WEIGHTS-FORMAT`` for a file that is damaged or of another kind,
            ``E-WEIGHTS-PICKLE`` for a pickle with other objects than tensors, with their names,
            ``E-WEIGHTS-SIZE`` for claims beyond the file's length, ``E-WEIGHTS-NAN``.
    """
    if not path.is_file():
        raise AtrousError("E-FILE-MISSING", "no such file", where=path)
    file = read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    stripped = {_PREFIX.sub("", name): tensor for name, tensor in file.tensors.items()}
    if stripped.keys() != file.tensors.keys():
        if len(stripped) != len(file.tensors):
            raise broken(path, "names that differ only in their prefixes")
        prefixes = {match[0] for name in file.tensors if (match := _PREFIX.match(name))}
        file.notes.append(f"prefix stripped from the names: {', '.join(sorted(prefixes))}")
        file.tensors = stripped
    check_finite(file.tensors.items(), path)
    return file


def read_safetensors(path: Path) -> TorchFile:
    """Reads a ``.safetensors`` file and leaves its names as they are; errors as `read_tensors`."""
    _header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return TorchFile(tensors, dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError) as error:
        raise broken(path, f"not a sound safetensors file: {error}") from None


def read_metadata(path: Path) -> dict[str, str]:
    """Reads the metadata of a ``.safetensors`` file; errors as `read_tensors`."""
    return dict(_header(path).get("__metadata__") or {})


def _header(path: Path) -> dict[str, Any]:
    """Returns the header. The library would accept one that is too long or names a tensor twice."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_MAX_HEADER, size - 8):
            raise broken(path, f"a header of {length} bytes in a file of {size}")
        try:
            header = json.loads(file.read(length), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise broken(path, f"the header is damaged: {error}") from None
    if not isinstance(header, dict):
        raise broken(path, "the header is damaged: it is not an object")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} occurs twice")
    return dict(pairs)


def _read_pickle(path: Path) -> TorchFile:
    _check_zip(path)
    _check_claims(path, _unpickled(path, "meta"))  # the meta device allocates no memory
    content = _unpickled(path, "cpu")
    notes: list[str] = []
    tensors = _state_dict(content, notes)
    if not tensors:
        raise broken(path, "there are no tensors in it")
    return TorchFile(tensors, notes=notes)


def _unpickled(path: Path, device: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols
            with torch.serialization.safe_globals(_NUMPY_SCALARS):
                return torch.load(path, map_location=device, weights_only=True)
    except UnpicklingError as error:
        blocked = _blocked_globals(path, str(error))
        if not blocked:
            raise broken(path, "not a file of torch.save") from None
        raise DataError(
            "E-WEIGHTS-PICKLE",
            f"the pickle asks for {', '.join(blocked)}; only tensors, plain containers and NumPy "
            "scalars are read, and nothing was executed",
            where=path,
            fix="get the weights as .safetensors, or have their author save the bare state_dict",
        ) from None
    except MemoryError:
        raise _too_large(path, "more memory than there is") from None
    except Exception as error:  # a damaged file can raise any error in the unpickler
        raise broken(path, f"not a sound file of torch.save: {str(error)[:200]}") from None


def _blocked_globals(path: Path, message: str) -> list[str]:
    """Returns the names of the objects that a refused pickle asks for."""
    if zipfile.is_zipfile(path):
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    found = set(re.findall(r"GLOBAL (\S+)", message))
    strings: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                if "UNICODE" in opcode.name:
                    strings.append(str(argument))
                elif opcode.name == "STACK_GLOBAL":
                    found.add(".".join(strings[-2:]))
                elif opcode.name == "GLOBAL":
                    found.add(str(argument).replace(" ", "."))
    except ValueError:
        pass  # not a pickle, or the end of the first of several pickles
    allowed = ("torch.", "collections.Ordered", "numpy.dtype", "numpy.core.", "numpy._core.")
    return sorted(name for name in found if not name.startswith(allowed))


def _check_zip(path: Path) -> None:
    """Refuses members that are compressed, as torch never writes them, or claim too many bytes."""
    if not zipfile.is_zipfile(path):
        return
    try:
        members = zipfile.ZipFile(path).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise broken(path, f"not a sound file of torch.save: {error}") from None
    claimed = sum(member.file_size for member in members)
    if claimed > path.stat().st_size or any(member.compress_type for member in members):
        raise _too_large(path, f"{claimed} bytes")


def _check_claims(path: Path, content: Any) -> None:
    """Compares the sizes that tensors on the meta device claim with the length of the file."""
    storages: dict[int, int] = {}
    for name, tensor in _all_tensors(content).items():
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise _too_large(path, f"a tensor {name!r} of shape {tuple(tensor.shape)}")
    claimed = sum(storages.values())
    if claimed > path.stat().st_size + _SLACK:
        raise _too_large(path, f"{claimed} bytes")


def _all_tensors(content: Any, prefix: str = "") -> dict[str, Tensor]:
    """Returns every tensor in nested containers."""
    if isinstance(content, Tensor):
        return {prefix: content}
    items: Any = ()
    if isinstance(content, Mapping):
        items = content.items()
    elif isinstance(content, (list, tuple)):
        items = enumerate(content)
    found: dict[str, Tensor] = {}
    for key, value in items:
        found |= _all_tensors(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _state_dict(content: Any, notes: list[str]) -> dict[str, Tensor]:
    """Finds the weights in a trainer's checkpoint; takes averages only if there is nothing else."""
    if not isinstance(content, Mapping):
        return {}
    for key in (*_WEIGHTS, *_AVERAGES):
        inner = content.get(key)
        if isinstance(inner, Mapping) and _all_tensors(inner):
            left_out = sorted(str(other) for other in content if other != key)
            notes.append(f"taken from {key!r}" + (" (averaged weights)" * (key in _AVERAGES)))
            if left_out:
                notes.append(f"left out: {', '.join(left_out)}")
            return _state_dict(inner, notes)
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if tensors and len(tensors) < len(content):
        others = sorted(str(k) for k, v in content.items() if not isinstance(v, Tensor))
        notes.append(f"left out: {', '.join(others)}")
    return tensors


def _too_large(path: Path, what: str) -> AtrousError:
    return DataError(
        "E-WEIGHTS-SIZE",
        f"a file of {path.stat().st_size} bytes claims {what}; nothing was allocated",
        where=path,
        fix="do not trust this file; get the weights again from their publisher",
    )
