"""What `atrous bench` measures is there, plausible, and of the model it was given."""

import json
from pathlib import Path

import pytest

from atrous.cli import main
from atrous.engines import bench as benching
from atrous.engines.bench import bench, multiply_adds
from atrous.engines.machine import peak_megabytes
from atrous.engines.strips_choice import Choice
from atrous.errors import AtrousError
from tests.engines.test_openvino import tiny

SIZE = (9, 13)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(benching, "PEAK_SIDE", 4)
    return tiny(tmp_path / "tiny.onnx")


def test_multiply_adds_are_those_of_the_convolutions(model: Path) -> None:
    assert multiply_adds(model, SIZE) == 3 * 4 * 2 * 3  # positions, filters, inputs
    assert multiply_adds(model, (4, 4)) == 2 * 3


def test_every_installed_engine_is_measured(model: Path) -> None:
    report = bench(model, size=SIZE, threads=1, samples=2)
    assert [cost.engine for cost in report.engines] == ["OpenVINO", "ONNX Runtime"]
    assert (report.size, report.threads, report.precision) == (SIZE, 1, "float32")
    assert report.peak > 0
    for cost in report.engines:
        assert 0 < cost.fastest_ms <= cost.median_ms
        ideal_ms = 1e3 * report.multiply_adds / report.peak
        assert cost.share_of_peak == pytest.approx(ideal_ms / cost.median_ms, abs=2e-3)
        assert 0 < cost.start_s < 100
        assert 10 < cost.peak_memory_mb < 10_000


def test_engines_of_packages_that_are_missing_are_left_out(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benching, "PACKAGES", {"OpenVINO": "openvino", "Other": "no_such_package"})
    starts = [(0.25, 20.0), (0.125, 10.0)]
    monkeypatch.setattr(benching, "_start_up", lambda *_: starts)
    main(["bench", str(model), "--size", "9", "13", "--samples", "1", "--json"])
    report = json.loads(capsys.readouterr().out)
    (cost,) = report["engines"]
    assert cost["engine"] == "OpenVINO"
    assert (cost["first_start_s"], cost["start_s"], cost["peak_memory_mb"]) == (0.25, 0.12, 10.0)
    main(["bench", str(model), "--size", "9", "13", "--samples", "1"])
    table = capsys.readouterr().out
    assert "9 x 13" in table
    assert "10 MB" in table
    assert "row strips" not in table  # so small a graph is not cut


def test_both_forms_of_the_graph_are_shown(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benching, "PACKAGES", {"OpenVINO": "openvino"})
    monkeypatch.setattr(benching, "_start_up", lambda *_: [(0.25, 20.0), (0.125, 10.0)])
    choice = Choice(strips_ms=31.2, as_exported_ms=29.9, equal=True)
    monkeypatch.setattr(benching.ExportedEngine, "chosen_rewrite", lambda *_: choice)
    main(["bench", str(model), "--size", "9", "13", "--samples", "1"])
    assert "in row strips 31.2 ms, as exported 29.9 ms, logits equal: as exported" in (
        capsys.readouterr().out
    )
    main(["bench", str(model), "--size", "9", "13", "--samples", "1", "--json"])
    shown = json.loads(capsys.readouterr().out)["choice"]
    assert shown == {"strips_ms": 31.2, "as_exported_ms": 29.9, "equal": True, "strips": False}


def test_int8_files_are_compared_with_the_int8_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "PEAK_CHANNELS", 64)
    for precision in ("float32", "int8"):
        run, work = benching._peak_runner(1, precision)
        run()
        assert work == 64**2 * benching.PEAK_SIDE**2


def test_an_engine_that_fails_on_its_own_is_named(tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="E-BENCH-START"):
        benching._start_up("OpenVINO", str(tmp_path / "none.onnx"), SIZE, 1, "fp32")


def test_P04_peak_memory_is_of_this_process() -> None:
    before = peak_megabytes()
    block = bytearray(64 << 20)
    block[:: 1 << 12] = b"1" * len(block[:: 1 << 12])
    assert peak_megabytes() >= before
    assert peak_megabytes() > 64


@pytest.mark.slow
def test_torch_models_are_run_by_torch_and_exported_for_the_others(tmp_path: Path) -> None:
    from atrous import create_model, save

    save(create_model("mobilenet_v2", num_classes=3, decoder=False), tmp_path / "m.safetensors")
    report = bench(tmp_path / "m.safetensors", size=(33, 33), threads=1, samples=1)
    assert [c.engine for c in report.engines] == ["OpenVINO", "ONNX Runtime", "PyTorch"]
