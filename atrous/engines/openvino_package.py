"""OpenVINO, imported without telemetry, and its one Core."""

import sys
import threading
from functools import cache
from typing import Any

import numpy as np

_CORE_LOCK = threading.Lock()


def import_openvino() -> Any:
    """Imports OpenVINO without its model converter, which sends telemetry when imported."""
    if "openvino" not in sys.modules:
        blocked = "openvino.tools.ovc"
        sys.modules[blocked] = None  # type: ignore[assignment]
        try:
            import openvino
        finally:
            del sys.modules[blocked]
    import openvino

    return openvino


def openvino_core() -> Any:
    """Returns the one `openvino.Core` of the process, which is never freed.

    A Core that compiles installs a stack for signal handlers, remembers the stack before it, and
    restores that one when the Core is freed. If two Cores are freed in the order of their making,
    the second restores the stack that the first one freed, and the next signal that Python handles
    ends the process (OpenVINO 2026.4).
    """
    with _CORE_LOCK:  # functools.cache alone may call the function once per thread
        return _core()


@cache
def _core() -> Any:
    openvino = import_openvino()
    # The first of these calls fills a table: it holds a lock of C++ and waits for Python's. Two
    # threads whose first calls meet would wait for each other for ever (OpenVINO 2026.4).
    openvino.Tensor(np.zeros(1, np.uint8)).element_type.to_dtype()
    return openvino.Core()
