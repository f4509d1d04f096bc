"""The page as a folder of static files."""

import json
import re
from pathlib import Path

import pytest

from atrous import cli
from atrous.engines import built_in
from atrous.errors import AtrousError
from atrous.serve.site import PAGE, page_files, write_site

NAME = built_in.names()[0]


def test_the_folder_holds_the_page_and_its_models(tmp_path: Path) -> None:
    copy = tmp_path / "my model #2.onnx"
    copy.write_bytes((built_in.FOLDER / f"{NAME}.onnx").read_bytes())
    written = write_site(tmp_path / "site", [NAME, copy])
    files = [path for path in (tmp_path / "site").rglob("*") if path.is_file()]
    assert written["models"] == [NAME, "my model #2"]
    assert written["files"] == len(files) == len(page_files()) + 3
    assert written["bytes"] == sum(path.stat().st_size for path in files)
    models = json.loads((tmp_path / "site" / "models.json").read_text())
    header = built_in.header(NAME)
    assert models[0]["classes"] == list(header.classes)
    assert models[0]["licence"] == header.licence
    assert models[1]["file"] == "models/my%20model%20%232.onnx"
    assert (tmp_path / "site" / "models" / "my model #2.onnx").read_bytes() == copy.read_bytes()


def test_the_page_is_told_that_no_server_is_behind_it(tmp_path: Path) -> None:
    write_site(tmp_path, [NAME])
    mark = 'data-served-by="files"'
    assert mark in (tmp_path / "index.html").read_text()
    assert mark not in (PAGE / "index.html").read_text()


def test_a_second_time_replaces_files_and_leaves_others(tmp_path: Path) -> None:
    (tmp_path / "CNAME").write_text("example.org")
    (tmp_path / "page.js").write_text("old")
    write_site(tmp_path, [NAME])
    assert (tmp_path / "CNAME").read_text() == "example.org"
    assert (tmp_path / "page.js").read_bytes() == (PAGE / "page.js").read_bytes()


def test_models_that_a_browser_cannot_run_are_refused(tmp_path: Path) -> None:
    for models, code in (
        (["nothing"], "E-MODEL-KIND"),
        ([tmp_path], "E-MODEL-KIND"),
        ([NAME, built_in.FOLDER / f"{NAME}.onnx"], "E-OPTIONS"),
    ):
        with pytest.raises(AtrousError) as caught:
            write_site(tmp_path / "site", models)
        assert caught.value.code == code
    assert not (tmp_path / "site").exists()


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["page", "--out", str(tmp_path / "a"), "--model", NAME, "--json"])
    assert json.loads(capsys.readouterr().out)["models"] == [NAME]
    cli.main(["page", "--out", str(tmp_path / "b")])
    assert f"models {built_in.DEFAULT}" in capsys.readouterr().out


def test_no_file_of_the_page_names_another_host() -> None:
    """Links people click are no requests; the paper is the only one."""
    for name, path in page_files().items():
        if path.suffix in (".html", ".css", ".js") and not name.startswith("onnxruntime"):
            found = set(re.findall(r"""["'(](?:https?:)?//[^"')\s]+""", path.read_text()))
            assert found <= {'"https://arxiv.org/abs/1802.02611', '"http://www.w3.org/2000/svg'}, (
                name
            )


def test_the_runtime_for_browsers_is_at_most_5_megabytes() -> None:
    sizes = [p.stat().st_size for n, p in page_files().items() if n.startswith("onnxruntime")]
    assert sum(sizes) <= 5_000_000


def test_every_module_of_the_page_is_short_enough_to_read() -> None:
    for name, path in page_files().items():
        if path.suffix in (".html", ".css", ".js"):
            assert len(path.read_text().splitlines()) <= 400, name
