import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.errors import AtrousError
from atrous.images.decode import atomic, read_image
from atrous.images.rgb import to_rgb


def encoded(image, format="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.fixture
def gradient():
    return Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))


def write(path, data):
    path.write_bytes(data)
    return path


def test_missing_files_are_named(tmp_path):
    with pytest.raises(AtrousError, match="E-FILE-MISSING") as caught:
        read_image(tmp_path / "none.jpg")
    assert caught.value.where.endswith("none.jpg")


def test_D02_empty_files_folders_and_dangling_links_are_refused(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    for name, code in (
        ("empty.jpg", "E-FILE-EMPTY"),
        ("folder.jpg", "E-FILE-KIND"),
        ("link.jpg", "E-FILE-MISSING"),
    ):
        if name == "empty.jpg":
            write(tmp_path / name, b"")
        with pytest.raises(AtrousError, match=code):
            read_image(tmp_path / name)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP"])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_D01_truncated_pictures_are_refused(tmp_path, format, keep):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, format)
    path = write(tmp_path / "cut", data[: int(keep * len(data))])
    with pytest.raises(AtrousError, match=r"E-IMAGE-(BROKEN|FORMAT)"):
        read_image(path)


def test_D03_content_decides_the_format_not_the_name(tmp_path, gradient):
    assert read_image(write(tmp_path / "png.jpg", encoded(gradient))).size == (16, 16)
    with pytest.raises(AtrousError, match="E-IMAGE-FORMAT"):
        read_image(write(tmp_path / "page.jpg", b"<!doctype html><title>404</title>"))


def test_formats_outside_the_list_are_not_even_tried(tmp_path, gradient):
    path = write(tmp_path / "picture.png", encoded(gradient.convert("RGB"), "EPS"))
    with pytest.raises(AtrousError, match="E-IMAGE-FORMAT"):
        read_image(path)


def test_D04_a_pixel_bomb_is_refused_from_its_header(tmp_path):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 65535, 65535, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    with pytest.raises(AtrousError, match="E-IMAGE-PIXELS"):
        read_image(write(tmp_path / "bomb.png", data))


def test_D05_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (30, 20), "red")
    image.paste("blue", (0, 0, 30, 2))  # along the top
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture needs a quarter turn clockwise
    path = write(tmp_path / "turned.png", encoded(image, "PNG", exif=exif))
    upright = read_image(path)
    assert upright.size == (20, 30)
    assert upright.getpixel((19, 15)) == (0, 0, 255)  # the top went to the right
    assert upright.getpixel((0, 15)) == (255, 0, 0)


def test_D06_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    path = write(tmp_path / "deep.png", encoded(Image.fromarray(values)))
    assert np.asarray(read_image(path))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_D06_transparency_is_laid_on_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    rgb = read_image(write(tmp_path / "clear.png", encoded(image)))
    assert [rgb.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (10, 20, 30)]


def test_D06_palette_pictures_with_a_transparent_colour_are_laid_on_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([9, 9, 9, 50, 60, 70])
    image.putpixel((1, 0), 1)
    rgb = read_image(write(tmp_path / "clear.png", encoded(image, transparency=0)))
    assert [rgb.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (50, 60, 70)]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LA", "RGBA", "I", "F"])
def test_D06_every_mode_becomes_rgb(mode):
    image = Image.new("RGB", (3, 2), "white")
    image.putpixel((0, 0), (0, 0, 0))
    if mode in ("I", "F"):  # deep grey: 65535 is white
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.int32) * 257).convert(mode)
    result = to_rgb(image.convert(mode))
    assert result.mode == "RGB"
    assert [result.getpixel(at) for at in ((0, 0), (2, 1))] == [(0, 0, 0), (255, 255, 255)]


def test_D06_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "green")]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert read_image(path).getpixel((0, 0)) == (255, 0, 0)


