import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.classes import VOC
from atrous.data.masks.colors import color_table
from atrous.data.masks.files import read_mask
from atrous.errors import AtrousError
from tests.data.trees import blocks, picture, save, write

LABELS = blocks(21)


def test_D09_palette_png_keeps_its_indices(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", LABELS, palette=VOC.palette)
    mask = read_mask(path)
    np.testing.assert_array_equal(mask.labels, LABELS)
    assert mask.palette[:21] == VOC.palette
    # The trap: converting to RGB or grey gives colours, not classes.
    assert not np.array_equal(np.asarray(Image.open(path).convert("L")), LABELS)


def test_D09_palette_does_not_matter(tmp_path: Path) -> None:
    shuffled = VOC.palette[::-1]
    path = save(tmp_path / "m.png", LABELS, palette=shuffled)
    np.testing.assert_array_equal(read_mask(path).labels, LABELS)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palette_png_of_few_bits_keeps_its_indices(tmp_path: Path, bits: int) -> None:
    labels = blocks(2**bits)
    path = save(tmp_path / "m.png", labels, palette=VOC.palette[: 2**bits], bits=bits)
    np.testing.assert_array_equal(read_mask(path).labels, labels)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".gif"])
def test_grey_values_are_labels(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"m{suffix}", LABELS)
    np.testing.assert_array_equal(read_mask(path).labels, LABELS)


def grey_png(labels: np.ndarray, bits: int) -> bytes:
    """Encodes a grey PNG of few bits a pixel, which Pillow cannot write."""
    import struct
    import zlib

    per_byte = 8 // bits
    rows = b""
    for row in labels:
        padded = np.append(row, np.zeros(-len(row) % per_byte, np.uint8)).reshape(-1, per_byte)
        shifts = np.arange(per_byte)[::-1] * bits
        rows += b"\0" + (padded << shifts).sum(axis=1).astype(np.uint8).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], bits, 0, 0, 0, 0)
    end = chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + end


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_png_of_few_bits_is_not_scaled(tmp_path: Path, bits: int) -> None:
    labels = blocks(2**bits, size=(33, 35))
    path = write(tmp_path / "m.png", grey_png(labels, bits))
    np.testing.assert_array_equal(read_mask(path).labels, labels)
    if bits > 1:  # what Pillow alone makes of it
        assert np.asarray(Image.open(path)).max() == 255


def test_16_bit_values_are_not_clipped(tmp_path: Path) -> None:
    labels = LABELS.astype(np.uint16) * 1000
    for suffix in (".png", ".tif"):
        mask = read_mask(save(tmp_path / f"m{suffix}", labels))
        np.testing.assert_array_equal(mask.labels, labels)


def test_bilevel_is_zero_and_one(tmp_path: Path) -> None:
    labels = blocks(2)
    path = save(tmp_path / "m.png", labels.astype(bool))
    mask = read_mask(path)
    np.testing.assert_array_equal(mask.labels, labels)
    assert mask.mode == "1"


def test_D07_jpeg_mask_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.jpg", LABELS)
    with pytest.raises(AtrousError, match="E-MASK-LOSSY") as caught:
        read_mask(path)
    assert caught.value.code == "E-MASK-LOSSY"
    assert "--force" in caught.value.fix


def test_D07_jpeg_mask_is_recognised_whatever_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "m.png", save(tmp_path / "m.jpg", LABELS).read_bytes())
    with pytest.raises(AtrousError, match="E-MASK-LOSSY"):
        read_mask(path)


def test_D07_forced_jpeg_mask_is_read_as_it_is(tmp_path: Path) -> None:
    path = save(tmp_path / "m.jpg", LABELS)
    labels = read_mask(path, allow_lossy=True).labels
    np.testing.assert_array_equal(labels, np.asarray(Image.open(path)))


@pytest.mark.parametrize(
    ("name", "options"),
    [("m.webp", {"lossless": False}), ("m.tif", {"compression": "jpeg"})],
)
def test_D07_other_lossy_masks_are_refused(
    tmp_path: Path, name: str, options: dict[str, object]
) -> None:
    pixels = np.asarray(Image.fromarray(LABELS).convert("RGB"))
    with pytest.raises(AtrousError, match="E-MASK-LOSSY"):
        read_mask(save(tmp_path / name, pixels, **options))


def test_lossless_webp_is_read(tmp_path: Path) -> None:
    pixels = np.asarray(VOC.palette, np.uint8)[LABELS]
    path = save(tmp_path / "m.webp", pixels, lossless=True)
    labels = read_mask(path, colors=color_table(VOC.palette)).labels
    np.testing.assert_array_equal(labels, LABELS)


def test_D08_colour_mask_without_table_lists_its_colours(tmp_path: Path) -> None:
    pixels = np.asarray(VOC.palette, np.uint8)[blocks(3)]
    with pytest.raises(AtrousError, match="E-MASK-COLOR") as caught:
        read_mask(save(tmp_path / "m.png", pixels))
    assert caught.value.code == "E-MASK-COLOR"
    for color in VOC.palette[:3]:
        count = int((pixels == color).all(axis=-1).sum())
        assert f"{color} {count} px" in caught.value.what


def test_D08_colour_mask_with_table_gives_classes(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.asarray(VOC.palette, np.uint8)[LABELS])
    mask = read_mask(path, colors=color_table(VOC.palette))
    np.testing.assert_array_equal(mask.labels, LABELS)


