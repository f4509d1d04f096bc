"""DeepLabv3+ (arXiv:1802.02611): from a photograph to a mask, from labelled pictures to a model.

The runtime half (`Predictor`) needs no torch. Names of the training half load when first used and
need ``pip install 'atrous[train]'``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atrous import data, export, recipes
    from atrous.build import create_model
    from atrous.cost import multiply_adds, parameters
    from atrous.errors import AtrousError
    from atrous.evaluation.evaluator import evaluate
    from atrous.export.int8 import quantize
    from atrous.loading import from_tensorflow, from_tflite, load, load_weights
    from atrous.model import DeepLabV3Plus
    from atrous.predict.many import segment_many
    from atrous.predict.predictor import Predictor
    from atrous.predict.segmentation import Segmentation
    from atrous.training.loop import train
    from atrous.weights.edit_classes import change_classes
    from atrous.weights.hub import push_to_hub
    from atrous.weights.store import save

__version__ = "0.1.0"

# Public name -> module (some names are modules); resolved on first use: `import atrous` is light.
_PUBLIC = {
    "AtrousError": "atrous.errors",
    "DeepLabV3Plus": "atrous.model",
    "Predictor": "atrous.predict.predictor",
    "Segmentation": "atrous.predict.segmentation",
    "change_classes": "atrous.weights.edit_classes",
    "create_model": "atrous.build",
    "data": "atrous.data",
    "evaluate": "atrous.evaluation.evaluator",
    "export": "atrous.export",
    "from_tensorflow": "atrous.loading",
    "from_tflite": "atrous.loading",
    "load": "atrous.loading",
    "load_weights": "atrous.loading",
    "multiply_adds": "atrous.cost",
    "parameters": "atrous.cost",
    "push_to_hub": "atrous.weights.hub",
    "quantize": "atrous.export.int8",
    "recipes": "atrous.recipes",
    "save": "atrous.weights.store",
    "segment_many": "atrous.predict.many",
    "train": "atrous.training.loop",
}

__all__ = [
    "AtrousError",
    "DeepLabV3Plus",
    "Predictor",
    "Segmentation",
    "change_classes",
    "create_model",
    "data",
    "evaluate",
    "export",
    "from_tensorflow",
    "from_tflite",
    "load",
    "load_weights",
    "multiply_adds",
    "parameters",
    "push_to_hub",
    "quantize",
    "recipes",
    "save",
    "segment_many",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'atrous' has no attribute {name!r}")
    try:
        module = import_module(_PUBLIC[name])
    except ModuleNotFoundError as error:
        from atrous.errors import missing_extra

        raise missing_extra(f"atrous.{name}", error) from error
    value = module if module.__name__ == f"atrous.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
