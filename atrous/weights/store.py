"""This package's file format: safetensors, with a full description of the model in the header.

The header's metadata holds one JSON object with a fixed schema (`Description`). It never names
code. A file with fields that the schema does not know is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as serialize
from torch import Tensor, nn

from atrous import __version__
from atrous.architecture import Architecture, Provenance
from atrous.classes import Color
from atrous.errors import AtrousError, DataError
from atrous.images.decode import atomic
from atrous.model import Model
from atrous.schema import from_json, to_json
from atrous.weights.differences import check_finite, check_same
from atrous.weights.torch.files import read_metadata, read_safetensors

FORMAT = 1  # raise it if older versions would misread new files
_KEY = "atrous"


@dataclass(frozen=True)
class Preprocessing:
    """The normalisation at the start of the model: (x - mean) / std of RGB values 0..255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Description:
    """Everything that a file holds beside the tensors.

    Args:
        format: Version of this schema.
        made_by: Version of atrous that wrote the file.
        architecture: The options of the network.
        classes: Names of the classes, in the order of the logits.
        palette: Colours of the classes.
        preprocessing: The normalisation inside the model.
        provenance: Where the weights come from, their licence, and how they were trained.
        tensors_sha256: Hash over names, types, shapes and bytes of all tensors.
    """

    format: int
    made_by: str
    architecture: Architecture
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    preprocessing: Preprocessing
    provenance: Provenance
    tensors_sha256: str


def save(model: Model, path: str | Path, *, half: bool = False) -> str:
    """Writes a model to a ``.safetensors`` file. If writing fails, no partial file remains.

    Args:
        model: Any model of this package.
        path: The file; an existing one is replaced.
        half: Round the weights of convolutions to 16 bits, for half the size. `load` turns them
            into float32 again. Batch norms stay in 32 bits: their small variances would lose too
            much.

    Returns:
        The hash over the tensors, which the file holds too.

    Raises:
        AtrousError: The path has another suffix, or a weight is not finite.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise AtrousError(
            "E-FILE-SUFFIX",
            f"a model is saved as .safetensors, not {path.suffix or 'without a suffix'}",
            where=path,
            fix=f"name it {path.with_suffix('.safetensors').name}",
        )
    tensors = {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}
    if half:
        tensors = {n: t.half() if t.ndim == 4 else t for n, t in tensors.items()}
    check_finite(tensors.items(), path)
    description = Description(
        format=FORMAT,
        made_by=__version__,
        architecture=model.architecture,
        classes=model.classes,
        palette=model.palette,
        preprocessing=preprocessing_of(model),
        provenance=model.provenance,
        tensors_sha256=hash_tensors(tensors),
    )
    metadata = {_KEY: json.dumps(to_json(description), sort_keys=True)}
    with atomic(path) as temporary:
        temporary.write_bytes(serialize(tensors, metadata))
    return description.tensors_sha256


def preprocessing_of(model: Model) -> Preprocessing:
    """Returns the normalisation inside a model."""
    mean, std = (tuple(t.flatten().tolist()) for t in (model.normalize.mean, model.normalize.std))
    return Preprocessing(mean, std)


def is_ours(path: Path) -> bool:
    """Returns whether `save` wrote a file. The file may be damaged."""
    return path.suffix == ".safetensors" and path.is_file() and _KEY in read_metadata(path)


def read(path: Path) -> tuple[Description, dict[str, Tensor]]:
    """Reads a file that `save` wrote.

    Raises:
        AtrousError: ``E-WEIGHTS-FORMAT`` for a damaged file, ``E-WEIGHTS-FOREIGN`` for a file of
            another program, ``E-WEIGHTS-VERSION`` for a file of a newer version, ``E-SCHEMA`` or
            ``E-UNKNOWN-NAME`` for a description outside the schema, ``E-WEIGHTS-HASH`` for changed
            tensors, ``E-WEIGHTS-NAN``.
    """
    file = read_safetensors(path)
    if _KEY not in file.metadata:
        raise DataError(
            "E-WEIGHTS-FOREIGN",
            "not a model of this package: the file does not say what network it holds",
            where=path,
            fix="if it holds a backbone, name it as pretrained= in create_model; "
            "for other checkpoints see: atrous convert --help",
        )
    try:
        description = _parsed(file.metadata[_KEY])
    except AtrousError as error:
        error.where = error.where or str(path)
        raise
    check_finite(file.tensors.items(), path)
    if hash_tensors(file.tensors) != description.tensors_sha256:
        raise DataError(
            "E-WEIGHTS-HASH",
            "the tensors have another hash than when they were saved",
            where=path,
            fix="the file was damaged or changed; get it again",
        )
    return description, file.tensors


def _parsed(text: str) -> Description:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError("E-WEIGHTS-FORMAT", f"the description is not JSON: {error}") from None
    version = content.get("format") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise DataError(
            "E-WEIGHTS-VERSION",
            f"made by atrous {content.get('made_by', '?')} in format {version}, "
            f"this is atrous {__version__}, which reads up to format {FORMAT}",
            fix="upgrade: pip install --upgrade atrous",
        )
    description = from_json(Description, content)
    count = description.architecture.num_classes
    different = len(set(description.classes))
    if not different == len(description.classes) == len(description.palette) == count:
        raise DataError(
            "E-SCHEMA",
            f"{different} different classes and {len(description.palette)} colours "
            f"for num_classes {count}",
        )
    return description


def copy_tensors(model: nn.Module, tensors: Mapping[str, Tensor], where: object) -> None:
    """Copies tensors into a model. Every tensor must have a place, and every place a tensor.

    Raises:
        AtrousError: ``E-WEIGHTS-MISMATCH``, with a table of the differences and a likely cause.
    """
    check_same(model.state_dict(), tensors, where)
    model.load_state_dict(dict(tensors))


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Returns a hash over names, types, shapes and bytes. The order does not matter."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
