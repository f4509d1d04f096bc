"""Pictures of four 16-bit channels through everything: check, train, evaluate, export, predict."""

import json
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import atrous
from atrous import create_model, save
from atrous.architecture import Architecture
from atrous.cli.data import check
from atrous.cli.predict import predict
from atrous.errors import AtrousError
from atrous.images.raster import Raster
from atrous.predict import tiles
from atrous.predict.predictor import Predictor
from atrous.predict.tiled import TiledSegmentation
from atrous.training import inputs
from atrous.training.config import TrainConfig, read_config
from atrous.training.loop import train
from tests.bands import NAMES, Fields, field, write_fields, write_geotiff

TINY = Architecture(
    "mobilenet_v2", depth_multiplier=0.1, atrous_rates=(), refine=((3, 16),), reduced_channels=8,
    output_stride=8,
)  # fmt: skip


def config(**changes):
    short = {
        "recipe": "fields", "network": TINY, "crop_size": (32, 32), "scale_range": (1.0, 1.0),
        "steps": 2, "batch_size": 4, "base_lr": 0.02, "optimizer": "adamw", "evaluate_every": 0,
        "batch_norm_momentum": 0.2, "samples": 1, "device": "cpu",
    }  # fmt: skip
    return TrainConfig(**(short | changes))


@pytest.fixture(
    scope="module", params=["a file a channel", pytest.param("GeoTIFF", marks=pytest.mark.slow)]
)
def run(request, tmp_path_factory):
    """A data set, a run of two steps on it, and the exported model."""
    files = request.param == "a file a channel"
    if not files:
        pytest.importorskip("rasterio")
    root = tmp_path_factory.mktemp("fields")
    data = write_fields(root / "data", files=files)
    train(config(data=str(data), photometric=0.5), root / "run")
    atrous.export(atrous.load(root / "run"), root / "model.onnx")
    return root, data, "0_red.tif" if files else "0.tif"


def test_the_normalisation_is_measured_printed_and_kept_in_the_model(run):
    root, data, _ = run
    pixels = np.concatenate([field(5, index)[0].reshape(-1, 4) for index in range(6)])
    said = CliRunner().invoke(check, [str(data), "--workers", "1"], catch_exceptions=False).stdout
    line = next(line for line in said.splitlines() if "normalize:" in line)
    for model in (atrous.load(root / "run"), atrous.load(root / "model.onnx")):
        bands = model.bands
        np.testing.assert_allclose(bands.mean, pixels.mean(0), rtol=1e-4)
        np.testing.assert_allclose(bands.std, pixels.std(0), rtol=1e-4)
        assert (bands.names, bands.dtype) == (NAMES, "uint16")
        assert [round(v, 2) for v in bands.mean] == pytest.approx(
            json.loads(line.split("mean:")[1].split(", std")[0])
        )
    assert "4 channels of uint16" in (root / "run" / "model_card.md").read_text()


def test_the_yaml_may_give_the_normalisation(run, tmp_path):
    _, data, _ = run
    copy = data.with_name("given.yaml")
    copy.write_text(data.read_text() + "normalize: {low: [0, 0, 0, 0], high: [10, 10, 10, 30]}\n")
    val = atrous.data.open_dataset(copy, "val")
    assert (val.bands.mean, val.bands.std) == ((5, 5, 5, 15), (5, 5, 5, 15))


def test_all_engines_label_files_and_arrays_alike(run):
    root, data, first = run
    image, target = atrous.data.open_dataset(data, "val")[0]
    assert np.array_equal(image, field(3, 0)[0])
    assert np.array_equal(target, field(3, 0)[1])
    by_torch, exported = Predictor(atrous.load(root / "run")), Predictor(root / "model.onnx")
    expected = by_torch(image)
    for predictor in (by_torch, exported):
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        for source in (image, tensor, data.parent / "images/val" / first):
            found = predictor(source)
            assert (found.labels == expected.labels).mean() > 0.99
            np.testing.assert_array_equal(found.image, expected.image)
    scores = [atrous.evaluate(m, atrous.data.open_dataset(data, "val"), trimap=None) for m in
              (atrous.load(root / "run"), root / "model.onnx")]  # fmt: skip
    assert scores[0].mean_iou == pytest.approx(scores[1].mean_iou, abs=0.01)


