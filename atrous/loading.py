"""From somebody's weights to a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atrous.build import build
from atrous.classes import ADE20K_31, CITYSCAPES, VOC, ClassTable
from atrous.model import Architecture, DeepLabV3Plus, Provenance, as_tuple
from atrous.weights import tensorflow, tf_names, tflite
from atrous.weights.differences import check_finite
from atrous.weights.tf_files import read_tensorflow

# The label sets of Google's released models, by number of classes.
_TABLES: dict[int, ClassTable] = {21: VOC, 19: CITYSCAPES}


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
        The model in evaluation mode; 21 and 19 classes carry the names of VOC and Cityscapes,
        the label sets of the released models.

    Raises:
        AtrousError: Variables missing, misshapen, not finite, or of another network; a file that
            is damaged or malicious. Optimizer slots and the like are left out, and named in
            `model.provenance`.
    """
    arrays, extras = read_tensorflow(source)
    name = Path(source).name if isinstance(source, (str, Path)) else "TensorFlow variables"
    variables = tensorflow.joined_logits(arrays)
    architecture = tensorflow.infer(
        variables,
        output_stride=output_stride,
        atrous_rates=as_tuple(atrous_rates),
        multi_grid=as_tuple(multi_grid),
    )
    return _assembled(architecture, variables, Provenance(name, notes=extras.notes()))


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
    model = build(architecture)
    strangers = tf_names.assign(model, variables, provenance.source)
    model.provenance = provenance
    provenance.notes += [f"left out: unknown: {name}" for name in strangers]
    tables = {**_TABLES, **(more_tables or {})}
    if architecture.num_classes in tables:
        model.name_classes(tables[architecture.num_classes])
    return model.eval()
