"""A decoder in strips computes what it computes at once."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from atrous import strips
from atrous.engines import Compiler
from atrous.export import as_file, describe
from atrous.graph import write_graph
from tests.test_export import lively, picture


def written(path: Path, **options: object) -> Path:
    model = lively("mobilenet_v2", depth_multiplier=0.35, **options)
    graph = write_graph(model)
    onnx.save(as_file(graph, describe(model, graph, size=None)), path)
    return path


@pytest.mark.parametrize(
    "options", [{}, {"refine": ((5, 24), (1, 16)), "separable": False, "decoder_strides": (8, 4)}]
)
def test_decoder_in_strips_equals_the_whole(
    options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "model.onnx", **options)
    monkeypatch.setattr(strips, "STRIP_BYTES", 1 << 12)
    operations, logits = [], []
    image = picture(149, 64)  # 38 rows of logits: four strips
    for in_strips in (False, True):
        compiler = Compiler(path, 1, keep_compiled=False, strips=in_strips)
        request = compiler.compile((1, *image.shape))
        operations.append(len(request.get_compiled_model().get_runtime_model().get_ops()))
        logits.append(np.array(request.infer({0: image[None]})[0]))
    assert operations[1] > operations[0] + 4
    assert np.abs(logits[1] - logits[0]).max() < 1e-5 * logits[0].std()


def test_small_decoders_stay_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "model.onnx")
    model = Compiler(path, 1, keep_compiled=False, strips=True).read()
    model.reshape([1, 65, 65, 3])
    before = len(model.get_ops())
    strips.in_strips(None, model)
    assert len(model.get_ops()) == before