def test_damaged_exif_does_not_lose_the_picture(tmp_path, gradient):
    data = encoded(gradient, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    assert read_image(write(tmp_path / "odd.jpg", data)).size == (16, 16)


def test_written_files_are_whole_or_absent(tmp_path):
    target = tmp_path / "folder" / "file.txt"
    with atomic(target) as temporary:
        temporary.write_text("first")

    def killed_while_writing():
        with atomic(target) as temporary:
            temporary.write_text("sec")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        killed_while_writing()
    assert target.read_text() == "first"
    assert [p.name for p in target.parent.iterdir()] == ["file.txt"]


ASSETS = Path(__file__).parents[1] / "assets"
QUARTERS = np.array([[(200, 40, 40), (40, 200, 40)], [(40, 40, 200), (220, 220, 220)]], np.uint8)


def quarters():
    """Four colours, 48 x 64; assets/quarters.heic is this picture, encoded by pillow-heif 1.8.1."""
    return QUARTERS.repeat(24, 0).repeat(32, 1)


def farthest(image):
    """The largest difference from `quarters`, away from the borders between colours."""
    difference = np.abs(np.asarray(image, np.int64) - quarters())
    return max(difference[y : y + 16, x : x + 24].max() for y in (4, 28) for x in (4, 36))


@pytest.mark.parametrize("orientation", [1, 6])
def test_avif_is_read_upright(orientation, tmp_path):
    exif = Image.Exif()
    exif[274] = orientation
    stored = np.rot90(quarters(), 1) if orientation == 6 else quarters()
    Image.fromarray(np.ascontiguousarray(stored)).save(
        tmp_path / "a.avif", quality=95, exif=exif.tobytes()
    )
    image = read_image(tmp_path / "a.avif")
    assert (image.mode, image.size) == ("RGB", (64, 48))
    assert farthest(image) <= 6


def test_of_several_jpegs_in_one_file_the_first_is_read(tmp_path):
    first, second = Image.fromarray(quarters()), Image.new("RGB", (64, 48), "black")
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[second], quality=95)
    assert farthest(read_image(tmp_path / "a.mpo")) <= 6


def test_heic_is_read_with_the_extra(tmp_path):
    pytest.importorskip("pi_heif", reason="needs pi-heif: extra heif")
    for source in (ASSETS / "quarters.heic", io.BytesIO((ASSETS / "quarters.heic").read_bytes())):
        image = read_image(source)
        assert (image.mode, image.size) == ("RGB", (64, 48))
        assert farthest(image) <= 12
    with pytest.raises(AtrousError, match="E-IMAGE-PIXELS"):
        read_image(ASSETS / "quarters.heic", max_pixels=100)
    cut = tmp_path / "cut.heic"
    cut.write_bytes((ASSETS / "quarters.heic").read_bytes()[:500])
    with pytest.raises(AtrousError, match="E-IMAGE"):
        read_image(cut)


@pytest.mark.parametrize("name", ["a.heic", "a.jpg"])
def test_heic_without_the_extra_names_it(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    (tmp_path / name).write_bytes((ASSETS / "quarters.heic").read_bytes())
    with pytest.raises(AtrousError) as caught:
        read_image(tmp_path / name)
    assert caught.value.code == "E-MISSING-EXTRA"
    assert "pi_heif" in caught.value.what
    assert "'atrous[heif]'" in caught.value.fix


def test_jpeg_xl_is_read_upright_with_its_extra(tmp_path):
    jxl = pytest.importorskip("pylibjxl", reason="needs pylibjxl: extra jxl")
    pixels = np.random.default_rng(0).integers(0, 256, (33, 47, 3), np.uint8)
    exact = write(tmp_path / "a.jxl", jxl.encode(pixels, lossless=True))
    assert np.array_equal(np.asarray(read_image(exact)), pixels)
    exif = Image.Exif()
    exif[274] = 6
    jpeg = encoded(Image.fromarray(pixels), "JPEG", exif=exif, quality=95)
    found = read_image(write(tmp_path / "turned.jxl", jxl.jpeg_to_jxl(jpeg)))
    expected = read_image(io.BytesIO(jpeg))
    assert found.size == expected.size == (33, 47)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).mean() < 3
    for keep in (0.02, 0.3, 0.95):
        cut = write(tmp_path / "cut.jxl", exact.read_bytes()[: int(keep * exact.stat().st_size)])
        with pytest.raises(AtrousError, match=r"E-IMAGE-(BROKEN|FORMAT)"):
            read_image(cut)
    with pytest.raises(AtrousError, match="E-IMAGE-PIXELS"):
        read_image(exact, max_pixels=1000)


def test_without_its_extra_jpeg_xl_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pylibjxl", None)
    path = write(tmp_path / "a.jpg", b"\xff\x0a" + bytes(60))
    with pytest.raises(AtrousError) as caught:
        read_image(path)
    assert caught.value.code == "E-MISSING-EXTRA"
    assert "'atrous[jxl]'" in caught.value.fix


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "AVIF"])
def test_of_an_animation_the_first_frame_is_read_and_it_is_said(format):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    image = read_image(io.BytesIO(data))
    assert image.info["notes"] == ("frame 1 of an animation",)
    red, _, blue = image.getpixel((8, 8))
    assert red > 200 > 60 > blue
    assert "notes" not in read_image(io.BytesIO(encoded(frames[0], format))).info