def test_pictures_and_data_of_other_channels_are_refused(run):
    root, data, _ = run
    predictor = Predictor(root / "model.onnx")
    for image in (np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9, 4), np.uint8)):
        with pytest.raises(AtrousError) as caught:
            predictor(image)
        assert caught.value.code == "E-IMAGE-BANDS"
    with pytest.raises(AtrousError) as caught:
        atrous.evaluate("voc", atrous.data.open_dataset(data, "val"), trimap=None)
    assert caught.value.code == "E-DATA-CHANNELS"


def test_a_run_resumes_with_the_normalisation_in_its_config(run, monkeypatch):
    root, data, _ = run
    kept = read_config(root / "run/config.json")
    monkeypatch.setattr(inputs, "measured", lambda data: pytest.fail("measured again"))
    assert inputs.with_channels(kept, atrous.data.open_dataset(data, "train")) == kept


@pytest.mark.parametrize("tiled", [False, True])
def test_labels_lie_where_the_picture_lies(tmp_path, tiled):
    rasterio = pytest.importorskip("rasterio")
    image, _ = field(9, 0, side=96)
    image[40:60, 10:30] = 0  # NoData
    picture = write_geotiff(tmp_path / "a.tif", image)
    torch.manual_seed(0)
    model = create_model(
        **{**vars(TINY), "num_classes": 3, "in_channels": 4, "channels": NAMES, "dtype": "uint16",
           "mean": (900.0,) * 4, "std": (300.0,) * 4}
    ).eval()  # fmt: skip
    predictor = Predictor(model)
    whole = predictor(picture)
    if tiled:
        raster = Raster(picture)
        grid = tiles.plan(predictor.engine, raster, 2**40)
        result = TiledSegmentation(
            predictor.engine, raster, grid, place=raster.place, no_data=raster.no_data
        )
    else:
        result = whole
    record = result.save(tmp_path / "out", "a")
    assert record["labels"] == str(tmp_path / "out" / "a.labels.tif")
    with rasterio.open(record["labels"]) as labels, rasterio.open(picture) as before:
        assert (labels.crs, labels.transform, labels.shape) == (
            before.crs, before.transform, before.shape,
        )  # fmt: skip
        profile = labels.profile
        assert (profile["nodata"], profile["tiled"], profile["compress"]) == (255, True, "deflate")
        found = labels.read(1)
    assert (found[40:60, 10:30] == 255).all()
    assert (found != 255).sum() == 96 * 96 - 400
    assert (found == whole.labels).mean() > 0.99
    assert result.areas["unknown"] == pytest.approx(400 / 96**2)


