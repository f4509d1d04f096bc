"""Exported files are run faithfully, files of others refused before anything opens them."""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from atrous.engines import openvino as engines
from atrous.engines import requests
from atrous.engines.exported_file import Header, read_header
from atrous.engines.machine import usable_processors
from atrous.engines.openvino import ExportedEngine
from atrous.errors import AtrousError
from atrous.predict.predictor import Predictor


def header(**changes: object) -> Header:
    values: dict[str, object] = {
        "classes": ("dark", "light"),
        "palette": ((0, 0, 0), (255, 255, 255)),
        "output_stride": 4,
        "logits_stride": 4,
        "backbone": "made up",
        "precision": "float32",
        "licence": "",
        "source": "",
        "source_sha256": "",
        "sha256": "0" * 64,
        "reach": 0,
        "size": (0, 0),
    }
    return Header(**(values | changes))  # type: ignore[arg-type]


def tiny(path: Path, *, gain: float = 1.0, opset: int = 17, properties: object = None) -> Path:
    """Writes a model whose two logits are the negated and the plain grey of every fourth pixel."""
    weight = np.array([[-1, -1, -1], [1, 1, 1]], np.float32).reshape(2, 3, 1, 1) * gain
    nodes = [
        helper.make_node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["values"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "weight"], ["planes"], strides=[4, 4]),
        helper.make_node("Transpose", ["planes"], ["logits"], perm=[0, 2, 3, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "height", "width", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "h", "w", 2])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, header().properties() if properties is None else properties)
    onnx.save(model, path)
    return path


def expected(picture: np.ndarray, gain: float = 1.0) -> np.ndarray:
    grey = picture[::4, ::4].astype(np.float32).sum(2) * gain
    return np.stack([-grey, grey], axis=-1)


def pictures() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((9, 13), (8, 8), (9, 13))]


def test_engine_runs_the_file_at_any_size(tmp_path: Path) -> None:
    engine = ExportedEngine(tiny(tmp_path / "tiny.onnx"), keep_compiled=False)
    assert (engine.classes, engine.logits_stride) == (("dark", "light"), 4)
    for picture in pictures():
        np.testing.assert_allclose(engine.coarse_logits(picture), expected(picture), rtol=1e-6)


def test_results_outlive_the_next_call(tmp_path: Path) -> None:
    engine = ExportedEngine(tiny(tmp_path / "tiny.onnx"), keep_compiled=False)
    first, _, third = pictures()
    logits = engine.coarse_logits(first)
    engine.coarse_logits(third)
    np.testing.assert_allclose(logits, expected(first), rtol=1e-6)


def test_a_size_that_keeps_coming_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "REPEATS_WORTH_COMPILING", 3)
    engine = ExportedEngine(tiny(tmp_path / "tiny.onnx"), keep_compiled=False)
    first, second, _ = pictures()
    for picture in (first, second, second, second, first, second):
        np.testing.assert_allclose(engine.coarse_logits(picture), expected(picture), rtol=1e-6)
    assert engine._one.for_size is not None
    assert engine._one.for_size[0] == second.shape[:2]


def test_memory_given_back_after_large_pictures_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_LARGE", 0)
    engine = ExportedEngine(tiny(tmp_path / "tiny.onnx"), keep_compiled=False)
    for picture in pictures() * 2:
        np.testing.assert_allclose(engine.coarse_logits(picture), expected(picture), rtol=1e-6)


def test_tiles_and_whole_pictures_may_take_turns(tmp_path: Path) -> None:
    engine = ExportedEngine(tiny(tmp_path / "tiny.onnx"), keep_compiled=False)
    for picture in pictures():
        assert engine.high_level(picture) is None  # no image pooling
        for logits in (engine.tile_logits(picture, None), engine.coarse_logits(picture)):
            np.testing.assert_allclose(logits, expected(picture), rtol=1e-6)


def test_memory_is_estimated_from_what_is_alive_at_a_time(tmp_path: Path) -> None:
    engine = ExportedEngine(tiny(tmp_path / "tiny.onnx"), keep_compiled=False)
    # At most two float pictures (24 bytes), and a sixteenth of three times two logits.
    assert engine.bytes_per_pixel == math.ceil(1.1 * (24 + 3 * 8 / 16))


def test_a_file_fixed_to_one_size_is_never_tiled(tmp_path: Path) -> None:
    path = tiny(tmp_path / "tiny.onnx", properties=header(size=(9, 13)).properties())
    engine = ExportedEngine(path, keep_compiled=False)
    with pytest.raises(AtrousError, match="E-MODEL-SIZE"):
        Predictor(engine, memory=engine.bytes_fixed)(np.zeros((300, 300, 3), np.uint8))


