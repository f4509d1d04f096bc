"""From somebody's weights to a model: the file, folder or name may be anything that holds one."""

import glob
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from atrous.architecture import CLASSIFIER, Architecture, Provenance
from atrous.build import build_blank
from atrous.classes import ADE20K_31, ADE20K_151, CITYSCAPES, VOC, ClassTable
from atrous.engines import built_in
from atrous.errors import AtrousError, ExitCode
from atrous.model import DeepLabV3Plus
from atrous.weights import hub, store, zoo
from atrous.weights.differences import check_finite
from atrous.weights.tensorflow import infer as tensorflow
from atrous.weights.tensorflow import names as tf_names
from atrous.weights.tensorflow import tflite
from atrous.weights.tensorflow.files import ARCHIVES, read_tensorflow
from atrous.weights.torch import foreign
from atrous.weights.torch.files import is_pickle, read_tensors
from atrous.weights.transfer import file_digest

# The label sets of Google's released models, by number of classes.
_TABLES: dict[int, ClassTable] = {21: VOC, 19: CITYSCAPES, 151: ADE20K_151}


def load(source: str | Path) -> DeepLabV3Plus:
    """Loads a model from whatever holds one.

    Args:
        source: A ``.safetensors`` file of this package, a run folder (its ``best.safetensors``),
            ``hf:org/name`` or ``hf:org/name@revision``, a name of the zoo (``atrous models``), a
            ``.tflite`` file, or a TensorFlow source as in `from_tensorflow`.

    Returns:
        The model in evaluation mode, with its classes, colours and provenance.

    Raises:
        AtrousError: Nothing there, damaged, of another network, of a newer version, or a classifier
            (``E-MODEL-CLASSIFIER``), whose backbone alone is of use here. Pickles are refused:
            ``atrous convert`` reads what is safe in them.
    """
    text = str(source)
    if text.startswith("hf:"):
        return _load_store(hub.download(hub.parse(text)))
    path = Path(source)
    if path.is_dir() and (path / "best.safetensors").is_file():
        return _load_store(path / "best.safetensors")
    if path.suffix == ".safetensors" and path.exists():
        return _load_store(path)
    if path.suffix == ".tflite" and path.exists():
        return from_tflite(path)
    if is_pickle(path) and path.is_file():
        raise AtrousError(
            "E-WEIGHTS-PICKLE",
            "a pickle can run code when it is opened, so models are not loaded from it",
            where=path,
            fix=f"atrous convert {path.name} --out model.safetensors reads what is safe in it",
            exit_code=ExitCode.DATA,
        )
    if _is_tensorflow(path):
        return from_tensorflow(path)
    if text in zoo.names():
        return _from_zoo(zoo.entry(text), zoo.download(text))
    raise _not_found(text)


def _from_zoo(entry: zoo.Entry, path: Path) -> DeepLabV3Plus:
    """Loads a published file, at the output stride of its first published score."""
    if path.suffix == ".tflite" or not entry.scores:
        model = load(path)
    else:
        model = from_tensorflow(path, output_stride=entry.scores[0].output_stride)
    model.provenance.source, model.provenance.licence = entry.url, entry.licence
    return model


def _is_tensorflow(path: Path) -> bool:
    if path.is_dir():
        return any(path.rglob("*.index")) or any(path.rglob("*.pb"))
    known = path.name.endswith((".pb", ".index", *ARCHIVES)) and path.is_file()
    return known or path.with_name(f"{path.name}.index").is_file()


def _not_found(text: str) -> AtrousError:
    path = Path(text)
    if path.exists():
        return AtrousError(
            "E-MODEL-KIND",
            "neither a model nor a folder with one",
            where=path,
            fix="name a .safetensors, .tflite or TensorFlow source, or a run folder",
        )
    if built_in.find(text) is not None:
        return built_in.exported_already(text)
    near = get_close_matches(text, (*built_in.names(), *zoo.names()), n=1, cutoff=0.6)
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near += [str(path.with_name(n)) for n in get_close_matches(path.name, beside, n=1)]
    return AtrousError(
        "E-MODEL-MISSING",
        f"no such model: {text!r}",
        fix=f"did you mean {' or '.join(near)}?"
        if near
        else "atrous models lists those with a name",
    )


def _load_store(path: Path) -> DeepLabV3Plus:
    description, tensors = store.read(path)
    if description.architecture.head == CLASSIFIER:
        raise AtrousError(
            "E-MODEL-CLASSIFIER",
            f"a classifier of whole pictures into {len(description.classes)} classes, which says "
            "nothing of pixels",
            where=path,
            fix="train a network for segmentation from its backbone: atrous train RECIPE "
            "--weights with this file or its run folder; in Python, create_model(pretrained=)",
        )
    try:
        model = build_blank(description.architecture)
        model.name_classes(description.class_table)
    except AtrousError as error:
        error.where = str(path)
        raise
    stored = description.preprocessing
    if store.preprocessing_of(model) != stored:  # a timm backbone's, which changed since
        model = build_blank(replace(description.architecture, mean=stored.mean, std=stored.std))
        model.name_classes(description.class_table)
    store.copy_tensors(model, tensors, path)
    model.provenance = description.provenance
    return model.eval()


