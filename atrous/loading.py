"""Turns anything that holds a model into the model: a name, a file, a folder or variables."""

import glob
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from atrous.architecture import CLASSIFIER, Architecture, Provenance
from atrous.build import build_blank
from atrous.classes import ADE20K_31, ADE20K_151, CITYSCAPES, VOC, ClassTable
from atrous.engines import built_in
from atrous.engines.open import no_such_model, not_a_model
from atrous.errors import AtrousError, DataError, unknown_name
from atrous.model import DeepLabV3Plus
from atrous.weights import exported, hub, store, zoo
from atrous.weights.differences import check_finite, unknown_network
from atrous.weights.tensorflow import infer as tensorflow
from atrous.weights.tensorflow import names as tf_names
from atrous.weights.tensorflow import tflite
from atrous.weights.tensorflow.files import ARCHIVES, read_tensorflow
from atrous.weights.torch.files import is_pickle, read_tensors
from atrous.weights.transfer import file_digest

# The label sets of Google's released models, by number of classes.
_TABLES: dict[int, ClassTable] = {21: VOC, 19: CITYSCAPES, 151: ADE20K_151}


def load(source: str | Path) -> DeepLabV3Plus:
    """Loads a model.

    Args:
        source: The name of a built-in model, which always wins over a file or folder of that name
            (write ``./NAME`` or a `Path` for the file). Or an exported float ``.onnx`` file of this
            package, a ``.safetensors`` file of this package, a run folder (its
            ``best.safetensors``), ``hf:org/name`` or ``hf:org/name@revision``, a published name
            (``atrous models`` lists them), a ``.tflite`` file, or a TensorFlow source as in
            `from_tensorflow`.

    Returns:
        The model in evaluation mode, with its classes, colours and provenance.

    Raises:
        AtrousError: ``E-MODEL-MISSING`` for a name or path that does not exist, with the nearest
            ones; ``E-MODEL-KIND`` for a file that is not a model; ``E-MODEL-CLASSIFIER`` for a
            classifier, of which the backbone alone is useful; ``E-WEIGHTS-PICKLE`` for pickles,
            which ``atrous convert`` reads; or other codes for a model that is damaged, from a newer
            version or of another network.
    """
    text, path = str(source), Path(source)
    if isinstance(source, str) and (file := built_in.find(source)) is not None:
        return exported.read(file)
    if text.startswith("hf:"):
        return _load_store(hub.download(text))
    if path.is_dir() and (path / "best.safetensors").is_file():
        return _load_store(path / "best.safetensors")
    if path.is_file() and (read := _reader(path)) is not None:
        return read(path)
    if _is_tensorflow(path):
        return from_tensorflow(path)
    if text in zoo.names() and not path.exists():
        return _from_zoo(zoo.entry(text), zoo.download(text))
    if path.exists():
        raise not_a_model(path, "a folder without a model" if path.is_dir() else "of another kind")
    raise no_such_model(text, zoo.names())


def _reader(path: Path) -> Any:
    """Returns the function that reads a file with this name, if one does."""
    if is_pickle(path):
        return _refuse_pickle
    readers = {".onnx": exported.read, ".safetensors": _load_store, ".tflite": from_tflite}
    return readers.get(path.suffix)


def _refuse_pickle(path: Path) -> DeepLabV3Plus:
    raise DataError(
        "E-WEIGHTS-PICKLE",
        "opening a pickle can run code, so no model is loaded from one",
        where=path,
        fix=f"atrous convert {path.name} --out model.safetensors reads its tensors and runs "
        "nothing; into a network that is built already, load_weights reads them too",
    )


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


def _load_store(path: Path) -> DeepLabV3Plus:
    description, tensors = store.read(path)
    if description.architecture.head == CLASSIFIER:
        raise AtrousError(
            "E-MODEL-CLASSIFIER",
            f"a classifier of whole pictures into {len(description.classes)} classes: it cannot "
            "segment",
            where=path,
            fix="train a network for segmentation from its backbone: atrous train RECIPE "
            "--weights with this file or its run folder; in Python, create_model(pretrained=)",
        )
    try:
        model = build_blank(description.architecture)
        stored = description.preprocessing
        if store.preprocessing_of(model) != stored:  # timm changed its backbone's since
            model = build_blank(replace(description.architecture, mean=stored.mean, std=stored.std))
        model.name_classes(ClassTable("stored", description.classes, description.palette))
    except AtrousError as error:
        error.where = str(path)
        raise
    store.copy_tensors(model, tensors, path)
    model.provenance = description.provenance
    return model.eval()


