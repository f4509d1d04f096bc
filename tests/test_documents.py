"""Every code block of the documents runs as printed, or says why it does not.

A line `<!-- not run: REASON -->` before a block leaves the block out. Blocks of one document run in
order, in one folder with the files that the documents name (`photo.jpg`, `photos/`, `my_data/`,
`model.onnx`). Python blocks of a document share their variables: between them runs one process.
The default run shortens training to two steps; the slow run does what is printed.
"""

import json
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
DOCUMENTS = (
    "README.md",
    "docs/index.md",
    "docs/deploy.md",
    "docs/tutorials/finetune.md",
    "docs/tutorials/label-loop.md",
    "docs/tutorials/predict-notebook.md",
    "docs/tutorials/weights.md",
)
RUN = ("bash", "python", "javascript")  # other languages are shown, not run
SHORT = "--steps 2 --evaluate-every 2"
GOOGLE = "deeplabv3_mnv2_pascal_quant.tflite"  # the file that the reader of weights.md downloads


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
    if (SHARED / "weights" / GOOGLE).exists():
        shutil.copy(SHARED / "weights" / GOOGLE, tmp_path)
    return tmp_path


def shortened(code: str) -> str:
    """Code whose training takes two steps instead of those printed."""
    code = re.sub(r" --(minutes|epochs|steps) \S+", "", code)
    code = re.sub(
        r"(atrous train (?!--resume)\w+[^\n#]*?)(\s*(?:#.*)?)$", rf"\1 {SHORT}\2", code,
        flags=re.MULTILINE,
    )  # fmt: skip
    return re.sub(r"\b(minutes|epochs)=\d+", "steps=2", code)


def check(document: str, folder: Path, *, short: bool) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
    }
    with Interpreter(folder, environment) as interpreter:
        for block in blocks((ROOT / document).read_text()):
            if block.skipped or block.language not in RUN:
                continue
            code = shortened(block.code) if short else block.code
            failure = ""
            if block.language == "python":
                failure = interpreter.run(code)
            elif block.language == "bash":
                failure = run(["bash", "-euo", "pipefail"], code, folder, environment)
            elif shutil.which("node"):
                failure = run(["node", "--check", "-"], code, folder, environment)
            assert not failure, f"{document}:{block.line}\n{code}\n{failure[-2000:]}"


def run(command: list[str], code: str, folder: Path, environment: dict[str, str]) -> str:
    """Returns what went wrong, or nothing."""
    done = subprocess.run(
        command, input=code, cwd=folder, env=environment, text=True, capture_output=True
    )
    return "" if done.returncode == 0 else f"exit code {done.returncode}\n{done.stderr}"


class Interpreter:
    """A Python process that runs one block after the other, started with the first."""

    LOOP = (
        "import json, sys, traceback\n"
        "names, answers = {'__name__': '__main__'}, sys.stdout\n"
        "sys.stdout = sys.stderr\n"
        "for line in sys.stdin:\n"
        "    try: exec(json.loads(line), names); failure = ''\n"
        "    except BaseException: failure = traceback.format_exc()\n"
        "    print(json.dumps(failure), file=answers, flush=True)\n"
    )

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.process: subprocess.Popen[str] | None = None

    def run(self, code: str) -> str:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", self.LOOP], cwd=self.folder, env=self.environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        return json.loads(answer) if answer else "the process ended"

    def __enter__(self) -> "Interpreter":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait(60)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_blocks_run_as_printed(document, folder):
    if GOOGLE in (ROOT / document).read_text() and not (folder / GOOGLE).exists():
        pytest.skip(f"needs {GOOGLE}")
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


def test_the_page_on_file_formats_has_every_field_of_a_record(folder):
    atrous.segment_many([folder / "photo.jpg"], folder / "model.onnx", folder / "masks")
    page = (ROOT / "docs" / "reference" / "files.md").read_text()
    table = page.partition("| field of the record")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    fields = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    record = json.loads((folder / "masks" / "photo.json").read_text())
    assert record.keys() == fields


def test_blocks_that_do_not_run_say_why():
    for document in DOCUMENTS:
        for block in blocks((ROOT / document).read_text()):
            assert block.language or block.skipped or not block.code.startswith("atrous ")


def test_training_is_shortened_and_nothing_else():
    code = "atrous train finetune --data d --out r --minutes 5  # long\natrous data check d\n"
    expected = f"atrous train finetune --data d --out r {SHORT}  # long\natrous data check d\n"
    assert shortened(code) == expected
    assert shortened("atrous train --resume runs/mine") == "atrous train --resume runs/mine"


def test_shared_data_is_not_needed_here():
    assert all(str(SHARED) not in (ROOT / document).read_text() for document in DOCUMENTS)
