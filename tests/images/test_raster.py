"""Files of any channels: windows, NoData, several files, rasterio or not."""

import io

import numpy as np
import pytest
from PIL import Image

from atrous.errors import AtrousError
from atrous.images import raster
from atrous.images.bands import Bands
from atrous.images.raster import Raster, missing, open_raster, place_of
from tests.bands import write_geotiff

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(1, 65536, (70, 90, 4), np.uint16)


def test_windows_equal_the_pixels_whatever_the_form_of_the_file(tmp_path):
    pytest.importorskip("rasterio")
    forms = [
        {"interleave": "band"}, {"compress": "zstd", "predictor": 2}, {"compress": "lzw"},
        {"tiled": True, "blockxsize": 32, "blockysize": 32}, {"driver": "COG"}, {"bigtiff": "yes"},
    ]  # fmt: skip
    for index, form in enumerate(forms):
        picture = Raster(write_geotiff(tmp_path / f"{index}.tif", IMAGE, **form))
        assert (picture.size, picture.channels, picture.dtype) == ((70, 90), 4, "uint16")
        assert np.array_equal(picture.read(13, 7, 50, 80), IMAGE[13:63, 7:87]), form


def test_bands_are_taken_by_number(tmp_path):
    pytest.importorskip("rasterio")
    path = write_geotiff(tmp_path / "a.tif", IMAGE)
    found = open_raster(path, Bands(("red", "nir"), "uint16", ("3", "4")))
    assert np.array_equal(found.read(0, 0, 70, 90), IMAGE[..., [2, 3]])
    with pytest.raises(AtrousError) as caught:
        Raster(path, ("5",))
    assert caught.value.code == "E-IMAGE-BANDS"


def test_channels_in_several_files_need_no_rasterio(tmp_path, monkeypatch):
    monkeypatch.setattr(raster, "has_rasterio", lambda: False)
    for name, plane in (("B04", 0), ("B08", 1)):
        pixels = np.ascontiguousarray(IMAGE[..., plane])
        Image.fromarray(pixels).save(tmp_path / f"a_{name}.tif")
    sources = ("{stem}_B04.tif", "{stem}_B08.tif")
    bands = Bands(("red", "nir"), "uint16", sources)
    found = open_raster(tmp_path / "a_B04.tif", bands)
    assert np.array_equal(found.read(2, 3, 60, 70), IMAGE[2:62, 3:73, :2])
    with pytest.raises(AtrousError) as caught:
        open_raster(tmp_path / "a_B08.tif", bands)
    assert caught.value.code == "E-IMAGE-BANDS"
    (tmp_path / "a_B08.tif").unlink()
    with pytest.raises(AtrousError) as caught:
        open_raster(tmp_path / "a_B04.tif", bands)
    assert caught.value.code == "E-FILE-MISSING"


def test_several_deep_bands_without_rasterio_name_the_extra(tmp_path, monkeypatch):
    pytest.importorskip("rasterio")
    path = write_geotiff(tmp_path / "a.tif", IMAGE)
    monkeypatch.setattr(raster, "has_rasterio", lambda: False)
    with pytest.raises(AtrousError) as caught:
        Raster(path)
    assert caught.value.code == "E-MISSING-EXTRA"
    assert "atrous[geo]" in caught.value.fix


def test_no_data_is_nan_in_floats_and_counted_in_integers(tmp_path):
    pytest.importorskip("rasterio")
    heights = RNG.normal(100, 5, (20, 30, 1)).astype(np.float32)
    heights[2:5, 2:5], heights[7, 7], heights[8, 8] = -9999, np.nan, np.inf
    found = Raster(write_geotiff(tmp_path / "a.tif", heights, nodata=-9999)).read(0, 0, 20, 30)
    assert np.isnan(found).sum() == 11
    assert np.array_equal(found[9:], heights[9:])
    picture = IMAGE[:20, :30].copy()
    picture[:4, :6, 0], picture[:2] = 0, 0
    file = Raster(write_geotiff(tmp_path / "b.tif", picture))
    absent = missing(file.read(0, 0, 20, 30), file.no_data)
    assert np.array_equal(absent, picture == 0)


def test_other_types_become_float32(tmp_path):
    pytest.importorskip("rasterio")
    for kind in (np.int16, np.int32, np.float64):
        values = RNG.integers(-50, 50, (5, 6, 2)).astype(kind)
        found = Raster(write_geotiff(tmp_path / "a.tif", values, nodata=None))
        assert found.dtype == "float32"
        assert np.array_equal(found.read(0, 0, 5, 6), values.astype(np.float32))


def test_bytes_of_a_tiff_are_read(tmp_path):
    pytest.importorskip("rasterio")
    content = write_geotiff(tmp_path / "a.tif", IMAGE).read_bytes()
    assert np.array_equal(Raster(io.BytesIO(content)).read(0, 0, 70, 90), IMAGE)


def test_a_truncated_file_is_named(tmp_path):
    pytest.importorskip("rasterio")
    path = write_geotiff(tmp_path / "a.tif", IMAGE)
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(AtrousError) as caught:
        Raster(path).read(0, 0, 70, 90)
    assert caught.value.code == "E-IMAGE-BROKEN"
    assert caught.value.where == str(path)


def test_only_georeferenced_pictures_have_a_place(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    path = write_geotiff(tmp_path / "a.tif", IMAGE)
    with rasterio.open(path) as file:
        place = place_of(path)
        assert (place.crs, place.transform, place.bounds) == (
            file.crs, file.transform, tuple(file.bounds),
        )  # fmt: skip
    Image.fromarray(IMAGE[..., 0]).save(tmp_path / "b.tif")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "c.png")
    assert place_of(tmp_path / "b.tif") is place_of(tmp_path / "c.png") is None


def test_only_tiffs_reach_gdal(tmp_path):
    """A VRT, which may name other files and addresses, is no picture, whatever it is called."""
    pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    path.write_text('<VRTDataset rasterXSize="1" rasterYSize="1"></VRTDataset>')
    with pytest.raises(AtrousError) as caught:
        Raster(path)
    assert caught.value.code == "E-IMAGE-FORMAT"