def load_weights(model: DeepLabV3Plus, source: str | Path, *, head: str = "strict") -> list[str]:
    """Copies the weights of a saved model into one that is built already.

    Args:
        model: Filled in place.
        source: A ``.safetensors`` file, of this package or with a bare state dict of this model
            (prefixes of wrappers, such as ``module.``, are stripped).
        head: ``strict``, or ``reinit`` to keep the model's own classifier where the file has one
            for another number of classes.

    Returns:
        What was stripped or kept, to be shown.

    Raises:
        AtrousError: As `load` and `store.copy_tensors`.
    """
    path = Path(source)
    file = read_tensors(path)
    tensors, notes = dict(file.tensors), list(file.notes)
    if head == "reinit":
        for name in ("decoder.classifier.weight", "decoder.classifier.bias"):
            own = model.state_dict()[name]
            if name in tensors and tensors[name].shape != own.shape:
                notes.append(f"{name} of {tensors[name].shape[0]} classes left out: starts anew")
                tensors[name] = own
    store.copy_tensors(model, tensors, path)
    return notes


def convert(source: str | Path, **options: Any) -> DeepLabV3Plus:
    """Loads a model from any format, pickles included, which are read without running them.

    Args:
        source: As in `load`, or a ``.pth`` file.
        options: Of `from_tensorflow`, for TensorFlow sources.

    Raises:
        AtrousError: As `load`; for other people's checkpoints with the list of differences.
    """
    path = Path(source)
    if path.is_file() and (path.suffix == ".safetensors" or is_pickle(path)):
        try:
            return load(path)
        except AtrousError as error:
            if error.code not in ("E-WEIGHTS-FOREIGN", "E-WEIGHTS-PICKLE"):
                raise
        tensors = read_tensors(path).tensors
        raise foreign.refusal({n: tuple(t.shape) for n, t in tensors.items()}, path)
    if options and _is_tensorflow(path):
        return from_tensorflow(path, **options)
    return load(source)


def from_tensorflow(
    source: str | Path | Mapping[str, Any],
    *,
    output_stride: int = 16,
    atrous_rates: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
) -> DeepLabV3Plus:
    """Builds the network that variables of the authors' TensorFlow code describe.

    Backbone, stem, depth multiplier, classes and the whole head are inferred from names and
    shapes. Output stride, ASPP rates and multi-grid are not in the weights. TensorFlow is not
    needed.

    Args:
        source: A V2 checkpoint's prefix, a frozen ``.pb``, an archive of the model zoo, a folder
            with any of them, or variables by name in TensorFlow's layout.
        output_stride: 4, 8, 16 or 32.
        atrous_rates: As in `create_model`, for the ASPP branches the variables have.
        multi_grid: As in `create_model`; None: (1, 1, 1), the default of the authors' code.

    Returns:
        The model in evaluation mode; 21, 19 and 151 classes carry the names of VOC, Cityscapes
        and ADE20K, the label sets of the released models.

    Raises:
        AtrousError: Variables missing, misshapen, not finite, or of another network; a file that
            is damaged or malicious. Optimizer slots and the like are left out, and named in
            `model.provenance`.
    """
    arrays, extras = read_tensorflow(source)
    provenance = Provenance("TensorFlow variables", notes=extras.notes())
    if isinstance(source, (str, Path)):
        path = Path(source)
        provenance.source = path.name
        provenance.sha256 = _source_digest(path)
    variables = tensorflow.joined_logits(arrays)
    architecture = tensorflow.infer(
        variables,
        output_stride=output_stride,
        atrous_rates=atrous_rates,
        multi_grid=multi_grid,
    )
    return _assembled(architecture, variables, provenance)


def _source_digest(path: Path) -> str:
    """Returns the SHA-256 of a file, or of a checkpoint's files one after the other."""
    if path.is_file() and path.suffix != ".index":
        return file_digest(path)
    prefix = path.name.removesuffix(".index")
    parts = sorted(path.parent.glob(f"{glob.escape(prefix)}.data-*-of-*"))
    digest = hashlib.sha256()
    for part in (path.with_name(f"{prefix}.index"), *parts):
        if part.is_file():  # a folder has none
            digest.update(part.read_bytes())
    return digest.hexdigest() if parts else ""


def from_tflite(path: str | Path) -> DeepLabV3Plus:
    """Builds the float network behind a quantised .tflite file of the authors' MobileNetV2.

    Weights are dequantised; batch norm, folded into them in the file, becomes the identity with
    the folded bias as its offset. Normalisation, output stride and padding are read from the
    graph: the padding it has at its own input size is kept at every size, and its resizing
    convention equals ours at that size.

    Args:
        path: The file.

    Returns:
        The model in evaluation mode.

    Raises:
        AtrousError: Not a TFLite file, or the graph of another network.
    """
    graph = tflite.read(Path(path))
    architecture = tensorflow.infer(
        graph.variables,
        output_stride=graph.output_stride,
        mean=(graph.mean,),
        std=(graph.std,),
        one_sided_padding=graph.one_sided_padding,
    )
    provenance = Provenance(Path(path).name, sha256=graph.sha256)
    return _assembled(architecture, graph.variables, provenance, {32: ADE20K_31})


def _assembled(
    architecture: Architecture,
    variables: tf_names.Variables,
    provenance: Provenance,
    more_tables: Mapping[int, ClassTable] | None = None,
) -> DeepLabV3Plus:
    check_finite(variables.items(), provenance.source)
    model = build_blank(architecture)
    strangers = tf_names.assign(model, variables, provenance.source)
    model.provenance = provenance
    provenance.notes += [f"left out: unknown: {name}" for name in strangers]
    tables = {**_TABLES, **(more_tables or {})}
    if architecture.num_classes in tables:
        model.name_classes(tables[architecture.num_classes])
    return model.eval()
