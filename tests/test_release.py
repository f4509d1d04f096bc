"""What `scripts/check_release` looks at; the builds and installations are its own to make."""

import io
import json
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

import atrous

ROOT = Path(__file__).parents[1]
CORE, GEO, TRAIN = frozenset(), frozenset({"geo"}), frozenset({"train", "geo"})


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return import_module("release_parts")


@pytest.mark.parametrize(
    ("licence", "extras", "allowed"),
    [
        ("MIT", CORE, True),
        ("Apache-2.0 AND MPL-2.0", CORE, True),
        ("GPL-3.0-or-later", GEO, False),
        ("AGPL-3.0-only AND MIT", TRAIN, False),
        ("GNU General Public License v3 (GPLv3)", GEO, False),
        ("GNU Affero General Public License v3", GEO, False),
        ("MIT OR GPL-2.0-only", CORE, True),
        ("BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1", CORE, True),
        ("LGPL-3.0-only", GEO, True),
        ("LGPL-3.0-only", TRAIN, False),
        ("GNU Lesser General Public License v2 or later (LGPLv2+)", CORE, False),
        ("GNU Lesser General Public License v2 or later (LGPLv2+)", GEO, True),
    ],
)
def test_licences_of_dependencies_are_permissive(parts, licence, extras, allowed):
    assert parts.permitted(licence, extras) is allowed


def wheel(parts, *, leave_out="", add=(), text="does not cover the weight files"):
    """A wheel that is as it should be, but for one change."""
    files = dict.fromkeys((*parts.PAGE, *parts.PICTURES, "atrous/trained/one.onnx", *add), "")
    files |= {f"a.dist-info/licenses/{name}": "atrous/trained/one.onnx" for name in parts.LICENCES}
    files["a.dist-info/licenses/LICENSE-WEIGHTS"] = text
    files["a.dist-info/METADATA"] = "License-Expression: Apache-2.0 AND LicenseRef-weights"
    files.pop(leave_out, None)
    archive = zipfile.ZipFile(io.BytesIO(), "w")
    for name, content in files.items():
        archive.writestr(name, content)
    return archive


def test_a_whole_wheel_has_no_faults(parts):
    assert parts.faults_of_wheel(wheel(parts), 1000) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"leave_out": "atrous/trained/one.onnx"}, "no model"),
        ({"leave_out": "atrous/serve/page/index.html"}, "index.html"),
        ({"leave_out": "a.dist-info/licenses/NOTICE"}, "NOTICE"),
        ({"add": ["atrous/trained/two.onnx"]}, "no terms of atrous/trained/two.onnx"),
        ({"add": ["tests/test_x.py"]}, "the wheel has tests/test_x.py"),
        ({"add": ["atrous/serve/page/examples/mine.JPG"]}, "mine.JPG"),
        ({"text": "Apache for everything"}, "leaves the weights out"),
    ],
)
def test_a_fault_of_a_wheel_is_found(parts, change, fault):
    assert any(fault in line for line in parts.faults_of_wheel(wheel(parts, **change), 1000))


def test_a_wheel_above_40_megabytes_is_too_large(parts):
    assert "40.1 MB" in parts.faults_of_wheel(wheel(parts), 40_100_000)[0]


def test_versions_of_this_checkout_agree(parts):
    assert parts.faults_of_version(ROOT, final=False) == []


def test_every_model_in_the_package_has_its_terms_in_the_notice():
    notice = (ROOT / "NOTICE").read_text()
    for model in (ROOT / "atrous" / "trained").glob("*.onnx"):
        assert model.relative_to(ROOT).as_posix() in notice


def test_the_readme_has_commands_for_the_release_check(parts):
    blocks = parts.runtime_blocks((ROOT / "README.md").read_text())
    assert [language for language, _ in blocks] == ["bash", "python"]
    assert "atrous predict photo.jpg" in blocks[0][1]
    assert "pip" not in blocks[0][1]


def test_the_bill_of_materials_names_every_dependency_once(parts):
    graph = parts.dependencies()
    bill = json.loads(parts.bill_of_materials(graph))
    names = [entry["name"] for entry in bill["components"]]
    assert {"numpy", "pillow", "click", "openvino"} <= set(names)
    assert len(names) == len(set(names))
    known = {entry["bom-ref"] for entry in [*bill["components"], bill["metadata"]["component"]]}
    used = {ref for entry in bill["dependencies"] for ref in entry["dependsOn"]}
    assert used <= known
    scopes = {entry["name"]: entry["scope"] for entry in bill["components"]}
    assert (scopes["numpy"], scopes["torch"]) == ("required", "optional")


@pytest.mark.slow
def test_two_releases_of_one_run_are_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    release = import_module("release_model")
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder / "val").mkdir(parents=True)
    painted = atrous.data.scenes(0, 3, size=(65, 97))
    for index, (image, target) in enumerate(painted):
        for folder, array in (("images", image), ("masks", target)):
            Image.fromarray(array).save(tmp_path / "data" / folder / "val" / f"{index}.png")
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(painted.classes))
    (tmp_path / "data/data.yaml").write_text(f"val: images/val\nmasks_dir: masks\nnames:\n{names}")
    model = atrous.create_model("mobilenet_v2", num_classes=len(painted.classes))
    model.classes, model.palette = painted.classes, painted.palette
    atrous.save(model.eval(), tmp_path / "run.safetensors")
    data = f"{tmp_path / 'data'}:val"
    arguments = ["street", str(tmp_path / "run.safetensors"), "--calibrate", data]
    arguments += ["--measure", data, "--temperature", data]
    written = []
    for number in range(2):
        out = tmp_path / str(number)
        monkeypatch.setattr(release, "TRAINED", out)
        monkeypatch.setattr(release, "CARDS", out)
        monkeypatch.setattr("sys.argv", ["release_model.py", *arguments])
        release.main()
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert set(written[0]) == {"street.onnx", "street.int8.onnx", "street.md"}
    assert written[0] == written[1]
