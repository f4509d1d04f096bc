"""The files of examples/ run; `plain_loop.py` is tested with the training that it replaces."""

import base64
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import atrous

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

# What the tracker examples call, written to calls.txt. The trackers themselves are no dependency.
TRACKERS = {
    "wandb": """
class Run:
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def log(self, row, step): print("log", step, sorted(row), file=open("calls.txt", "a"))
def init(project, config): return Run()
""",
    "mlflow": """
import contextlib
start_run = contextlib.nullcontext
def log_params(params): print("params", sorted(params), file=open("calls.txt", "a"))
def log_metrics(row, step): print("log", step, sorted(row), file=open("calls.txt", "a"))
""",
}


def run(folder: Path, name: str, *arguments: str) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
        "ATROUS_STEPS": "2",
    }
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_example_is_listed_and_short():
    listed = (EXAMPLES / "README.md").read_text()
    for path in [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb")]:
        assert f"[{path.name}]({path.name})" in listed
        assert path.suffix == ".ipynb" or len(path.read_text().splitlines()) <= 60


def test_the_notebook_runs_and_shows_pictures():
    nbclient = pytest.importorskip("nbclient", reason="needs the extra integration")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(EXAMPLES / "predict.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # none are under version control
    resources = {"metadata": {"path": str(ROOT)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [
        output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]
    overlay, cutout = (Image.open(io.BytesIO(base64.b64decode(data))) for data in shown)
    with Image.open(ROOT / "atrous/serve/page/examples/cat.jpg") as photo:
        assert overlay.width == photo.width
    assert cutout.mode == "RGBA"
    opaque = np.asarray(cutout)[..., 3] > 127
    assert 0.6 < opaque.mean() < 0.95  # the cat fills most of the picture
    assert any("'cat'" in output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_gets_the_scores_of_every_evaluation(name, tmp_path):
    (tmp_path / f"{name}.py").write_text(TRACKERS[name])
    run(tmp_path, f"track_{name}.py")
    calls = (tmp_path / "calls.txt").read_text()
    assert "log 2" in calls
    assert "mean_iou" in calls


@pytest.mark.slow
def test_augmentations_of_albumentations_reach_the_training(tmp_path):
    pytest.importorskip("albumentations", reason="needs the extra integration")
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for index, (image, target) in enumerate(atrous.data.scenes(3, 10)):
        Image.fromarray(image).save(tmp_path / f"data/images/{index}.png")
        Image.fromarray(target).save(tmp_path / f"data/masks/{index}.png")
    names = atrous.data.scenes(3, 1).classes
    (tmp_path / "data" / "classes.txt").write_text("\n".join(names))
    run(tmp_path, "augmentation.py", "data", "mine")
    assert atrous.load(tmp_path / "mine").classes == names


@pytest.mark.slow
def test_lightning_trains_the_network(tmp_path):
    pytest.importorskip("lightning", reason="needs the extra integration")
    run(tmp_path, "lightning_module.py")
    assert atrous.load(tmp_path / "segmenter.safetensors").decoder.classifier.out_channels == 7