def load_weights(model: DeepLabV3Plus, source: str | Path, *, head: str = "strict") -> list[str]:
    """Copies the weights of a saved model into a model that is built already.

    Args:
        model: Filled in place.
        source: Anything `load` takes, or a file with a bare state dict of this network
            (``.safetensors``, ``.pth``). Prefixes of wrappers, such as ``module.``, are stripped.
        head: ``strict``: every tensor must fit. ``reinit``: the model keeps its own classifier if
            the file's has another number of classes.

    Returns:
        What was stripped or kept, to be shown to the user.

    Raises:
        AtrousError: ``E-UNKNOWN-NAME`` for another `head`; or as `load` and `store.copy_tensors`.
    """
    if head not in ("strict", "reinit"):
        raise unknown_name("head", head, ("strict", "reinit"))
    tensors, notes = _tensors_of(source)
    if head == "reinit":
        for name in ("decoder.classifier.weight", "decoder.classifier.bias"):
            own = model.state_dict()[name]
            if name in tensors and tensors[name].shape != own.shape:
                notes.append(f"{name} of {tensors[name].shape[0]} classes left out: starts anew")
                tensors[name] = own
    store.copy_tensors(model, tensors, source)
    return notes


def _tensors_of(source: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the tensors of a model, and notes about them."""
    path = Path(source)
    if path.is_file() and (path.suffix == ".safetensors" or is_pickle(path)):
        file = read_tensors(path)
        return dict(file.tensors), list(file.notes)
    return dict(load(source).state_dict()), []


def convert(source: str | Path, **options: Any) -> DeepLabV3Plus:
    """Loads a model from any format. Pickles are read too, without running them.

    Args:
        source: As in `load`, or a ``.pth`` file.
        options: Options of `from_tensorflow`, for TensorFlow sources.

    Raises:
        AtrousError: As `load`; ``E-WEIGHTS-STATE-DICT`` and ``E-WEIGHTS-UNKNOWN`` for checkpoints
            that do not say what network they are.
    """
    path = Path(source)
    if path.is_file() and (path.suffix == ".safetensors" or is_pickle(path)):
        try:
            return load(path)
        except AtrousError as error:
            if error.code not in ("E-WEIGHTS-FOREIGN", "E-WEIGHTS-PICKLE"):
                raise
        raise unknown_network(read_tensors(path).tensors, path)
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
    """Builds the network of variables that the authors' TensorFlow code wrote.

    Backbone, stem, depth multiplier, classes and the whole head are inferred from names and
    shapes. The variables do not hold output stride, ASPP rates and multi-grid. TensorFlow is not
    needed.

    Args:
        source: A V2 checkpoint's prefix, a frozen ``.pb``, an archive of the model zoo, a folder
            with any of them, or variables by name in TensorFlow's layout.
        output_stride: 4, 8, 16 or 32.
        atrous_rates: As in `create_model`, one rate for each ASPP branch of the variables.
        multi_grid: As in `create_model`; None: (1, 1, 1), the default of the authors' code.

    Returns:
        The model in evaluation mode. With 21, 19 or 151 classes it has the class names of VOC,
        Cityscapes or ADE20K, the label sets of the released models. `model.provenance` lists the
        variables that were left out, such as optimizer slots.

    Raises:
        AtrousError: Variables are missing, misshapen, not finite or of another network, or the file
            is damaged or malicious.
    """
    arrays, notes = read_tensorflow(source)
    provenance = Provenance("TensorFlow variables", notes=notes)
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
    """Returns the SHA-256 of a file, or of a checkpoint's files joined; empty for a folder."""
    if path.is_file() and path.suffix != ".index":
        return file_digest(path)
    prefix = path.name.removesuffix(".index")
    parts = sorted(path.parent.glob(f"{glob.escape(prefix)}.data-*-of-*"))
    digest = hashlib.sha256()
    for part in (path.with_name(f"{prefix}.index"), *parts):
        if part.is_file():  # not if the source is a folder
            digest.update(part.read_bytes())
    return digest.hexdigest() if parts else ""


def from_tflite(path: str | Path) -> DeepLabV3Plus:
    """Builds the float network of a quantised .tflite file of the authors' MobileNetV2.

    Weights are dequantised. The file has batch norm folded into them, so here batch norm becomes
    the identity plus the folded bias. Normalisation, output stride and padding are read from the
    graph. The padding at the graph's own input size is kept at every size. At that size the graph
    resizes as this package does.

    Args:
        path: The file.

    Returns:
        The model in evaluation mode.

    Raises:
        AtrousError: Not a TFLite file, compiled for the Edge TPU, or another network.
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
