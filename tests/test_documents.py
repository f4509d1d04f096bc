"""Every code block of the documents runs as printed, or says why it does not.

A line `<!-- not run: REASON -->` before a block leaves the block out. Blocks of one document run in
order, in one folder with the files that the documents name (`photo.jpg`, `photos/`, `my_data/`,
`model.onnx`). Python blocks of a document share their variables. The default run leaves out the
how-tos, shortens training to two steps, and fetches nothing; the slow run does what is printed.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import atrous
from atrous.engines import built_in
from tests.conftest import SHARED
from tests.documents import (
    ROOT,
    SHORT,
    blocks,
    check,
    commands,
    lacking,
    runtime_of_the_page,
    shortened,
)

NAV = {
    k: v
    for part in yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    for k, v in part.items()
}
TUTORIALS = [f"docs/{page}" for part in NAV["Tutorials"] for page in part.values()]
HOW_TOS = [f"docs/{page}" for part in NAV["How-to"] for page in part.values()]
DOCUMENTS = ["README.md", "docs/index.md", *TUTORIALS]
GEOTIFF = "docs/tutorials/geotiff.md"  # a minute even with short training
GOOGLE = "deeplabv3_mnv2_pascal_quant.tflite"  # the file that the reader of weights.md downloads
DEPLOY = "docs/deploy.md"


@pytest.fixture(scope="session")
def programs():
    """A folder with the command `atrous`, for all documents: one import of torch."""
    with commands() as programs:
        yield programs


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
    runtime_of_the_page(tmp_path)
    if (SHARED / "weights" / GOOGLE).exists():
        shutil.copy(SHARED / "weights" / GOOGLE, tmp_path)
    return tmp_path


def run_all(document: str, folder: Path, programs: Path, *, short: bool) -> None:
    if document == GEOTIFF:
        pytest.importorskip("rasterio")
    if GOOGLE in (ROOT / document).read_text() and not (folder / GOOGLE).exists():
        pytest.skip(f"needs {GOOGLE}")
    check(document, folder, programs, short=short)


@pytest.mark.parametrize(
    "document",
    [pytest.param(name, marks=pytest.mark.slow) if name == GEOTIFF else name for name in DOCUMENTS],
)
def test_blocks_run_as_printed(document, folder, programs):
    run_all(document, folder, programs, short=True)


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_blocks_run_in_full(document, folder, programs):
    run_all(document, folder, programs, short=False)


@pytest.mark.slow
@pytest.mark.parametrize("document", [page for page in HOW_TOS if page != DEPLOY])
def test_how_tos_run(document, folder, programs):
    run_all(document, folder, programs, short=True)


@pytest.mark.parametrize("short", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_runtime_of_the_deploy_page_gives_the_predictors_labels(folder, programs, short):
    code = "np.savez('found.npz', onnxruntime=labels, openvino=same)"
    check(DEPLOY, folder, programs, short=short, after=code)
    found = dict(np.load(folder / "found.npz"))
    for program, file in (("node", "labels_js.bin"), ("g++", "labels_cpp.bin")):
        if not lacking(f"{program} "):
            found[file] = np.fromfile(folder / file, np.uint8)
    predictor = atrous.Predictor(folder / "model.onnx", precision="fp32")
    expected = predictor(folder / "photo.jpg").labels
    for name, labels in found.items():  # engines differ by rounding
        assert (labels.reshape(expected.shape) == expected).mean() > 0.9999, name


def test_the_page_on_file_formats_has_every_field_of_a_record(folder):
    atrous.segment_many([folder / "photo.jpg"], folder / "model.onnx", folder / "masks")
    page = (ROOT / "docs" / "reference" / "files.md").read_text()
    table = page.partition("| field of the record")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    fields = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    record = json.loads((folder / "masks" / "photo.json").read_text())
    assert record.keys() == fields


@pytest.mark.parametrize("document", [*DOCUMENTS, *HOW_TOS])
def test_every_block_runs_or_says_why_not(document):
    text = (ROOT / document).read_text()
    assert text.count("\n```") % 2 == 0
    for block in blocks(text):
        if block.language in ("bash", "python", "javascript", "cpp"):
            named = block.code.startswith("// ")
            assert block.skipped or named or block.language in ("bash", "python"), block
        else:  # what is shown and not run must not look like a command
            words = re.findall(r"^\W*(\w+)", block.code, re.MULTILINE)
            commands = {"atrous", "python", "pip", "torchrun", "curl", "docker"} & {*words}
            assert block.skipped or not commands, block


def test_training_is_shortened_and_nothing_else():
    code = "atrous train finetune --data d --out r --minutes 5  # long\natrous data check d\n"
    expected = f"atrous train finetune --data d --out r {SHORT}  # long\natrous data check d\n"
    assert shortened(code) == expected
    assert shortened("atrous train --resume runs/mine") == "atrous train --resume runs/mine"
    assert shortened("for n in 8 16 32; do\n") == "for n in 8 32; do\n"


def test_shared_data_is_not_needed_here():
    assert all(str(SHARED) not in (ROOT / document).read_text() for document in DOCUMENTS)


def test_the_table_of_recipes_has_their_numbers():
    text = (ROOT / "docs" / "train.md").read_text()
    rows = re.findall(r"^\| `(\w+)` .*\| ([\d,]+) x (\d+), (\d+)(?:x(\d+))? \|", text, re.MULTILINE)
    assert len(rows) >= 11
    for name, steps, batch, height, width in rows:
        config = getattr(atrous.recipes, name)()
        said = (int(steps.replace(",", "")), int(batch), (int(height), int(width or height)))
        assert said == (config.steps, config.batch_size, config.crop_size), name
