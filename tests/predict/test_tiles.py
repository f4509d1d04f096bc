"""Tiles give what the whole picture gives, in bounded memory."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from atrous import create_model, from_tflite
from atrous.engines.openvino import ExportedEngine
from atrous.engines.protocol import Engine
from atrous.engines.torch import TorchEngine
from atrous.errors import AtrousError
from atrous.export.export import as_file, describe
from atrous.export.graph import write_graph
from atrous.images.raster import PixelsInMemory
from atrous.images.tiff_windows import open_tiff
from atrous.model import DeepLabV3Plus
from atrous.predict import tiles
from atrous.predict.batch import segment_files
from atrous.predict.find import find_pictures
from atrous.predict.predictor import Predictor
from atrous.predict.tiled import TiledSegmentation
from tests.fake_engine import BrightestChannel
from tests.networks import random_network
from tests.tiffs import write_tiled


@cache
def scenery(height: int, width: int) -> np.ndarray:
    """Returns smooth shapes of many sizes, so that networks see something everywhere."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    picture = np.full((height, width, 3), 128, np.float32)
    for seed, scale in enumerate((7, 23, 61, 170)):
        phases = np.random.default_rng(seed).uniform(0.6, 1.4, (3, 2))
        for channel, (down, across) in enumerate(phases):
            picture[..., channel] += 30 * np.sin(rows / scale * down + columns / scale * across)
            picture[..., channel] += 15 * np.cos(columns / scale - rows / scale * across)
    return np.clip(picture, 0, 255).astype(np.uint8)


