"""The range of a picture's values survives, or the picture is refused; both are said."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.errors import AtrousError
from atrous.images import tiff_windows
from atrous.images.decode import read_image
from atrous.images.tiff_windows import open_tiff

HEIGHT, WIDTH = 40, 50


def ramp(low: float, high: float) -> np.ndarray:
    values = np.linspace(low, high, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    return np.random.default_rng(0).permutation(values.ravel()).reshape(HEIGHT, WIDTH)


def write_float(path: Path, values: np.ndarray, no_data: str | None = None) -> Path:
    tags = {} if no_data is None else {42113: no_data}
    Image.fromarray(values.astype(np.float32)).save(path, tiffinfo=tags)
    return path


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint((values - low) / (high - low) * 255)


@pytest.mark.parametrize(
    ("hole", "no_data"),
    [
        (-9999, "-9999"),
        (-9999, None),
        (0, "0"),
        (1e20, "1e+20"),
        (np.inf, None),
        (-np.inf, None),
        (np.nan, None),
        (np.nan, "nan"),
        (-3.4028234663852886e38, None),
    ],
)
def test_float_values_keep_their_range_whatever_marks_the_holes(hole, no_data, tmp_path):
    values = ramp(200, 300)
    values[:5] = hole
    image = read_image(write_float(tmp_path / "p.tif", values, no_data))
    pixels = np.asarray(image).astype(float)
    inside = values[5:]
    assert np.abs(pixels[5:, :, 0] - expected(inside, inside.min(), inside.max())).max() <= 1
    assert (pixels[:5] == 0).all()
    (note,) = image.info["notes"]
    assert "250 pixels without a value" in note


@pytest.mark.parametrize("hole", [-9999, np.nan, np.inf])
def test_a_picture_without_any_value_is_refused(hole, tmp_path):
    with pytest.raises(AtrousError) as caught:
        read_image(write_float(tmp_path / "p.tif", np.full((4, 4), hole)))
    assert caught.value.code == "E-IMAGE-VALUES"


@pytest.mark.parametrize("high", [70_000, 2**31 - 1, 2**32 - 1])
def test_unsigned_32_bits_keep_their_range(high, tmp_path):
    values = ramp(1000, high).astype(np.uint32)
    Image.fromarray(values.view(np.int32)).save(tmp_path / "p.tif")
    signed = b"\x53\x01\x03\x00\x01\x00\x00\x00\x02"  # the sample format, as Pillow writes it
    data = (tmp_path / "p.tif").read_bytes()
    assert data.count(signed) == 1
    (tmp_path / "p.tif").write_bytes(data.replace(signed, signed[:-1] + b"\x01"))
    image = read_image(tmp_path / "p.tif")
    found = np.asarray(image)[..., 0].astype(float)
    assert np.abs(found - expected(values.astype(float), 1000, high)).max() <= 1
    assert image.info["notes"]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("windows", [False, True])
def test_bits_in_use_of_sixteen_decide_the_scale(bits, suffix, windows, tmp_path, monkeypatch):
    values = np.rint(ramp(0, 2**bits - 1)).astype(np.uint16)
    options = {"tiffinfo": {278: 7}} if suffix == "tif" else {}
    Image.fromarray(values).save(tmp_path / f"p.{suffix}", **options)
    image = read_image(tmp_path / f"p.{suffix}")
    found = np.asarray(image)[..., 0].astype(float)
    assert np.abs(found - expected(values.astype(float), 0, 2**bits - 1)).max() <= 1
    assert image.info["notes"] == (f"values from 0 to {2**bits - 1} became 0 to 255",)
    if windows and suffix == "tif":
        monkeypatch.setattr(tiff_windows, "_ROWS_BYTES", 500)
        tiled = open_tiff(tmp_path / "p.tif")
        assert tiled is not None
        assert np.array_equal(tiled.read(0, 0, HEIGHT, WIDTH), np.asarray(image))
        assert tiled.notes == image.info.get("notes", ())


def four_bands(fourth: str) -> np.ndarray:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    if fourth == "opacity":
        pixels[..., 3] = 255
        pixels[:9, :, 3], pixels[9, :, 3] = 0, 128
    elif fourth == "opaque":
        pixels[..., 3] = 255
    return pixels


@pytest.mark.parametrize("fourth", ["near infrared", "opacity", "opaque"])
@pytest.mark.parametrize("kind", ["png", "tif", "tif in windows"])
def test_a_fourth_channel_is_opacity_or_left_out_and_said(fourth, kind, tmp_path, monkeypatch):
    pixels = four_bands(fourth)
    path = tmp_path / f"p.{kind[:3]}"
    options = {"tiffinfo": {278: 7}} if kind.startswith("tif") else {}
    Image.fromarray(pixels).save(path, **options)
    if kind == "tif in windows":
        monkeypatch.setattr(tiff_windows, "_ROWS_BYTES", 999)
        tiled = open_tiff(path)
        assert tiled is not None
        found, notes = tiled.read(0, 0, HEIGHT, WIDTH), tiled.notes
    else:
        image = read_image(path)
        found, notes = np.asarray(image), image.info.get("notes", ())
    if fourth == "opacity":
        assert (found[:9] == 255).all()
        assert np.array_equal(found[10:], pixels[10:, :, :3])
        assert "laid on white" in notes[0]
    else:
        assert np.array_equal(found, pixels[..., :3])
        assert bool(notes) == (fourth == "near infrared")


def test_twelve_bits_in_sixteen_bit_colours_are_refused(tmp_path):
    from tests.images.test_decode import write

    def png(values: np.ndarray) -> bytes:
        import struct
        import zlib

        def chunk(kind, data):
            body = kind + data
            return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

        header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
        rows = np.pad(values.astype(">u2").view(np.uint8).reshape(HEIGHT, -1), ((0, 0), (1, 0)))
        data = zlib.compress(rows.tobytes())
        start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        return start + chunk(b"IDAT", data) + chunk(b"IEND", b"")

    random = np.random.default_rng(0)
    full = random.integers(0, 65536, (HEIGHT, WIDTH, 3))
    image = read_image(write(tmp_path / "full.png", png(full)))
    assert np.abs(np.asarray(image) - full / 257).max() <= 1
    assert image.info["notes"] == ("values from 0 to 65535 became 0 to 255",)
    for bits in (8, 12):
        with pytest.raises(AtrousError) as caught:
            read_image(write(tmp_path / "dim.png", png(full >> (16 - bits))))
        assert caught.value.code == "E-IMAGE-DEPTH"


def test_bands_that_are_no_colours_are_refused_by_name(tmp_path):
    from tests.tiffs import write_tiled

    path = write_tiled(
        tmp_path / "p.tif", (64, 64), lambda *_: np.zeros((64, 64, 3), np.uint8), side=64
    )
    data = bytearray(path.read_bytes())
    place = data.index(b"\x15\x01\x03\x00\x01\x00\x00\x00") + 8  # samples per pixel
    data[place] = 5
    path.write_bytes(data)
    with pytest.raises(AtrousError) as caught:
        read_image(path)
    assert caught.value.code in ("E-IMAGE-FORMAT", "E-IMAGE-BROKEN")
    assert "5 bands" in caught.value.what
