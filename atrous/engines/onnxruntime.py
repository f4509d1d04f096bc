"""ONNX Runtime: exported files on Nvidia's cards, and on processors to compare with."""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.engines.exported_file import FileEngine
from atrous.engines.openvino import chosen_precision
from atrous.engines.protocol import Precision
from atrous.errors import AtrousError
from atrous.images.bands import Pixels

# Products of 32-bit floats are not rounded to TF32, so that labels are those of a processor.
_CUDA = ("CUDAExecutionProvider", {"use_tf32": 0})


class OnnxRuntimeEngine(FileEngine):
    """Runs a file written by `atrous export`; see `atrous.engines.protocol.Engine`.

    Pictures are seen whole: ONNX Runtime gives no values from inside the graph, which tiles need.

    Args:
        path: The file.
        precision: As in `Predictor`.
        providers: Of ONNX Runtime.
        threads: Threads of a processor to use; 0: all.

    Attributes:
        header: The metadata of the file.

    Raises:
        AtrousError: Not such a file, no card, or the file cannot run in this precision.
    """

    bytes_fixed = bytes_per_pixel = 0  # of the processor's memory
    streams = 1

    def __init__(
        self,
        path: Path,
        precision: Precision | None = None,
        providers: Sequence[Any] = (_CUDA,),
        threads: int = 0,
    ) -> None:
        import onnxruntime  # only who asks for it needs it

        onnxruntime.set_default_logger_severity(3)  # its warnings are about optimisations
        super().__init__(path)
        self.precision = chosen_precision(self.header, precision, where=path, device="cuda")
        name = providers[0][0] if isinstance(providers[0], tuple) else providers[0]
        if name not in onnxruntime.get_available_providers():
            raise AtrousError(
                "E-DEVICE",
                "this ONNX Runtime cannot use cuda",
                fix="pip uninstall onnxruntime; pip install 'atrous[cuda]'; or --device cpu",
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(path), options, list(providers))
        if name not in self._session.get_providers():  # it falls back to the processor silently
            raise AtrousError(
                "E-DEVICE",
                "ONNX Runtime found no card for cuda, or lacks a library of CUDA",
                fix="see nvidia-smi and the log above; or choose --device cpu",
            )
        self._lock = threading.RLock()

    def coarse_logits(self, image: Pixels) -> NDArray[np.float32]:
        """Maps a picture (H, W, C) to logits (h, w, K) at `logits_stride`."""
        with self._lock:
            logits: NDArray[np.float32] = self._session.run(["logits"], {"image": image[None]})[0]
        return logits[0]

    def alone(self) -> AbstractContextManager[object]:
        """Lets no other thread in that asks for the same."""
        return self._lock

    def high_level(self, tile: Pixels) -> NDArray[np.float32] | None:
        """Refuses: only a picture beyond the limits of pictures is seen in tiles.

        Raises:
            AtrousError: Always.
        """
        raise AtrousError(
            "E-TILES",
            "a picture of this size is seen in tiles, which cuda does not do",
            fix="choose --device cpu",
        )

    def tile_logits(self, tile: Pixels, pooled: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Refuses as `high_level` does."""
        self.high_level(tile)
        raise AssertionError