def joined(engine: Engine, picture: np.ndarray, grid: tiles.Grid) -> np.ndarray:
    """Returns the logits of all parts, (h, w, K)."""
    stride = engine.logits_stride
    size = [-(-side // stride) for side in picture.shape[:2]]
    result = np.full((*size, len(engine.classes)), np.nan, np.float32)
    for part in tiles.parts(engine, PixelsInMemory(picture, copies=2), grid):
        top, left = part.top // stride, part.left // stride
        height, width = (-(-side // stride) for side in part.image.shape[:2])
        result[top : top + height, left : left + width] = part.coarse[:height, :width]
    return result


@pytest.mark.parametrize("side", [200, 513, 1000, 2048, 4097, 20_000])
@pytest.mark.parametrize("margin", [32, 320, 576])
def test_tiles_cover_a_side_and_overlap_by_margins_and_ramp(side: int, margin: int) -> None:
    for axis in tiles._axes(side, margin):
        assert len(axis.starts) == axis.number
        assert axis.starts[0] == axis.cuts[0] == 0
        assert axis.starts[-1] + axis.length == axis.cuts[-1] == side
        assert all(start % tiles.ALIGNMENT == 0 for start in axis.starts + axis.cuts[:-1])
        assert all(after - before >= tiles.RAMP for before, after in pairwise(axis.cuts))
        for start, before, cut in zip(axis.starts[1:], axis.starts, axis.cuts[1:-1], strict=False):
            assert cut - start >= margin
            assert before + axis.length - (cut + tiles.RAMP) >= margin


@pytest.mark.parametrize("margin", [32, 320])
def test_cheapest_grid_is_cheapest(margin: int) -> None:
    found = tiles.cheapest_grid((1500, 2300), margin, 1_200_000)
    assert found is not None
    grids = [
        tiles.Grid(rows, columns, margin)
        for rows in tiles._axes(1500, margin)
        for columns in tiles._axes(2300, margin)
        if rows.length * columns.length <= 1_200_000
    ]
    assert found.pixels == min(grid.pixels for grid in grids)


class Square:
    """A picture of which only the size matters."""

    size = (4096, 4096)
    bytes_held = 0

    def read(self, *window: int) -> np.ndarray:
        raise AssertionError("not looked at")


SQUARE = Square()


class Forgetful(BrightestChannel):
    """An engine whose costs a test sets."""

    def __init__(self, reach: int, bytes_per_pixel: int) -> None:
        super().__init__()
        self.reach, self.bytes_per_pixel = reach, bytes_per_pixel


def test_overlap_is_the_reach_where_that_is_affordable() -> None:
    engine = Forgetful(reach=300, bytes_per_pixel=100)
    grid = tiles.plan(engine, SQUARE, 600_000_000)
    assert grid.margin == 320
    assert grid.rows.length * grid.columns.length * 100 < 600_000_000
    small = tiles.plan(engine, SQUARE, 160_000_000)
    assert small.margin < 300
    assert small.pixels <= tiles.MOST_WORK * 4096**2


def test_too_little_memory_is_refused_with_how_much_it_takes() -> None:
    engine = Forgetful(reach=300, bytes_per_pixel=400)
    with pytest.raises(AtrousError, match="E-MEMORY") as caught:
        tiles.plan(engine, SQUARE, 50_000_000)
    assert caught.value.code == "E-MEMORY"
    needed = int(caught.value.fix.split()[3])
    assert tiles.plan(engine, SQUARE, needed * 10**6).pixels > 0
    with pytest.raises(AtrousError):
        tiles.plan(engine, SQUARE, (needed - 2) * 10**6)


def exported(model: DeepLabV3Plus, folder: Path) -> ExportedEngine:
    graph = write_graph(model)
    onnx.save(as_file(graph, describe(model, graph, size=None)), folder / "model.onnx")
    return ExportedEngine(folder / "model.onnx", keep_compiled=False)


def network(**options: object) -> DeepLabV3Plus:
    torch.manual_seed(0)
    small = {"depth_multiplier": 0.25, "atrous_rates": (), "refine": ((3, 32),)}
    options = {"num_classes": 5, **small, **options}
    return random_network("mobilenet_v2", **options)


def test_networks_that_cannot_be_followed_are_refused() -> None:
    with pytest.raises(AtrousError, match="E-TILES") as caught:
        _ = TorchEngine(create_model("timm/convnext_atto", num_classes=2)).reach
    assert caught.value.code == "E-TILES"


ENGINES: dict[str, Callable[[DeepLabV3Plus, Path], Engine]] = {
    "exported": exported,
    "torch": lambda model, _: TorchEngine(model),
}


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    ("axis", "options"),
    [
        (0, {"image_pooling": False}),
        (1, {"image_pooling": True}),
        (1, {"image_pooling": False, "output_stride": 8, "decoder": False}),
        (0, {"image_pooling": True, "output_stride": 4, "decoder_strides": (8,)}),
    ],
)
def test_logits_of_tiles_are_those_of_the_whole_picture(
    kind: str, axis: int, options: dict[str, object], tmp_path: Path
) -> None:
    engine = ENGINES[kind](network(**options), tmp_path)
    size = (990, 67) if axis == 0 else (67, 1003)
    margin = tiles._aligned(engine.reach)
    rows, columns = (list(tiles._axes(side, margin))[-1] for side in size)
    assert (rows, columns)[axis].number > 1
    whole = engine.coarse_logits(scenery(*size))
    found = joined(engine, scenery(*size), tiles.Grid(rows, columns, margin))
    # Image pooling sums in another order.
    assert np.abs(found - whole).max() <= 1e-4 * whole.std()


def test_pooled_features_are_the_mean_over_the_whole_picture(tmp_path: Path) -> None:
    model = network()
    engine = exported(model, tmp_path)
    image = scenery(67, 1003)
    whole = engine.high_level(image)
    assert whole is not None
    margin = tiles._aligned(engine.reach)
    grid = tiles.Grid(*(list(tiles._axes(side, margin))[-1] for side in image.shape[:2]), margin)
    picture = PixelsInMemory(image, copies=2)
    found = tiles.pooled_features(engine, picture, grid)
    expected = whole.mean((0, 1))
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(whole.std()))
    assert (
        tiles.pooled_features(exported(network(image_pooling=False), tmp_path), picture, grid)
        is None
    )


def test_smaller_overlaps_pass_smoothly_from_tile_to_tile() -> None:
    class TileMean(BrightestChannel):
        def coarse_logits(self, image: np.ndarray) -> np.ndarray:
            # As far from local as a network can be: every tile has logits of its own.
            return np.broadcast_to(image.mean((0, 1)), (*image[::4, ::4].shape[:2], 3)).copy()

    image = scenery(600, 900)
    grid = tiles.Grid(*(list(tiles._axes(side, 32))[1] for side in (600, 900)), 32)
    found = joined(TileMean(), image, grid)
    jump = max(np.abs(np.diff(found, axis=axis)).max() for axis in (0, 1))
    across = found.max((0, 1)) - found.min((0, 1))
    assert 0 < jump <= across.max() / (tiles.RAMP / 4) * 1.01


def test_labels_of_a_tiled_picture_agree_with_the_whole(tmp_path: Path) -> None:
    engine = exported(network(num_classes=21, decoder=False), tmp_path)
    image = scenery(1024, 2048)
    whole = Predictor(engine, memory=10**10)(image)
    memory = engine.bytes_fixed + 2048 * 17_000
    memory += engine.bytes_per_pixel * 600_000
    found = Predictor(engine, memory=memory)(image)
    assert isinstance(found, TiledSegmentation)
    assert (found.labels == whole.labels).mean() >= 0.99
    assert found.areas == pytest.approx(whole.areas, abs=0.01)
    assert np.array_equal(np.asarray(found.image), image)


@pytest.fixture
def tiled() -> TiledSegmentation:
    engine = Forgetful(reach=0, bytes_per_pixel=300)
    found = Predictor(engine, memory=120_000_000)(scenery(700, 900))
    assert isinstance(found, TiledSegmentation)
    assert found._grid.rows.number * found._grid.columns.number > 1
    return found


def test_tiled_results_are_those_of_the_whole(tiled: TiledSegmentation, tmp_path: Path) -> None:
    whole = Predictor(BrightestChannel())(scenery(700, 900))
    record = tiled.save(tmp_path / "tiled")
    expected = whole.save(tmp_path / "whole")
    with Image.open(record["labels"]) as a, Image.open(expected["labels"]) as b:
        assert np.array_equal(np.asarray(a), np.asarray(b))
    assert record["size"] == expected["size"] == [700, 900]
    assert record["areas"] == expected["areas"]
    assert np.array_equal(tiled.labels, whole.labels)
    assert np.array_equal(tiled.probability("green"), whole.probability("green"))
    assert np.array_equal(np.asarray(tiled.overlay()), np.asarray(whole.overlay()))
    assert tiled.overlay(legend=True).size == whole.overlay(legend=True).size


def test_areas_and_overlay_need_not_be_saved_first(tiled: TiledSegmentation) -> None:
    assert sum(tiled.areas.values()) == pytest.approx(1)
    assert tiled.overlay().size == (900, 700)


def test_overlay_of_a_large_picture_is_reduced(tmp_path: Path) -> None:
    path = write_tiled(tmp_path / "p.tif", (600, 5000), lambda *_: scenery(256, 256))
    found = Predictor(Forgetful(reach=0, bytes_per_pixel=100), memory=170_000_000)(path)
    assert isinstance(found, TiledSegmentation)
    assert found.overlay().size == (1250, 150)


def test_P01_a_picture_damaged_in_the_middle_leaves_no_files(tmp_path: Path) -> None:
    path = write_tiled(tmp_path / "p.tif", (1024, 1024), lambda *_: scenery(256, 256).copy())
    block = open_tiff(path).blocks[-1]  # type: ignore[union-attr]
    data = bytearray(path.read_bytes())
    data[block.offset : block.offset + block.length] = bytes(block.length)
    path.write_bytes(data)
    predictor = Predictor(Forgetful(reach=0, bytes_per_pixel=300), memory=180_000_000)
    (outcome,) = segment_files(predictor, find_pictures([path]).pictures, tmp_path / "out")
    assert outcome.error is not None
    assert outcome.error.code == "E-IMAGE-BROKEN"
    assert not list((tmp_path / "out").iterdir())


def peak_memory(code: str, *arguments: object) -> int:
    """Runs Python code in a process of its own; returns the most bytes it had."""
    # Not ru_maxrss, which a process inherits.
    code += "\nprint(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return 1024 * int(result.stdout.split()[-1])


FIRST_ROW_OF_TILES = """
import sys
from pathlib import Path
from atrous.predict.predictor import Predictor
from tests.fake_engine import BrightestChannel

engine = BrightestChannel()
engine.reach, engine.bytes_per_pixel = 64, 500
rows = Predictor(engine, memory=500_000_000)(Path(sys.argv[1]))._rows()
assert 100 < len(next(rows).labels) < 1000
"""


def test_P03_a_picture_of_900_megapixels_takes_no_more_memory_than_one_of_25(
    tmp_path: Path,
) -> None:
    picture = np.zeros((512, 512, 3), np.uint8)
    picture[:, :200] = 200, 0, 0
    peaks = []
    for side in (5_000, 30_000):
        write_tiled(tmp_path / "p.tif", (side, side), lambda *_: picture, side=512)
        peaks.append(peak_memory(FIRST_ROW_OF_TILES, tmp_path / "p.tif"))
    assert peaks[1] < peaks[0] + 150_000_000


def test_unknown_pixels_beside_256_classes_take_16_bits(tmp_path: Path) -> None:
    class Every(BrightestChannel):
        classes = tuple(map(str, range(256)))
        palette = ((1, 2, 3),) * 256

        bytes_per_pixel = 256

        def coarse_logits(self, image: np.ndarray) -> np.ndarray:
            logits = np.zeros((*image[::4, ::4].shape[:2], 256), np.float32)
            logits[..., 255] = image[::4, ::4, 0]  # no class is sure of black
            return logits

    picture = np.zeros((128, 1024, 3), np.uint8)
    picture[:, :450] = 9
    whole = Predictor(Every(), unknown_below=0.5)(picture)
    tiled = Predictor(Every(), memory=30_000_000, unknown_below=0.5)(picture)
    assert isinstance(tiled, TiledSegmentation)
    assert tiled.labels.dtype == np.uint16
    assert set(np.unique(tiled.labels)) == {255, 65535}
    np.testing.assert_array_equal(tiled.labels, whole.labels)
    for name, found in (("whole", whole), ("tiled", tiled)):
        found.save(tmp_path, name)
        with Image.open(tmp_path / f"{name}.labels.png") as stored:
            np.testing.assert_array_equal(np.asarray(stored), whole.labels)


MANY_CLASSES = """
import sys
import numpy as np
from atrous.predict.predictor import Predictor
from tests.fake_engine import BrightestChannel

class Many(BrightestChannel):
    classes = tuple(map(str, range(150)))
    palette = ((1, 2, 3),) * 150
    bytes_per_pixel = 150
    def coarse_logits(self, image):
        logits = np.zeros((*image[::4, ::4].shape[:2], 150), np.float32)
        logits[..., 7] = image[::4, ::4, 0]
        return logits

found = Predictor(Many(), memory=300_000_000)(np.zeros((2048, 4096, 3), np.uint8) + 9)
assert found.save(sys.argv[1])["areas"] == {"7": 1.0}
"""


def test_P04_many_classes_of_a_large_picture_stay_within_the_memory(tmp_path: Path) -> None:
    """All logits would be 5 GB, the coarse ones of the whole picture 315 MB."""
    assert peak_memory(MANY_CLASSES, tmp_path) < 300_000_000


PREDICT = """
import sys
from atrous.cli import main
try:
    main(sys.argv[1:])
except SystemExit as error:
    assert not error.code
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("id_", "side", "memory", "options"),
    [
        ("P03", 20_000, 10**9, {"num_classes": 21, "decoder": False}),
        ("P04", 4_096, 2 * 10**9, {"num_classes": 150, "depth_multiplier": 1.0, "refine": None}),
    ],
)
def test_P03_P04_real_networks_stay_within_the_memory(
    id_: str, side: int, memory: int, options: dict[str, object], tmp_path: Path
) -> None:
    if options.get("refine", ()) is None:
        options = {**options, "refine": ((3, 256), (3, 256))}
    exported(network(**options), tmp_path)
    picture = scenery(512, 512)
    write_tiled(tmp_path / "p.tif", (side, side), lambda *_: picture, side=512)
    arguments = ("--model", tmp_path / "model.onnx", "--out", tmp_path / "out")
    peak = peak_memory(PREDICT, "predict", tmp_path / "p.tif", *arguments, "--memory", str(memory))
    assert peak < memory
    with Image.open(tmp_path / "out" / "p.labels.png") as labels:
        assert labels.size == (side, side)


@pytest.mark.slow
def test_a_trained_network_labels_tiles_as_the_whole_photograph(
    shared: Path, tmp_path: Path
) -> None:
    engine = exported(
        from_tflite(shared / "weights" / "deeplabv3_mnv2_pascal_quant.tflite"), tmp_path
    )
    photo = Image.open(shared / "photos" / "pets.jpg").convert("RGB").resize((2048, 1024))
    whole = Predictor(engine, memory=10**10)(photo).labels
    for pixels in (900_000, 500_000, 150_000):
        memory = engine.bytes_fixed + 2048 * 17_000 + engine.bytes_per_pixel * pixels
        found = Predictor(engine, memory=memory)(photo)
        assert isinstance(found, TiledSegmentation)
        share = (found.labels == whole).mean()
        assert share == 1 if found._grid.margin >= engine.reach else share > 0.99
