"""Channels of zeros are added where few are missing, and change nothing."""

from pathlib import Path

import numpy as np
import pytest

from atrous.engines import openvino_channels
from atrous.engines.openvino import Compiler, import_openvino
from tests.engines.test_openvino_row_strips import written
from tests.export.test_export import picture


def channels(path: Path) -> list[int]:
    """Returns how many channels each convolution makes."""
    model = Compiler(path, 1, keep_compiled=False, rewrites=True).read()
    openvino_channels.in_whole_vectors(import_openvino(), model)
    nodes = [n for n in model.get_ordered_ops() if n.get_type_name() == "Convolution"]
    return [n.get_output_partial_shape(0)[1].get_length() for n in nodes]


def test_zeros_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "model.onnx")
    monkeypatch.setattr(openvino_channels, "FEW", 1)
    image = picture(81, 97)
    logits = []
    for rewrites in (False, True):
        compiler = Compiler(path, 1, keep_compiled=False, rewrites=rewrites)
        logits.append(np.array(compiler.compile((1, *image.shape)).infer({0: image[None]})[0]))
    assert np.abs(logits[1] - logits[0]).max() < 1e-5 * logits[0].std()


def test_few_channels_are_added_between_convolutions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "model.onnx")
    before = channels(path)
    monkeypatch.setattr(openvino_channels, "FEW", 1)
    after = channels(path)
    assert before != after
    assert all(
        new - old in (0, -old % openvino_channels.VECTOR)
        for old, new in zip(before, after, strict=True)
    )
    assert after[-1] == before[-1]  # the logits
