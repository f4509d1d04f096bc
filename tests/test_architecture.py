import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "atrous"

# A file or folder imports only from those above it. Within a folder, imports never form a circle.
LAYERS = (
    "errors",
    "schema",
    "classes",
    "images",
    "engines",
    "predict",
    "serve",
    "layers",
    "encoder",
    "decoder",
    "architecture",
    "model",
    "classifier",
    "cost",
    "build",
    "weights",
    "loading",
    "data",
    "evaluation",
    "training",
    "export",
    "recipes",
    "cli",
)

# Doors: imports inside functions that may point down. Each is opened only when it is needed.
DOORS = {
    "engines": {"loading", "model", "predict", "export", "cost"},  # torch models; bench
    "predict": {"model"},  # types only
    "build": {"weights"},  # pretrained=
    "weights": {"loading"},
}
# Torch may be missing here.
RUNTIME = ("errors", "schema", "classes", "images", "engines", "predict", "serve")
# Files that no runtime file imports at its top: they run torch models, and so know the network.
LATE = {"engines.torch", "engines.bench"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


SOURCES = {module_name(p): p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py"}


def imports(path: Path):
    """Yields (module of ours, whether at the top of the file) for each import."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("atrous"):
            continue
        base = (node.module or "").removeprefix("atrous").removeprefix(".")
        for alias in node.names:
            name = f"{base}.{alias.name}".strip(".")
            found = name if name in SOURCES else base
            if found in SOURCES:
                yield found, id(node) in top


def layer(name: str) -> str:
    return name.split(".")[0]


def test_every_source_file_has_its_layer():
    assert {layer(name) for name in SOURCES} <= set(LAYERS)


def test_files_import_only_from_layers_above():
    wrong = set()
    for name, path in SOURCES.items():
        here = layer(name)
        for imported, at_top in imports(path):
            there = layer(imported)
            door = not at_top and there in DOORS.get(here, set())
            door = door or name in LATE
            if at_top and imported in LATE and name not in LATE and here in RUNTIME:
                wrong.add((name, imported))
            if not (there == here or LAYERS.index(there) < LAYERS.index(here) or door):
                wrong.add((name, imported))
    assert wrong == set()


@pytest.mark.parametrize("folder", [name for name in LAYERS if (PACKAGE / name).is_dir()])
def test_imports_within_a_folder_form_no_circle(folder):
    inside = {
        name: {other for other, at_top in imports(path) if at_top and layer(other) == folder}
        for name, path in SOURCES.items()
        if layer(name) == folder
    }
    assert list(TopologicalSorter(inside).static_order())


def test_the_top_of_the_package_stays_small():
    assert len([p for p in PACKAGE.iterdir() if p.name != "__pycache__"]) <= 26


@pytest.mark.parametrize("name", SOURCES)
def test_no_file_is_long(name):
    assert len(SOURCES[name].read_text().splitlines()) <= 400


@pytest.mark.parametrize("document", ["docs/paper.md", "tests/README.md"])
def test_tables_name_tests_that_exist(document):
    text = (ROOT / document).read_text()
    tests = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named
    assert named <= tests


def test_every_id_of_a_test_is_explained_and_every_explained_id_has_a_test():
    readme = (ROOT / "tests" / "README.md").read_text()
    rows = re.findall(r"^\| ([WDTPS]\d\d) \|.*\| ([^|]*) \|$", readme, flags=re.MULTILINE)
    explained = {(name, path) for name, files in rows for path in re.findall(r"`([^`]+)`", files)}
    used = {
        (name, str(path.relative_to(ROOT / "tests")))
        for path in (ROOT / "tests").rglob("test_*.py")
        for names in re.findall(r"^def test_((?:[WDTPS]\d\d_)+)", path.read_text(), re.MULTILINE)
        for name in names.strip("_").split("_")
    }
    assert explained == used
