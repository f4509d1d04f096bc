import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "atrous"

# A file imports only from files above it. Lines of one layer do not import one another.
LAYERS = """
errors
classes
images
upsample onnx_file visualize windows png outlines
built_in exported_graph
strips vectors
engines
sources tiles
predict
batch
config
recipes
depthwise origins
layers
training.batch_norm
encoder.backbone
encoder.xception encoder.resnet encoder.mobilenet_v2 encoder.timm encoder.aspp
encoder.global_pooling
encoder.mobilenet_v3 encoder.dense_prediction_cell encoder.lr_aspp
encoder.encoder
decoder
model
classifier cost
weights.archives weights.differences weights.schema weights.tf_protos weights.transfer
weights.download weights.tf_checkpoint weights.tf_graph weights.torch_files weights.zoo
weights.tf_files weights.store weights.foreign weights.tflite
weights.tf_names weights.torch_names weights.hub
weights.tensorflow weights.imagenet
build
onnx_writer
graph
torch_engine
export
quantize
bench
loading surgery
data.dataset
data.colors data.rle data.shapes
data.masks
data.targets
data.formats.layout
data.formats.documents data.formats.class_files
data.formats.voc data.formats.cityscapes data.formats.ade20k data.formats.camvid
data.formats.folders data.formats.labelme data.formats.cvat data.formats.shards
data.formats.image_folder
data.formats.coco_files data.formats.dataset_yaml
data.formats.coco data.formats.ultralytics
data.resize data.painting data.order
data.scenery data.transforms
data.procedural data.area_crop
data.opening
data.cache
data.loader
data.doctor.jpeg data.doctor.findings data.doctor.proposals
data.doctor.measure
data.doctor.survey data.doctor.duplicates
data.doctor.files data.doctor.labels data.doctor.history
data.doctor.diagnosis
data.show
data.doctor.report
metrics
evaluation.classification evaluation.boundary evaluation.uncertainty evaluation.class_matching
evaluation.scores evaluation.networks
evaluation.multiscale
evaluation.evaluator
evaluation.gallery evaluation.charts evaluation.submission
evaluation.report
loss optim checkpoint training.allocation training.randomness training.distributed
training.learner
training.guard training.interruption training.run_folder training.starting
training.progress training.planning training.tensorboard training.validation
training.loop
cli.options
cli.predict cli.models cli.convert cli.export cli.data cli.train cli.evaluate cli.submit cli.bench
cli.__main__
""".strip().splitlines()

# Imports inside functions that may point downwards: the doors between the halves.
DOORS = {
    "errors": set(),
    "sources": {"loading", "torch_engine", "model"},
    "predict": {"model"},  # types only
    "cli.data": {"*"},
    "weights.zoo": {"weights.download"},  # needs the train extra; the table does not
}


def module_name(path: Path) -> str:
    relative = path.relative_to(PACKAGE).with_suffix("")
    return ".".join(relative.parts)


SOURCES = {module_name(p): p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py"}
RANK = {name: rank for rank, line in enumerate(LAYERS) for name in line.split()}


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


def test_every_source_file_has_its_layer():
    assert set(SOURCES) == set(RANK)


@pytest.mark.parametrize("name", SOURCES)
def test_files_import_only_from_layers_above(name):
    for imported, at_top in imports(SOURCES[name]):
        doors = set() if at_top else DOORS.get(name, set())
        allowed = RANK[imported] < RANK[name] or imported in doors or "*" in doors
        assert allowed, f"atrous/{name} imports {imported}"


def test_every_source_file_or_its_folder_is_in_the_architecture_document():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    paths = [path.relative_to(PACKAGE) for path in SOURCES.values()]
    missing = [p for p in paths if f"`{p}`" not in text and f"`{p.parent}/`" not in text]
    assert not missing


def test_fidelity_table_names_tests_that_exist():
    text = (ROOT / "docs" / "paper.md").read_text()
    tests = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named
    assert named <= tests
