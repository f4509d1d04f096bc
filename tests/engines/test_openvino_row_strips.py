"""Layers in strips compute what they compute at once."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from atrous.engines import openvino_row_strips
from atrous.engines.openvino import Compiler
from atrous.engines.openvino_package import import_openvino
from atrous.export.export import as_file, describe
from atrous.export.graph import write_graph
from tests.export.test_export import lively, picture


def written(path: Path, backbone: str = "mobilenet_v2", **options: object) -> Path:
    if backbone == "mobilenet_v2":
        options |= {"depth_multiplier": 0.35}
    model = lively(backbone, **options)
    graph = write_graph(model)
    onnx.save(as_file(graph, describe(model, graph, size=None)), path)
    return path


def parts_in_strips(path: Path, shape: tuple[int, ...]) -> list[str]:
    """Returns the last node of each part that is cut."""
    model = Compiler(path, 1, keep_compiled=False, rewrites=True).read()
    model.reshape([1, *shape, 3])
    names = [node.get_friendly_name() for node in model.get_ordered_ops()]
    openvino_row_strips.in_strips(import_openvino(), model)
    replaced = {node.get_friendly_name() for node in model.get_ordered_ops()}
    return [name for name in names if name not in replaced]


@pytest.mark.parametrize(
    "options", [{}, {"refine": ((5, 24), (1, 16)), "separable": False, "decoder_strides": (8, 4)}]
)
@pytest.mark.parametrize("size", [(149, 64), (161, 33)])  # upsampled to 38 rows of 37, to 41 of 41
def test_strips_equal_the_whole(
    options: dict[str, object],
    size: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = written(tmp_path / "model.onnx", **options)
    monkeypatch.setattr(openvino_row_strips, "STRIP_BYTES", 1 << 13)
    monkeypatch.setattr(openvino_row_strips, "LARGE_BYTES", 1 << 14)
    operations, logits = [], []
    image = picture(*size)
    for in_strips in (False, True):
        compiler = Compiler(path, 1, keep_compiled=False, rewrites=in_strips)
        requests = compiler.compile((1, *image.shape))
        operations.append(len(requests.compiled.get_runtime_model().get_ops()))
        logits.append(requests.infer({0: image[None]}))
    assert operations[1] > operations[0] + 50
    assert np.abs(logits[1] - logits[0]).max() < 1e-5 * logits[0].std()


def test_small_values_stay_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "model.onnx")
    assert parts_in_strips(path, (65, 65)) == []