def test_two_engines_in_many_threads_do_not_mix(tmp_path: Path) -> None:
    gains = (1.0, -2.0)
    pair = [
        ExportedEngine(tiny(tmp_path / f"{i}.onnx", gain=gain), threads=1, keep_compiled=False)
        for i, gain in enumerate(gains)
    ]
    jobs = [(which, picture) for picture in pictures() * 8 for which in (0, 1)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda job: pair[job[0]].coarse_logits(job[1]), jobs))
    for (which, picture), logits in zip(jobs, found, strict=True):
        np.testing.assert_allclose(logits, expected(picture, gains[which]), rtol=1e-6)


def test_streams_change_no_logit_and_leave_large_pictures_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny(tmp_path / "tiny.onnx")
    monkeypatch.setattr(engines, "_LARGE", 2 * 9 * 13 * 3)
    engine = ExportedEngine(path, threads=2, keep_compiled=False, streams=2)
    large = np.random.default_rng(1).integers(0, 256, (40, 41, 3), np.uint8)
    images = [*pictures(), large] * 6
    with ThreadPoolExecutor(4) as pool:
        for image, logits in zip(images, pool.map(engine.coarse_logits, images), strict=True):
            np.testing.assert_allclose(logits, expected(image), rtol=1e-6)
        # The engine is one thread's until its last tile; another thread's picture waits.
        with engine.alone():
            waiting = pool.submit(engine.coarse_logits, images[0])
            tile = engine.tile_logits(large, None)
            assert not waiting.done()
        np.testing.assert_allclose(tile, expected(large), rtol=1e-6)
        np.testing.assert_allclose(waiting.result(), expected(images[0]), rtol=1e-6)
    assert engine._one.for_size is None  # tiles gave back the models of whole pictures


SIGNAL_AFTER_TWO_ENGINES = """
import os, signal, sys
from pathlib import Path
import numpy as np
from atrous.engines.openvino import ExportedEngine

first, second = (ExportedEngine(Path(path), keep_compiled=False) for path in sys.argv[1:])
for engine in (first, second):
    engine.coarse_logits(np.zeros((8, 8, 3), np.uint8))
del engine, first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_signals_are_handled_after_engines_are_gone(tmp_path: Path) -> None:
    paths = tiny(tmp_path / "a.onnx"), tiny(tmp_path / "b.onnx")
    result = subprocess.run(
        [sys.executable, "-c", SIGNAL_AFTER_TWO_ENGINES, *map(str, paths)],
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (0, "handled\n")


FIRST_INFERENCES_MEET = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from atrous.engines.openvino import ExportedEngine

sys.setswitchinterval(1e-6)
engine = ExportedEngine(Path(sys.argv[1]), threads=2, keep_compiled=False, streams=2)
engine._several.requests((8, 8))
barrier = threading.Barrier(2)
def first(_):
    barrier.wait()
    return engine.coarse_logits(np.zeros((8, 8, 3), np.uint8))
with ThreadPoolExecutor(2) as pool:
    print(len(list(pool.map(first, range(2)))))
"""


def test_first_inferences_of_two_threads_do_not_wait_for_each_other(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FIRST_INFERENCES_MEET, str(tiny(tmp_path / "tiny.onnx"))]
    for _ in range(3):  # about one of ten was stuck before one thread filled OpenVINO's tables
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.stdout == "2\n", done.stderr


def test_threads_follow_option_and_affinity(tmp_path: Path) -> None:
    def threads_of(engine: ExportedEngine) -> int:
        engine.coarse_logits(pictures()[0])
        assert engine._one.for_size is not None
        compiled = engine._one.for_size[1].compiled
        return int(compiled.get_property("INFERENCE_NUM_THREADS"))

    path = tiny(tmp_path / "tiny.onnx")
    assert threads_of(ExportedEngine(path, threads=1, keep_compiled=False)) == 1
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_processors() == 1
        assert threads_of(ExportedEngine(path, keep_compiled=False)) == 1
    finally:
        os.sched_setaffinity(0, before)


def test_no_telemetry_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from atrous.engines.openvino_package import import_openvino as run; run();"
        "assert not [m for m in sys.modules if 'telemetry' in m or m == 'openvino.tools.ovc']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cache_folder_that_cannot_be_made_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "file"))
    engine = ExportedEngine(tiny(tmp_path / "tiny.onnx"))
    assert engine.coarse_logits(pictures()[0]).shape == (3, 4, 2)


