"""Windows of a TIFF are what decoding it whole gives."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.errors import AtrousError
from atrous.images import tiff_windows
from atrous.images.decode import read_image
from atrous.images.raster import PixelsInMemory
from atrous.images.tiff_windows import open_tiff
from tests.tiffs import write_tiled

PLACES = ((0, 0, 150, 211), (3, 50, 97, 100), (149, 210, 1, 1), (60, 0, 70, 211))


def texture(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(rows / (5 + c) + columns / 9) for c in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def assert_windows_equal_whole(path: Path) -> None:
    found = open_tiff(path)
    assert found is not None
    whole = np.asarray(read_image(path))
    assert found.size == whole.shape[:2]
    for top, left, height, width in PLACES:
        expected = whole[top : top + height, left : left + width]
        assert np.array_equal(found.read(top, left, height, width), expected)


@pytest.mark.parametrize(
    "compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "zstd"]
)
def test_windows_of_strips_equal_the_whole(
    compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff_windows, "_ROWS_BYTES", 9000)  # cuts uncompressed strips
    picture = Image.fromarray(texture(150, 211))
    picture.save(tmp_path / "p.tif", compression=compression, tiffinfo={278: 32})
    assert_windows_equal_whole(tmp_path / "p.tif")


@pytest.mark.parametrize("compression", [1, 7, 8])
def test_windows_of_tiles_equal_the_whole(compression: int, tmp_path: Path) -> None:
    image = texture(192, 256)
    path = write_tiled(
        tmp_path / "p.tif",
        (150, 211),
        lambda top, left: image[top : top + 64, left : left + 64],
        side=64,
        compression=compression,
    )
    assert_windows_equal_whole(path)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16", "I;16B", "CMYK"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_every_mode_is_converted_as_by_decoding_whole(
    mode: str, compression: str, tmp_path: Path
) -> None:
    if mode.startswith("I;16"):
        values = texture(150, 211)[..., 0].astype(">u2" if mode == "I;16B" else "<u2") * 257
        picture = Image.frombytes(mode, (211, 150), values.tobytes())
    else:
        picture = Image.fromarray(texture(150, 211)).convert(mode)
    picture.save(tmp_path / "p.tif", compression=compression)
    assert_windows_equal_whole(tmp_path / "p.tif")


def test_big_tiff_is_read(tmp_path: Path) -> None:
    Image.fromarray(texture(150, 211)).save(tmp_path / "p.tif", big_tiff=True)
    assert (tmp_path / "p.tif").read_bytes()[:4] == b"II+\0"
    assert_windows_equal_whole(tmp_path / "p.tif")


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("F", {}),
        ("I", {}),
        ("RGB", {"tiffinfo": {274: 6}}),
        ("RGB", {"format": "PNG"}),
    ],
)
def test_what_must_be_decoded_whole_has_no_windows(
    mode: str, options: dict[str, object], tmp_path: Path
) -> None:
    picture = Image.fromarray(texture(30, 40)).convert(mode)
    picture.save(tmp_path / "p.tif", **options)  # type: ignore[arg-type]
    assert open_tiff(tmp_path / "p.tif") is None


def test_missing_files_are_left_to_the_decoder(tmp_path: Path) -> None:
    assert open_tiff(tmp_path / "none.tif") is None


def tiled(path: Path, image: np.ndarray) -> Path:
    return write_tiled(
        path,
        (image.shape[0], image.shape[1]),
        lambda top, left: image[top : top + 64, left : left + 64],
        side=64,
    )


def test_damaged_tiles_are_an_error_where_they_are_read(tmp_path: Path) -> None:
    path = tiled(tmp_path / "p.tif", texture(128, 128))
    found = open_tiff(path)
    assert found is not None
    last = found.blocks[-1]
    data = bytearray(path.read_bytes())
    data[last.offset : last.offset + last.length] = bytes(last.length)
    path.write_bytes(data)
    assert found.read(0, 0, 64, 128).shape == (64, 128, 3)
    with pytest.raises(AtrousError) as caught:
        found.read(0, 0, 128, 128)
    assert caught.value.code == "E-IMAGE-BROKEN"
    assert caught.value.where == str(path)


def test_a_truncated_file_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "p.tif"
    Image.fromarray(texture(128, 128)).save(path, compression="raw")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(AtrousError, match="E-IMAGE-BROKEN"):
        open_tiff(path)


@pytest.mark.parametrize("tag", [256, 257, 322, 323])
@pytest.mark.parametrize("value", [0, 1, 2**31])
def test_D04_sizes_that_the_file_does_not_hold_are_refused(
    tag: int, value: int, tmp_path: Path
) -> None:
    path = tiled(tmp_path / "p.tif", texture(128, 128))
    data = path.read_bytes()
    entries = [struct.pack("<HHII", tag, kind, 1, side) for kind in (3, 4) for side in (64, 128)]
    assert sum(data.count(entry) for entry in entries) == 1
    for entry in entries:
        data = data.replace(entry, struct.pack("<HHII", tag, 4, 1, value))
    path.write_bytes(data)
    with pytest.raises(AtrousError) as caught:
        open_tiff(path)
    assert caught.value.code in ("E-IMAGE-BROKEN", "E-IMAGE-FORMAT")


def test_decoded_blocks_are_kept_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = texture(256, 256)
    path = tiled(tmp_path / "p.tif", image)
    monkeypatch.setattr(tiff_windows, "CACHE_BYTES", 5 * 64 * 64 * 3)
    found = open_tiff(path)
    assert found is not None
    for top in range(0, 256, 32):
        assert np.array_equal(found.read(top, 0, 32, 256), image[top : top + 32])
        assert sum(pixels.nbytes for pixels in found._cache.values()) <= tiff_windows.CACHE_BYTES
    assert found._cached == sum(pixels.nbytes for pixels in found._cache.values())


def test_windows_of_a_decoded_picture(tmp_path: Path) -> None:
    image = texture(150, 211)
    picture = PixelsInMemory(image, copies=2)
    assert picture.size == (150, 211)
    assert np.array_equal(picture.read(3, 50, 97, 100), image[3:100, 50:150])