def test_D08_unknown_colours_are_listed_with_counts(tmp_path: Path) -> None:
    pixels = np.asarray(VOC.palette, np.uint8)[LABELS].copy()
    pixels[0, :5] = (1, 2, 3)
    with pytest.raises(AtrousError, match=r"\(1, 2, 3\) 5 px.*E-MASK-COLOR") as caught:
        read_mask(save(tmp_path / "m.png", pixels), colors=color_table(VOC.palette))
    assert caught.value.where.endswith("m.png")


def test_grey_stored_as_colour_is_labels(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.repeat(LABELS[..., None], 3, axis=-1))
    np.testing.assert_array_equal(read_mask(path).labels, LABELS)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_D06_opaque_alpha_is_dropped_and_transparency_refused(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(LABELS).convert(mode)
    image.save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "opaque.png").labels, LABELS)
    image.putpixel((0, 0), (*image.getpixel((0, 0))[:-1], 128))
    image.save(tmp_path / "clear.png")
    with pytest.raises(AtrousError, match="E-MASK-MODE"):
        read_mask(tmp_path / "clear.png")


def test_D06_palette_with_transparent_entry_keeps_indices(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", LABELS, palette=VOC.palette, transparency=0)
    np.testing.assert_array_equal(read_mask(path).labels, LABELS)


@pytest.mark.parametrize("mode", ["CMYK", "F", "LAB"])
def test_D06_modes_without_indices_are_refused(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(picture()).convert("L" if mode == "F" else "RGB")
    image = Image.merge("LAB", image.split()) if mode == "LAB" else image.convert(mode)
    image.save(tmp_path / "m.tif")
    with pytest.raises(AtrousError, match="E-MASK-MODE"):
        read_mask(tmp_path / "m.tif")


def test_D06_animated_mask_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(blocks(3, seed)) for seed in range(2)]
    frames[0].save(tmp_path / "m.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(AtrousError, match="E-MASK-MODE"):
        read_mask(tmp_path / "m.gif")


def test_D06_white_is_zero_tiff_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.tif", LABELS, tiffinfo={262: 0})
    with pytest.raises(AtrousError, match="E-MASK-MODE"):
        read_mask(path)


def test_pnm_is_refused_for_its_relative_values(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pgm", b"P5 2 1 20 " + bytes([5, 20]))
    with pytest.raises(AtrousError, match="E-MASK-MODE"):
        read_mask(path)


def test_16_bit_channels_are_refused(tmp_path: Path) -> None:
    data = bytearray(save(tmp_path / "m.png", picture()).read_bytes())
    # An IHDR that says 16 bits, with its checksum put right.
    import struct
    import zlib

    data[24] = 16
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(AtrousError):
        read_mask(write(tmp_path / "wide.png", bytes(data)))


def test_32_bit_values_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.tif", np.array([[0, 70000]], np.int32))
    with pytest.raises(AtrousError, match="E-MASK-MODE"):
        read_mask(path)


def test_D05_exif_orientation_of_a_mask_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turn a quarter clockwise
    path = save(tmp_path / "m.png", LABELS, exif=exif)
    np.testing.assert_array_equal(read_mask(path).labels, np.rot90(LABELS, -1))


def test_flipped_bit_in_a_png_is_an_error(tmp_path: Path) -> None:
    data = save(tmp_path / "m.png", LABELS, palette=VOC.palette).read_bytes()
    start = data.index(b"IDAT") + 4
    for position in range(start, len(data) - 12, 7):
        damaged = bytearray(data)
        damaged[position] ^= 1
        with pytest.raises(AtrousError):
            read_mask(io.BytesIO(damaged))


def test_flipped_palette_entry_is_an_error(tmp_path: Path) -> None:
    data = bytearray(save(tmp_path / "m.png", LABELS, palette=VOC.palette).read_bytes())
    data[data.index(b"PLTE") + 10] ^= 4
    with pytest.raises(AtrousError):
        read_mask(io.BytesIO(data))


def test_D02_missing_empty_and_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    write(tmp_path / "empty.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    for name, code in (
        ("none.png", "E-FILE-MISSING"),
        ("dangling.png", "E-FILE-MISSING"),
        ("folder.png", "E-FILE-KIND"),
        ("empty.png", "E-FILE-EMPTY"),
    ):
        with pytest.raises(AtrousError, match=code) as caught:
            read_mask(tmp_path / name)
        assert caught.value.where.endswith(name)


def test_D03_masks_are_known_by_content(tmp_path: Path) -> None:
    png = save(tmp_path / "a.png", LABELS).read_bytes()
    np.testing.assert_array_equal(read_mask(write(tmp_path / "b.tif", png)).labels, LABELS)
    with pytest.raises(AtrousError, match="E-IMAGE-FORMAT"):
        read_mask(write(tmp_path / "c.png", b"<!doctype html><title>404</title>"))


def test_D04_mask_of_too_many_pixels_is_refused_from_its_header(tmp_path: Path) -> None:
    import struct
    import zlib

    data = bytearray(save(tmp_path / "m.png", LABELS).read_bytes())
    data[16:24] = struct.pack(">II", 65535, 65535)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(AtrousError, match="E-IMAGE-PIXELS"):
        read_mask(io.BytesIO(data))