@pytest.mark.parametrize("location", ["../../secret", "/etc/passwd", "beside.bin", "missing"])
@pytest.mark.parametrize("where", ["initializer", "attribute", "subgraph"])
def test_W14_weights_outside_the_file_are_refused(
    location: str, where: str, tmp_path: Path
) -> None:
    (tmp_path / "beside.bin").write_bytes(bytes(64))
    model = onnx.load(tiny(tmp_path / "model.onnx"))
    tensor = TensorProto(name="stolen", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    if where == "initializer":
        model.graph.initializer.append(tensor)
    else:
        node = helper.make_node(
            "Constant", [], ["stolen"], value=numpy_helper.from_array(np.ones(1))
        )
        node.attribute[0].t.CopyFrom(tensor)
        if where == "subgraph":
            inner = helper.make_graph([node], "inner", [], [])
            node = helper.make_node("If", ["values"], ["nothing"], then_branch=inner)
        model.graph.node.append(node)
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(AtrousError, match=r"'stolen'.*E-MODEL-EXTERNAL") as caught:
        ExportedEngine(tmp_path / "bad.onnx")
    assert caught.value.code == "E-MODEL-EXTERNAL"
    assert repr(location) in caught.value.what


def test_W15_model_without_our_metadata_is_refused(tmp_path: Path) -> None:
    path = tiny(tmp_path / "model.onnx", properties={"author": "someone"})
    with pytest.raises(AtrousError, match="E-MODEL-CONTRACT") as caught:
        read_header(path)
    assert caught.value.code == "E-MODEL-CONTRACT"


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": '["one"]'},  # two colours
        {"palette": "[[1, 2], [3, 4]]"},
        {"classes": "not json"},
        {"logits_stride": "four"},
        {"bf16_agreement": "most"},
    ],
)
def test_W15_broken_metadata_is_refused(changes: dict[str, str], tmp_path: Path) -> None:
    path = tiny(tmp_path / "model.onnx", properties=header().properties() | changes)
    with pytest.raises(AtrousError, match="E-MODEL-CONTRACT"):
        read_header(path)


def test_W15_missing_metadata_is_named(tmp_path: Path) -> None:
    properties = header().properties()
    del properties["palette"]
    with pytest.raises(AtrousError, match=r"palette.*E-MODEL-CONTRACT"):
        read_header(tiny(tmp_path / "model.onnx", properties=properties))


def test_W15_opset_too_new_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="E-MODEL-CONTRACT"):
        read_header(tiny(tmp_path / "model.onnx", opset=99))


def test_W15_other_inputs_are_refused(tmp_path: Path) -> None:
    model = onnx.load(tiny(tmp_path / "model.onnx"))
    model.graph.input[0].name = "pixels"
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(AtrousError, match="E-MODEL-CONTRACT"):
        read_header(tmp_path / "other.onnx")


def test_W17_newer_format_asks_for_an_upgrade(tmp_path: Path) -> None:
    properties = header().properties() | {"atrous_format": "9"}
    with pytest.raises(AtrousError, match="E-MODEL-NEWER"):
        read_header(tiny(tmp_path / "model.onnx", properties=properties))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    data = tiny(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: int(share * len(data))])
    with pytest.raises(AtrousError) as caught:
        read_header(tmp_path / "cut.onnx")
    assert caught.value.code in ("E-MODEL-FORMAT", "E-MODEL-CONTRACT")


def test_any_bytes_are_read_or_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    data = tiny(tmp_path / "whole.onnx").read_bytes()
    for _ in range(300):
        mutated = bytearray(data)
        for position in random.integers(0, len(data), 4):
            mutated[position] = random.integers(256)
        (tmp_path / "mutated.onnx").write_bytes(mutated)
        try:
            read_header(tmp_path / "mutated.onnx")
        except AtrousError:
            continue


def test_a_cache_that_another_process_writes_at_the_same_time_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    path = tiny(tmp_path / "tiny.onnx")
    expected = ExportedEngine(path, keep_compiled=False).coarse_logits(pictures()[0])
    engine = ExportedEngine(path)
    core = engine._compiler._core

    class Racing:
        """Fails as OpenVINO does where another process has just renamed the file."""

        def compile_model(self, model, device, settings):
            if settings.get("CACHE_DIR"):
                raise RuntimeError("filesystem error: cannot set permissions")
            return core.compile_model(model, device, settings)

        def __getattr__(self, name):
            return getattr(core, name)

    monkeypatch.setattr(engine._compiler, "_core", Racing())
    np.testing.assert_array_equal(engine.coarse_logits(pictures()[0]), expected)
