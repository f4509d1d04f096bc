"""A page of a TIFF stack is a picture; a stack is none."""

import io
import json

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from atrous.cli import main
from atrous.errors import AtrousError, ExitCode
from atrous.images import tiff_windows
from atrous.images.decode import read_image
from atrous.images.raster import Raster
from atrous.images.tiff_windows import open_tiff
from atrous.predict.find import find_pictures
from atrous.predict.many import segment_many
from atrous.predict.predictor import Predictor
from tests.fake_engine import BrightestChannel

COLORS = ("red", "lime", "blue")
REDUCED, MASK = 1, 4  # of the tag that says what a page is


def stack(path, *kinds, colors=COLORS, size=(9, 7)):
    """Writes a page for each colour; kinds are the values of their tag 254."""
    pages = []
    for color, kind in zip(colors, kinds or (0,) * len(colors), strict=True):
        page = Image.new("RGB", size, color)
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[254] = kind
        page.encoderinfo = {"tiffinfo": tags}
        pages.append(page)
    first = TiffImagePlugin.ImageFileDirectory_v2()
    first[254] = kinds[0] if kinds else 0
    pages[0].save(path, save_all=True, append_images=pages[1:], tiffinfo=first)
    return path


def test_pages_are_pictures_by_number_from_one(tmp_path):
    path = stack(tmp_path / "x.tif")
    predictor = Predictor(BrightestChannel())
    for number in (1, 2, 3):
        named = f"{path}#{number}"
        assert (predictor(named).labels == number - 1).all()
        expected = np.asarray(Image.new("RGB", (9, 7), COLORS[number - 1]))
        assert np.array_equal(np.asarray(read_image(named)), expected)


def test_pages_are_read_by_windows_too(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_windows, "_ROWS_BYTES", 99)
    path = stack(tmp_path / "x.tif")
    windows = open_tiff(path.with_name("x.tif#2"))
    assert (windows.read(2, 3, 4, 5) == (0, 255, 0)).all()
    with pytest.raises(AtrousError) as caught:
        open_tiff(path)
    assert caught.value.code == "E-IMAGE-PAGES"


@pytest.mark.parametrize("name", ["x.tif", "x.tif#0", "x.tif#4"])
def test_a_stack_or_a_page_that_is_not_there_is_refused_with_the_number_of_pages(name, tmp_path):
    path = stack(tmp_path / "x.tif").with_name(name)
    with pytest.raises(AtrousError) as caught:
        Predictor(BrightestChannel())(path)
    assert caught.value.code == "E-IMAGE-PAGES"
    assert "3 pages" in caught.value.what
    assert "x.tif#1" in caught.value.fix


def test_a_stack_in_bytes_is_refused_and_a_chosen_page_in_pillow_is_taken(tmp_path):
    path, predictor = stack(tmp_path / "x.tif"), Predictor(BrightestChannel())
    for source in (path.read_bytes(), io.BytesIO(path.read_bytes())):
        with pytest.raises(AtrousError) as caught:
            predictor(source)
        assert caught.value.code == "E-IMAGE-PAGES"
    with Image.open(path) as image:
        image.seek(2)
        assert (predictor(image).labels == 2).all()


@pytest.mark.parametrize("kinds", [(0, REDUCED, REDUCED), (0, MASK, REDUCED | MASK), (0, 0, 1)])
def test_reduced_copies_and_masks_are_no_pages(kinds, tmp_path):
    path = stack(tmp_path / "x.tif", *kinds)
    if kinds.count(0) == 1:
        assert np.asarray(read_image(path))[0, 0].tolist() == [255, 0, 0]
    else:
        assert np.asarray(read_image(f"{path}#2"))[0, 0].tolist() == [0, 255, 0]
        with pytest.raises(AtrousError, match="E-IMAGE-PAGES"):
            read_image(path)


def test_a_file_that_is_really_named_so_is_that_file(tmp_path):
    stack(tmp_path / "x.tif")
    Image.new("RGB", (9, 7), "blue").save(tmp_path / "x.tif#1", "PNG")
    assert np.asarray(read_image(tmp_path / "x.tif#1"))[0, 0].tolist() == [0, 0, 255]


def test_the_command_takes_pages_and_ranges_and_keeps_finished_ones(tmp_path, monkeypatch, capsys):
    engine = BrightestChannel()
    monkeypatch.setattr("atrous.predict.predictor.open_engine", lambda *_, **__: engine)
    path, out = stack(tmp_path / "x.tif"), tmp_path / "out"
    main(["predict", f"{path}#1-3", "--out", str(out), "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["input"] for line in lines] == [f"{path}#{n}" for n in (1, 2, 3)]
    assert [list(line["areas"]) for line in lines] == [["red"], ["green"], ["blue"]]
    assert (out / "x.page3.labels.png").is_file()
    main(["predict", f"{path}#2", "--out", str(out)])
    assert engine.calls == 3
    with pytest.raises(SystemExit) as caught:
        main(["predict", str(path), "--out", str(out)])
    assert caught.value.code == ExitCode.SOME_FAILED


def test_pages_of_several_stacks_have_names_of_their_own(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        stack(tmp_path / name / "x.tif")
    found = find_pictures([tmp_path / "a" / "x.tif#1-2", tmp_path / "b" / "x.tif#2"])
    assert [picture.stem for picture in found.pictures] == ["x.page1", "a/x.page2", "b/x.page2"]


def test_moved_stacks_are_still_finished_and_pages_are_told_apart(tmp_path):
    engine = BrightestChannel()
    for place in ("before", "after"):
        folder = tmp_path / place
        if place == "before":
            folder.mkdir()
            stack(folder / "x.tif")
        else:
            (tmp_path / "before").rename(folder)
        segment_many([f"{folder}/x.tif#1"], Predictor(engine), folder / "out")
    assert engine.calls == 1
    (folder / "out" / "x.page1.json").rename(folder / "out" / "x.page2.json")
    with pytest.raises(AtrousError) as caught:
        segment_many([f"{folder}/x.tif#2"], Predictor(engine), folder / "out")
    assert caught.value.code == "E-OUT-TAKEN"


@pytest.mark.parametrize("name", ["x.tif", "x.tif#0", "x.tif#4", "x.tif#2"])
def test_pages_are_the_same_through_rasterio(name, tmp_path):
    pytest.importorskip("rasterio", reason="needs rasterio: extra geo")
    path = stack(tmp_path / "x.tif").with_name(name)
    if name == "x.tif#2":
        raster = Raster(path)
        assert (raster.read(2, 3, 4, 5) == (0, 255, 0)).all()
        assert raster.channels == 3
        return
    with pytest.raises(AtrousError) as caught:
        Raster(path)
    assert caught.value.code == "E-IMAGE-PAGES"
