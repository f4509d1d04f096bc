"""Exports a network as one ONNX file that runs without torch.

The package can be called: ``atrous.export(model, "model.onnx")``.
"""

import sys
from types import ModuleType
from typing import Any


class _Export(ModuleType):
    """A module that can be called: the function and the folder have the same name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Exports a network; see `atrous.export.export.export`."""
        from atrous.export.export import export

        return export(*arguments, **options)


sys.modules[__name__].__class__ = _Export