def test_polygons_are_in_map_units_and_cover_what_the_labels_cover(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    pyogrio = pytest.importorskip("pyogrio")
    from rasterio.features import rasterize

    torch.manual_seed(1)
    model = create_model(**{**vars(TINY), "num_classes": 3}).eval()
    atrous.export(model, tmp_path / "model.onnx")
    rgb = (field(9, 1, side=64)[0][..., :3] // 8).clip(1, 255).astype(np.uint8)
    (tmp_path / "in").mkdir()
    write_geotiff(tmp_path / "in/a.tif", rgb)
    Image.fromarray(rgb).save(tmp_path / "in/b.png")
    words = [str(tmp_path / "in"), "--model", str(tmp_path / "model.onnx"), "--out",
             str(tmp_path / "out"), "--polygons", str(tmp_path / "out.geojson")]  # fmt: skip
    for _ in range(2):  # the second time, finished output is kept
        done = CliRunner().invoke(predict, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert "kept" in done.stdout
    collection = json.loads((tmp_path / "out.geojson").read_text())
    assert collection["crs"]["properties"]["name"] == "EPSG:32633"
    with rasterio.open(tmp_path / "out/a.labels.tif") as file:
        labels = file.read(1)
        shapes = [(f["geometry"], f["properties"]["value"]) for f in collection["features"]]
        drawn = rasterize(shapes, labels.shape, fill=255, transform=file.transform)
    assert np.array_equal(drawn, labels)
    done = CliRunner().invoke(predict, [*words[:-1], str(tmp_path / "new/out.gpkg")])
    assert done.exit_code == 0, done.output
    info = pyogrio.read_info(tmp_path / "new/out.gpkg")
    assert (info["crs"], info["features"]) == ("EPSG:32633", len(shapes))
    _, _, outlines, (names, values, inputs) = pyogrio.raw.read(tmp_path / "new/out.gpkg")
    table = sqlite3.connect(tmp_path / "new/out.gpkg").execute("select class, value from labels")
    assert table.fetchall() == list(zip(names, values, strict=True))
    assert sorted(values) == sorted(value for _, value in shapes)
    assert set(inputs) == {str(tmp_path / "in/a.tif")}
    assert len(outlines) == len(shapes)
    assert not list(tmp_path.rglob(".tmp-*"))
    done = CliRunner().invoke(predict, [*words[:-1], str(tmp_path / "out.shp")])
    assert isinstance(done.exception, AtrousError)
    assert done.exception.code == "E-OUT"


NIR_TRAINING = config(steps=100, batch_size=8, weight_decay=1e-4, samples=0)


@pytest.mark.slow
def test_near_infrared_is_learned_and_colours_alone_are_not_enough(tmp_path):
    parts = {names: (Fields(24, 1, names), Fields(8, 2, names)) for names in (NAMES, NAMES[:3])}
    found = [
        train(NIR_TRAINING, tmp_path / str(len(names)), data=data).best
        for names, data in parts.items()
    ]
    assert found[0]["pixel_accuracy"] > 0.95
    assert found[0]["mean_iou"] > 0.88
    assert found[1]["mean_iou"] < 0.6


def test_weights_of_photographs_start_channels_by_name_or_by_the_mean(tmp_path):
    torch.manual_seed(0)
    photographs = create_model(**{**vars(TINY), "num_classes": 2}).eval()
    save(photographs, tmp_path / "rgb.safetensors")
    channels = ("nir", "blue", "green", "red")
    model = create_model(
        **{**vars(TINY), "num_classes": 2, "in_channels": 4, "channels": channels},
        pretrained=tmp_path / "rgb.safetensors",
    ).eval()
    ours, theirs = (m.encoder.backbone.conv.conv.weight for m in (model, photographs))
    assert torch.equal(ours[:, 0], theirs.mean(1))
    assert torch.equal(ours[:, [3, 2, 1]], theirs)
    with torch.no_grad():
        ours[:, 0] = 0
    images = torch.randint(0, 256, (1, 4, 65, 65), dtype=torch.uint8)
    with torch.inference_mode():
        found = model.encoder.backbone(model.normalize(images))[0]
        expected = photographs.encoder.backbone(photographs.normalize(images[:, [3, 2, 1]]))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_whole_model_of_photographs_starts_a_run_on_four_channels(tmp_path):
    torch.manual_seed(0)
    save(create_model(**{**vars(TINY), "num_classes": 2}).eval(), tmp_path / "rgb.safetensors")
    data = (Fields(4, 1), Fields(2, 2))
    found = train(config(weights=str(tmp_path / "rgb.safetensors")), tmp_path / "run", data=data)
    assert atrous.load(found.out).bands.names == NAMES


def test_large_scenes_are_cut_into_parts_that_are_read_by_windows(tmp_path, monkeypatch):
    pytest.importorskip("rasterio")
    from atrous.data.formats import layout

    monkeypatch.setattr(layout, "PART", 48)
    data = write_fields(tmp_path / "data", files=False, counts=(1, 1))
    image, target = field(5, 0, side=96)
    write_geotiff(data.parent / "images/train/0.tif", image[..., [2, 1, 0, 3]])
    Image.fromarray(target).save(data.parent / "masks/train/0.png")
    parts = atrous.data.open_dataset(data, "train")
    assert len(parts) == len({*parts.names}) == 4
    for index, (top, left) in enumerate([(0, 0), (0, 48), (48, 0), (48, 48)]):
        place = np.s_[top : top + 48, left : left + 48]
        assert np.array_equal(parts[index].image, image[place])
        assert np.array_equal(parts[index].target, target[place])


def test_the_doctor_says_where_pictures_lie_and_which_splits_overlap(tmp_path):
    pytest.importorskip("rasterio")
    data = write_fields(tmp_path / "data", files=False)
    found = CliRunner().invoke(check, [str(data), "--workers", "1", "--json"]).stdout
    codes = {finding["code"] for finding in json.loads(found)["findings"]}
    assert "N-DATA-GROUND" in codes
    assert "W-DATA-GROUND-LEAK" not in codes
    image, _ = field(3, 1)
    write_geotiff(data.parent / "images/val/1.tif", image, at=("train", 3))
    found = CliRunner().invoke(check, [str(data), "--workers", "1", "--json"]).stdout
    leak = next(f for f in json.loads(found)["findings"] if f["code"] == "W-DATA-GROUND-LEAK")
    assert leak["where"] == ["images/train/3.tif = images/val/1.tif"]


PEAK = """
import atexit, resource, sys
from atrous.cli import main
unit = 1 if sys.platform == "darwin" else 1024
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
atexit.register(lambda: print("peak", peak(), file=sys.stderr))
main()
"""


@pytest.mark.slow
def test_a_scene_of_twenty_thousand_pixels_a_side_stays_within_its_memory(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    from affine import Affine

    side, scene = 20_000, tmp_path / "scene.tif"
    constant = np.full((4, 512, 512), 900, np.uint16)
    with rasterio.open(
        scene, "w", driver="GTiff", height=side, width=side, count=4, dtype="uint16",
        crs="EPSG:32633", transform=Affine(10, 0, 500_000, 0, -10, 5_000_000), tiled=True,
        blockxsize=512, blockysize=512, compress="deflate", sparse_ok=True, nodata=0,
    ) as file:  # fmt: skip
        for top in range(0, side, 512):
            for left in range(0, side, 512):
                height, width = min(512, side - top), min(512, side - left)
                window = rasterio.windows.Window(left, top, width, height)
                file.write(constant[:, :height, :width], window=window)
        tile = np.moveaxis(field(1, 1, side=512)[0], 2, 0)
        file.write(tile, window=rasterio.windows.Window(7000, 9000, 512, 512))
    torch.manual_seed(0)
    small = {**vars(TINY), "num_classes": 2, "in_channels": 4, "channels": NAMES,
             "dtype": "uint16", "mean": (900.0,) * 4, "std": (300.0,) * 4,
             "image_pooling": False, "decoder": False, "output_stride": 16}  # fmt: skip
    atrous.export(create_model(**small).eval(), tmp_path / "model.onnx")
    words = [scene, "--model", tmp_path / "model.onnx", "--out", tmp_path / "out"]
    command = [sys.executable, "-c", PEAK, "predict", *map(str, words), "--memory", "1GB"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stderr.rsplit("peak ", 1)[1]) < 1e9
    with rasterio.open(tmp_path / "out/scene.labels.tif") as labels:
        assert labels.shape == (side, side)
        assert labels.transform == Affine(10, 0, 500_000, 0, -10, 5_000_000)
