"""The runtime half works where torch cannot be imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import atrous
from atrous.cli import COMMANDS
from tests.engines.test_openvino import tiny

PACKAGE = Path(atrous.__file__).parent

# Runs the command line with the packages of the training half made unimportable.
WITHOUT = """
import sys
for name in ("torch", "torchvision", "timm", "safetensors", "onnx", "onnxruntime", "tflite"):
    sys.modules[name] = None
from atrous.cli import main
main(sys.argv[1:])
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    return tiny(tmp_path / "tiny.onnx")


def test_every_module_of_the_runtime_half_is_imported() -> None:
    folders = (PACKAGE / folder for folder in ("images", "engines", "predict"))
    modules = ["errors", "classes", "cli.options", *(f"cli.{command}" for command in COMMANDS)]
    for folder in folders:
        modules += [f"{folder.name}.{p.stem}" for p in folder.glob("*.py") if p.stem != "torch"]
    code = WITHOUT.split("from atrous")[0] + (
        "from importlib import import_module\n"
        f"for name in {modules}: import_module('atrous.' + name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_predict_runs_from_file_to_files(model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (33, 21), "white").save(tmp_path / "white.png")
    done = run(
        "predict", tmp_path / "white.png", "--model", model, "--out", tmp_path / "o", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["areas"] == {"light": 1.0}
    assert (tmp_path / "o" / "white.labels.png").is_file()


def test_public_predictor_runs_in_python(model: Path) -> None:
    code = WITHOUT.split("from atrous")[0] + (
        "import atrous, numpy as np\\n"
        "result = atrous.Predictor(sys.argv[1])(np.full((9, 9, 3), 200, np.uint8))\\n"
        "assert result.labels.min() == 1 and result.probability('light').min() > 0.9\\n"
    ).replace("\\n", "\n")
    subprocess.run([sys.executable, "-c", code, str(model)], check=True)


def test_bench_measures_an_exported_file(model: Path) -> None:
    done = run("bench", model, "--size", "9", "13", "--samples", "1", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert [cost["engine"] for cost in json.loads(done.stdout)["engines"]] == ["OpenVINO"]


@pytest.mark.parametrize("command", ["export", "models"])
def test_P07_what_needs_torch_says_what_to_install(
    command: str, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "m.tflite").write_bytes(b"0000TFL3")
    arguments = [tmp_path / "m.tflite", "--out", tmp_path / "o.onnx"] if command == "export" else []
    done = run(command, *arguments)
    assert done.returncode == 2
    assert "pip install 'atrous[train]'" in done.stderr
    assert "Traceback" not in done.stderr
