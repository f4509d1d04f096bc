"""DeepLabv3+ (arXiv:1802.02611): from a photograph to a mask, from labelled pictures to a model.

The runtime half (`Predictor`) needs no torch. Names of the training half load when first used and
need ``pip install 'atrous[train]'``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # "as" exports a name, for type checkers
    from atrous import data as data
    from atrous import export as export
    from atrous import recipes as recipes
    from atrous.build import create_model as create_model
    from atrous.cost import multiply_adds as multiply_adds
    from atrous.cost import parameters as parameters
    from atrous.errors import AtrousError as AtrousError
    from atrous.evaluation.evaluator import evaluate as evaluate
    from atrous.export.int8 import quantize as quantize
    from atrous.loading import from_tensorflow as from_tensorflow
    from atrous.loading import from_tflite as from_tflite
    from atrous.loading import load as load
    from atrous.loading import load_weights as load_weights
    from atrous.model import DeepLabV3Plus as DeepLabV3Plus
    from atrous.predict.many import segment_many as segment_many
    from atrous.predict.predictor import Predictor as Predictor
    from atrous.predict.segmentation import Segmentation as Segmentation
    from atrous.training.loop import train as train
    from atrous.weights.edit_classes import change_classes as change_classes
    from atrous.weights.hub import push_to_hub as push_to_hub
    from atrous.weights.store import save as save

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

__all__ = sorted(_PUBLIC)


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
