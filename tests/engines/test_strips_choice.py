"""Strips or the graph as exported: measured once on a machine, kept, and never seen in labels."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from atrous.engines import openvino_row_strips, requests, strips_choice
from atrous.engines.openvino import ExportedEngine
from atrous.engines.strips_choice import Choice, measured
from tests.engines.test_openvino_row_strips import written
from tests.export.test_export import picture

IMAGE = picture(65, 33)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose graph is cut at the size of `IMAGE`; the third picture is often."""
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(openvino_row_strips, "STRIP_BYTES", 1 << 13)
    monkeypatch.setattr(openvino_row_strips, "LARGE_BYTES", 1 << 14)
    monkeypatch.setattr(requests, "REPEATS_WORTH_COMPILING", 3)
    monkeypatch.setattr(strips_choice, "BUDGET", 0.0)
    return written(tmp_path / "model.onnx")


@pytest.fixture
def slow_strips(monkeypatch: pytest.MonkeyPatch) -> list[Choice]:
    """Makes strips slow wherever they are measured; returns what was measured."""
    found = []

    class Slow:
        def __init__(self, fast) -> None:
            self.compiled, self._fast = fast.compiled, fast

        def infer(self, inputs):
            time.sleep(1)
            return self._fast.infer(inputs)

    def slowly(strips, as_exported, shape) -> Choice:
        found.append(measured(Slow(strips), as_exported, shape))
        return found[-1]

    monkeypatch.setattr(strips_choice, "measured", slowly)
    return found


def operations(engine: ExportedEngine) -> int:
    assert engine._one.for_size is not None
    return len(engine._one.for_size[1].compiled.get_runtime_model().get_ops())


def kept(path: Path) -> list[Path]:
    return list((path.parent / "cache" / "openvino-fp32").glob("*.strips.json"))


def test_slow_strips_give_way_and_change_no_logit(path: Path, slow_strips: list[Choice]) -> None:
    engine = ExportedEngine(path, threads=1)
    first = engine.coarse_logits(IMAGE)
    of_strips = operations(engine)
    for _ in range(3):
        assert np.array_equal(engine.coarse_logits(IMAGE), first)
    (choice,) = slow_strips
    assert choice.strips_ms > 1000 > choice.as_exported_ms > 0
    # Where a processor's kernels give other logits for strips, no measurement may choose.
    assert (operations(engine) < of_strips - 50) == choice.equal
    assert choice.strips == (not choice.equal)


def test_a_choice_is_kept_for_later_processes_and_made_after_many_pictures_only(
    path: Path, slow_strips: list[Choice]
) -> None:
    engine = ExportedEngine(path, threads=1)
    for _ in range(2):
        engine.coarse_logits(IMAGE)
    assert (slow_strips, kept(path)) == ([], [])  # a few pictures measure nothing
    engine.coarse_logits(IMAGE)
    assert (len(slow_strips), len(kept(path))) == (1, 1)
    later = ExportedEngine(path, threads=1)  # from its first picture on
    logits = later.coarse_logits(IMAGE)
    assert operations(later) == operations(engine)
    for _ in range(3):
        assert np.array_equal(later.coarse_logits(IMAGE), logits)
    assert len(slow_strips) == 1


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"key": {"file": "older"}}', b"\xff\x00"])
def test_a_broken_or_older_choice_is_measured_again(
    content: bytes, path: Path, slow_strips: list[Choice]
) -> None:
    ExportedEngine(path, threads=1).chosen_rewrite(IMAGE.shape[:2])
    (file,) = kept(path)
    whole = file.read_bytes()
    file.write_bytes(content)
    engine = ExportedEngine(path, threads=1)
    for _ in range(3):
        engine.coarse_logits(IMAGE)
    assert len(slow_strips) == 2
    assert len(file.read_bytes()) == pytest.approx(len(whole), abs=9)


def test_other_logits_keep_strips_however_slow() -> None:
    class Made:
        def __init__(self, value: float, seconds: float) -> None:
            self.value, self.seconds, self.compiled = value, seconds, self

        def input(self, _index: int):
            return self

        @property
        def element_type(self):
            return self

        def to_dtype(self):
            return np.uint8

        def infer(self, _inputs):
            time.sleep(self.seconds)
            return np.full(3, self.value, np.float32)

    for value, strips in ((1.0, False), (np.nextafter(np.float32(1), 2), True)):
        choice = measured(Made(1.0, 0.1), Made(value, 0.01), (1, 2, 2, 3))  # type: ignore[arg-type]
        assert (choice.strips, choice.equal) == (strips, not strips)


TOGETHER = """
import sys
from pathlib import Path
import numpy as np
from atrous.engines import openvino_row_strips, requests
from atrous.engines.openvino import ExportedEngine
openvino_row_strips.STRIP_BYTES, openvino_row_strips.LARGE_BYTES = 1 << 13, 1 << 14
requests.REPEATS_WORTH_COMPILING = 3
engine = ExportedEngine(Path(sys.argv[1]), threads=1)
image = np.load(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(4):
    logits = engine.coarse_logits(image)
print(logits.tobytes().hex())
"""


def test_two_processes_that_start_together_agree_on_labels(path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", IMAGE)
    command = [sys.executable, "-c", TOGETHER, str(path), str(tmp_path / "image.npy")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    found = [process.communicate(timeout=300)[0] for process in both]
    assert found[0] == found[1]
    assert len(found[0]) > 1000
    assert len(kept(path)) == 1
    assert not list(kept(path)[0].parent.glob(".tmp*"))
    assert strips_choice.Choices(kept(path)[0].parent, *key_of(path)).read((1, *IMAGE.shape))


def key_of(path: Path) -> tuple[str, int]:
    return ExportedEngine(path, threads=1).fingerprint, 1
