"""Pretrained weights for backbones: finds them, reads them, copies them into a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atrous.architecture import BACKBONE_OPTIONS, BAND_OPTIONS, Architecture, Provenance
from atrous.engines import built_in
from atrous.errors import AtrousError, DataError, unknown_name
from atrous.model import Model
from atrous.weights import exported, hub, store, zoo
from atrous.weights.differences import check_finite, check_same, unknown_network
from atrous.weights.tensorflow import names as tf_names
from atrous.weights.tensorflow import tflite
from atrous.weights.tensorflow.files import read_tensorflow
from atrous.weights.torch import names as torch_names
from atrous.weights.torch.files import is_pickle, read_tensors
from atrous.weights.transfer import file_digest

# The weights behind pretrained="imagenet": a repository of timm's, or a published file with a hash.
_DEFAULTS = {
    "xception41": "hf:timm/xception41.tf_in1k",  # the authors' own, ported
    "xception65": "hf:timm/xception65.tf_in1k",
    "xception71": "hf:timm/xception71.tf_in1k",
    "mobilenet_v2": "mobilenetv2_imagenet_ptq",
}
_FOLDED = (
    "batch norm is folded into the convolutions; training restores it from its first pictures "
    "(training.batch_norm.restore_folded)"
)


@dataclass(frozen=True)
class BackboneWeights:
    """Weights of a backbone, read and ready to be copied into a model.

    Args:
        assign: Copies the weights into a model's backbone.
        architecture: Fields of `Architecture` that the weights need: normalisation and epsilon.
        timm: Tensors that timm itself loads while it builds the network.
    """

    assign: Callable[[Model], None]
    architecture: dict[str, Any] = field(default_factory=dict)
    timm: dict[str, Tensor] | None = None


def find(source: str | Path, backbone: str) -> BackboneWeights:
    """Finds and reads weights for a backbone.

    Args:
        source: ``imagenet``, the name of a built-in model, the path of a file or run folder,
            ``hf:org/name``, or a published name.
        backbone: As in `create_model`.

    Raises:
        AtrousError: No such weights, or weights of another network, damaged or malicious.
    """
    path, name = _locate(str(source), backbone)
    provenance = Provenance(name, sha256=file_digest(path) if path.is_file() else "")
    if store.is_ours(path):
        description, tensors = store.read(path)
        stored = replace(description.architecture, **vars(description.preprocessing))
        return _from_ours(tensors, stored, description.provenance, provenance, path)
    if path.suffix == ".onnx" and path.is_file():
        model = exported.read(path)
        return _from_ours(
            model.state_dict(), model.architecture, model.provenance, provenance, path
        )
    if backbone.startswith("timm/"):
        return _for_timm(path, backbone, provenance)
    if path.suffix == ".tflite":
        return _from_tflite(path, provenance)
    if path.is_file() and (path.suffix == ".safetensors" or is_pickle(path)):
        return _from_torch(path, backbone, provenance)
    return _from_tensorflow(path, provenance)


def _locate(source: str, backbone: str) -> tuple[Path, str]:
    """Returns the path of the weights and a name for them."""
    if source == "imagenet":
        source = _imagenet(backbone)
    if (file := built_in.find(source)) is not None:
        return file, source
    if source.startswith("hf:"):
        return hub.download(source), source
    if source in zoo.names():
        return zoo.download(source), source
    path = Path(source)
    if (path / "best.safetensors").is_file():  # a run folder
        return path / "best.safetensors", source
    checkpoint = path.with_name(f"{path.name}.index")
    if path.name == source and not (path.suffix or path.exists() or checkpoint.exists()):
        raise unknown_name("weights", source, ("imagenet", *built_in.names(), *zoo.names()))
    return path, path.name


def _imagenet(backbone: str) -> str:
    """Returns where published ImageNet weights of a backbone are."""
    if backbone.startswith("timm/"):
        return _timm_repository(backbone.removeprefix("timm/"))
    if backbone in _DEFAULTS:
        return _DEFAULTS[backbone]
    advice = "name a file as pretrained="
    if backbone.startswith("resnet"):
        advice = (
            f"use the backbone timm/{backbone}, or name the archive of the authors' own as "
            f"pretrained= (atrous models lists {backbone}_imagenet)"
        )
    raise AtrousError(
        "E-PRETRAINED",
        f"no ImageNet weights of {backbone} are published with a hash to check",
        fix=advice,
    )


def _timm_repository(name: str) -> str:
    import timm

    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise AtrousError("E-PRETRAINED", f"timm has no weights of {name} on the hub")
    return f"hf:{config.hf_hub_id}"


def _from_ours(
    tensors: Mapping[str, Tensor],
    theirs: Architecture | None,
    origin: Provenance,
    provenance: Provenance,
    path: Path,
) -> BackboneWeights:
    """Takes the backbone out of a model of this package, whatever its head.

    Args:
        tensors: Of the whole model.
        theirs: Its network; None if the file does not say.
        origin: Where the model comes from.
        provenance: Where the backbone comes from: this file.
        path: The file.
    """
    prefix = "encoder.backbone."
    backbone = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    provenance.licence = origin.licence

    def assign(model: Model) -> None:
        ours = model.architecture
        for name in ("backbone", *BACKBONE_OPTIONS):
            if theirs is not None and getattr(theirs, name) != getattr(ours, name):
                raise DataError(
                    "E-WEIGHTS-BACKBONE",
                    f"weights of {name} {getattr(theirs, name)!r}, and the network's is "
                    f"{getattr(ours, name)!r}",
                    where=path,
                    fix="ask for a network of the same backbone, or name other weights",
                )
        store.copy_tensors(model.encoder.backbone, backbone, path)
        left_out = [name for name in tensors if not name.startswith(prefix)]
        copied = f"{len(backbone)} tensors of the backbone copied"
        _record(model, provenance, left_out, [copied, *origin.notes])

    if theirs is None:
        channels = next((t.shape[1] for t in backbone.values() if t.ndim == 4), 3)
        return BackboneWeights(assign, {"in_channels": channels})
    brought = ("mean", "std", "epsilon", "one_sided_padding", *BAND_OPTIONS)
    return BackboneWeights(assign, {name: getattr(theirs, name) for name in brought})


def _for_timm(path: Path, backbone: str, provenance: Provenance) -> BackboneWeights:
    tensors = read_tensors(path).tensors  # here, so that timm opens no file that could run code
    layout = torch_names.find_layout(tensors, backbone)
    left_out: list[str] = []
    numbers: dict[str, Any] = {}
    if layout:
        tensors, left_out = torch_names.rename(tensors, layout, backbone)
        numbers = {"mean": layout.mean, "std": layout.std, "epsilon": layout.epsilon}

    def check(model: Model) -> None:
        """Checks that timm, which skips tensors that do not fit, loaded every tensor."""
        network: Any = model.encoder.backbone.network
        ours = {n: t for n, t in network.state_dict().items() if "num_batches_tracked" not in n}
        file = {n: t for n, t in tensors.items() if n in ours}
        check_same(ours, file, path)
        changed = [n for n, t in file.items() if not torch.equal(t, ours[n])]
        assert not changed, f"timm changed {changed[:3]}"
        _record(model, provenance, left_out)

    return BackboneWeights(check, numbers, timm=tensors)


def _from_tensorflow(path: Path, provenance: Provenance) -> BackboneWeights:
    variables, notes = read_tensorflow(path)
    check_finite(variables.items(), path)

    def assign(model: Model) -> None:
        root = tf_names.ROOTS[model.architecture.backbone]
        wanted = {n: v for n, v in variables.items() if n.startswith(f"{root}/")}
        if not wanted:
            scopes = sorted({name.split("/")[0] for name in variables})
            raise DataError(
                "E-WEIGHTS-BACKBONE",
                f"no variables of {root}; found the scopes {', '.join(scopes)}",
                where=path,
            )
        tf_names.assign(model, wanted, path, part="encoder.backbone")
        left_out = [name for name in variables if name not in wanted]
        _record(model, provenance, left_out, notes)

    return BackboneWeights(assign)


def _from_tflite(path: Path, provenance: Provenance) -> BackboneWeights:
    graph = tflite.read(path)
    wanted = {n: v for n, v in graph.variables.items() if _is_backbone(n)}

    def assign(model: Model) -> None:
        tf_names.assign(model, wanted, path, part="encoder.backbone")
        _record(model, provenance, [n for n in graph.variables if n not in wanted], [_FOLDED])

    # The graph's one-sided padding is not kept. With symmetric padding the features are the same,
    # but each sits at pixel i * stride instead of up to one stride further on.
    return BackboneWeights(assign, {"mean": (graph.mean,), "std": (graph.std,)})


def _is_backbone(name: str) -> bool:
    return name.startswith("MobilenetV2/") and not name.startswith(
        ("MobilenetV2/Conv_1/", "MobilenetV2/Logits/")
    )


def _from_torch(path: Path, backbone: str, provenance: Provenance) -> BackboneWeights:
    file = read_tensors(path)
    if any(name.startswith("encoder.backbone.") for name in file.tensors):
        origin = Provenance(notes=["a bare state_dict: it does not say its normalisation"])
        return _from_ours(file.tensors, None, origin, provenance, path)
    layout = torch_names.find_layout(file.tensors, backbone)
    if layout is None:
        raise unknown_network(file.tensors, path)
    tensors, left_out = torch_names.rename(file.tensors, layout, backbone)

    def assign(model: Model) -> None:
        ours = model.encoder.backbone.state_dict()
        counters = {n: t for n, t in ours.items() if n.endswith("num_batches_tracked")}
        store.copy_tensors(model.encoder.backbone, counters | tensors, path)
        _record(model, provenance, left_out, file.notes)

    return BackboneWeights(
        assign, {"mean": layout.mean, "std": layout.std, "epsilon": layout.epsilon}
    )


def _record(
    model: Model,
    provenance: Provenance,
    left_out: list[str],
    notes: list[str] | None = None,
) -> None:
    provenance.notes = ["backbone only; the rest is randomly initialised", *(notes or [])]
    if left_out:
        provenance.notes.append(f"left out: {', '.join(left_out)}")
    model.provenance = provenance
