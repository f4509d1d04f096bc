"""Official outputs, read back by the benchmarks' own code where it can be had."""

import json
import tarfile
import zipfile

import numpy as np
import pycocotools.mask
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official  # noqa: N813
from PIL import Image

from atrous.classes import CITYSCAPES, CITYSCAPES_LABELS, VOC
from atrous.data.opening import open_dataset
from atrous.errors import AtrousError
from atrous.evaluation.evaluator import evaluate
from atrous.evaluation.submission import predictions, write
from atrous.evaluation.views import Views


class Guesser:
    """A made-up street engine: classes from brightness in coarse blocks, right now and then."""

    classes, palette = CITYSCAPES.classes, CITYSCAPES.palette
    logits_stride = 4
    fingerprint = "e" * 64

    def coarse_logits(self, image):
        brightness = image[::4, ::4, :1].astype(np.float32) / 12
        return -np.abs(brightness - np.arange(19, dtype=np.float32))


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    """Cityscapes' folders with three made-up pictures; one evaluated class never occurs."""
    root = tmp_path_factory.mktemp("cityscapes")
    rng = np.random.default_rng(0)
    raw_ids = [label.raw_id for label in CITYSCAPES_LABELS if label.name != "train"]
    for i, size in enumerate(((48, 96), (48, 96), (40, 77))):
        blocks = rng.choice([*raw_ids, 0, 3, 4, 9, 14], (7, 9))
        mask = np.kron(blocks, np.ones((8, 11), int))[: size[0], : size[1]].astype(np.uint8)
        by_raw = {label.raw_id: k for k, label in enumerate(CITYSCAPES_LABELS)}
        train = np.vectorize(lambda v, table=by_raw: table.get(v, 5))(mask)
        wrong = np.kron(rng.integers(0, 18, (12, 20)), np.ones((4, 5), int))
        wrong = wrong[: size[0], : size[1]]
        seen = np.where(rng.random(size) < 0.7, train, np.resize(wrong, size))
        image = np.stack([seen * 12] * 3, -1).astype(np.uint8)
        stem = f"aachen_00000{i}_000019"
        for folder, name, array in (
            ("leftImg8bit/val/aachen", f"{stem}_leftImg8bit.png", image),
            ("gtFine/val/aachen", f"{stem}_gtFine_labelIds.png", mask),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / name)
    return root


def test_cityscapes_own_evaluator_agrees_exactly(streets, tmp_path, capsys):
    scores = evaluate(Guesser(), open_dataset(streets, "val"))
    pictures = sorted((streets / "leftImg8bit").rglob("*.png"))
    write("cityscapes", predictions(Guesser(), pictures, Views()), 19, tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        archive.extractall(tmp_path / "results")
    truth = sorted((streets / "gtFine").rglob("*_labelIds.png"))
    options = official.args
    options.evalInstLevelScore = options.evalPixelAccuracy = options.JSONOutput = False
    options.quiet, options.predictionPath, options.predictionWalk = True, None, None
    found = [
        next((tmp_path / "results").glob(f"{mask.name.removesuffix('_gtFine_labelIds.png')}*"))
        for mask in truth
    ]
    result = official.evaluateImgLists([str(p) for p in found], [str(p) for p in truth], options)
    theirs = result["classScores"]
    for name, ours in scores.class_iou.items():
        assert (ours is None and np.isnan(theirs[name])) or ours == theirs[name], name
    assert scores.class_iou["train"] is None or scores.class_iou["train"] == 0
    assert 0.1 < scores.mean_iou < 0.95
    assert scores.mean_iou == pytest.approx(result["averageScoreClasses"], abs=1e-15)
    assert scores.protocol["labelled_pixels"] == sum(
        np.isin(np.array(Image.open(mask)), [label.raw_id for label in CITYSCAPES_LABELS]).sum()
        for mask in truth
    )


def test_voc_archive_has_the_servers_folders_and_indexed_masks(tmp_path):
    labels = np.random.default_rng(0).integers(0, 21, (9, 14)).astype(np.uint8)
    path = tmp_path / "results.tar.gz"
    assert write("voc", [("2008_000001", labels), ("2008_000002", labels[::-1])], 21, path) == 2
    with tarfile.open(path) as archive:
        assert archive.getnames() == [
            f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png"
            for name in ("2008_000001", "2008_000002")
        ]
        mask = Image.open(archive.extractfile(archive.getnames()[0]))
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.array(mask), labels)
        assert tuple(mask.getpalette()[3:6]) == VOC.palette[1]


# pycocotools converts arrays in a way NumPy 2 warns about.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
def test_coco_stuff_results_are_read_by_pycocotools(tmp_path):
    labels = np.random.default_rng(0).integers(0, 182, (20, 31)).astype(np.uint8)
    write("coco-stuff", [("000000000139", labels)], 182, tmp_path / "results.json")
    segments = json.loads((tmp_path / "results.json").read_text())
    assert {segment["image_id"] for segment in segments} == {139}
    painted = np.zeros(labels.shape, int)
    for segment in segments:
        mask = pycocotools.mask.decode(segment["segmentation"])
        assert not painted[mask == 1].any()
        painted[mask == 1] = segment["category_id"]
    expected = np.where(labels < 91, 183, labels.astype(int) + 1)
    np.testing.assert_array_equal(painted, expected)
    assert painted.min() >= 92


@pytest.mark.parametrize(("benchmark", "classes"), [("voc", 21), ("cityscapes", 19)])
def test_another_number_of_classes_is_refused(benchmark, classes, tmp_path):
    with pytest.raises(AtrousError, match=rf"{benchmark}.*{classes}.*E-CLASSES"):
        write(benchmark, [], 7, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_coco_picture_without_a_number_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(AtrousError, match=r"cat: .*E-SUBMISSION-NAME"):
        write("coco-stuff", [("cat", np.zeros((2, 2), np.uint8))], 182, tmp_path / "x.json")
    assert not list(tmp_path.iterdir())


def test_pictures_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "x.png")
    pictures = sorted(tmp_path.rglob("*.png"))
    with pytest.raises(AtrousError, match="E-SUBMISSION-TWICE"):
        list(predictions(Guesser(), pictures, Views()))
