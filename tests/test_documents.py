"""Every code block of the documents runs as printed, or says why it does not.

A line `<!-- not run: REASON -->` before a block leaves the block out. Blocks of one document run in
order, in one folder with the files that the documents name (`photo.jpg`, `photos/`, `my_data/`,
`model.onnx`). Python blocks of a document share their variables. The default run shortens training
to two steps; the slow run does what is printed.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

import atrous
from atrous.engines import built_in
from tests.conftest import SHARED

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/index.md", "docs/deploy.md", "docs/tutorials/label-loop.md")
RUN = ("bash", "python", "javascript")  # other languages are shown, not run
SHORT = "--steps 2 --evaluate-every 2"


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    code: str
    skipped: str  # the reason, or empty
    line: int


def blocks(text: str) -> list[Block]:
    found = []
    pattern = r"(?:<!-- not run: (?P<why>[^>]+) -->\n+)?```(?P<language>\w*)\n(?P<code>.*?)```"
    for match in re.finditer(pattern, text, re.DOTALL):
        line = text.count("\n", 0, match.start("code"))
        found.append(Block(match["language"], match["code"], (match["why"] or "").strip(), line))
    return found


@pytest.fixture
def folder(tmp_path):
    """A folder with the files that the documents name; pictures are painted scenes."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "my_data" / "images").mkdir(parents=True)
    (tmp_path / "my_data" / "masks").mkdir()
    scenes = list(atrous.data.scenes(seed=5, n=12))
    for index, (image, target) in enumerate(scenes):
        Image.fromarray(image).save(tmp_path / "my_data" / "images" / f"{index}.png")
        Image.fromarray(target.astype(np.uint8)).save(tmp_path / "my_data/masks" / f"{index}.png")
        if index < 2:
            Image.fromarray(image).save(tmp_path / "photos" / f"{index}.jpg")
    names = atrous.data.open_dataset("scenes", "val").classes
    (tmp_path / "my_data" / "classes.txt").write_text("\n".join(names) + "\n")
    Image.fromarray(scenes[0][0]).save(tmp_path / "photo.jpg")
    shutil.copy(built_in.find(built_in.DEFAULT), tmp_path / "model.onnx")
    return tmp_path


def check(document: str, folder: Path, *, short: bool) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
    }
    python: list[str] = []
    for block in blocks((ROOT / document).read_text()):
        if block.skipped or block.language not in RUN:
            continue
        if block.language == "javascript":
            if shutil.which("node") is None:
                continue
            command = ["node", "--check", "-"]
            code = block.code
        elif block.language == "python":
            python.append(block.code)
            command, code = [sys.executable, "-"], "\n".join(python)
        else:
            command, code = ["bash", "-euo", "pipefail"], block.code
            if short:
                code = re.sub(r" --minutes \d+", "", code)  # the steps are said below
                code = re.sub(r"(atrous train \w+[^\n#]*?)(\s*(?:#.*)?)$", rf"\1 {SHORT}\2", code,
                              flags=re.MULTILINE)  # fmt: skip
        done = subprocess.run(
            command, input=code, cwd=folder, env=environment, text=True, capture_output=True
        )
        assert done.returncode == 0, f"{document}:{block.line}\n{code}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_blocks_run_as_printed(document, folder):
    check(document, folder, short=True)


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_blocks_run_in_full(document, folder):
    check(document, folder, short=False)


def test_labels_of_the_code_without_atrous_are_the_predictors(folder):
    """The deploy page's Python, against Predictor in fp32."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    code = next(b.code for b in blocks(text) if "import onnxruntime" in b.code)
    names: dict[str, object] = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        exec(code, names)
    finally:
        os.chdir(before)
    expected = atrous.Predictor(folder / "model.onnx")(folder / "photo.jpg").labels
    assert (names["labels"] == expected).mean() > 0.9999  # engines differ by rounding


def test_blocks_that_do_not_run_say_why():
    for document in DOCUMENTS:
        for block in blocks((ROOT / document).read_text()):
            assert block.language or block.skipped or not block.code.startswith("atrous ")


def test_shared_data_is_not_needed_here():
    assert all(str(SHARED) not in (ROOT / document).read_text() for document in DOCUMENTS)
