import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.serve.picture_size import picture_size
from tests.serve.clients import encoded, noise

CASES = {
    "PNG": {},
    "GIF": {},
    "BMP": {},
    "PPM": {},
    "JPEG": {},
    "JPEG progressive": {"progressive": True},
    "JPEG with EXIF": {"exif": b"Exif\0\0" + bytes(3000)},
    "JPEG with a comment": {"comment": b"\xff\xc0" * 2000},
    "TIFF": {},
    "TIFF compressed": {"compression": "tiff_lzw"},
    "TIFF big": {"big_tiff": True},
    "AVIF": {},
    "WEBP": {"quality": 80},
    "WEBP lossless": {"lossless": True},
    "WEBP extended": {"exif": b"Exif\0\0" + bytes(30)},
}


@pytest.mark.parametrize("size", [(1, 1), (33, 70), (300, 5)])
@pytest.mark.parametrize("case", CASES)
def test_the_size_is_what_the_decoder_says(case: str, size: tuple[int, int]) -> None:
    data = encoded(noise(*size), case.split()[0], **CASES[case])
    with Image.open(io.BytesIO(data)) as image:
        assert picture_size(data) == (image.height, image.width) == size


def test_other_kinds_of_a_format_have_a_size_too() -> None:
    image = Image.fromarray(noise(20, 30))
    for mode, kind in (("1", "PPM"), ("L", "PPM"), ("P", "BMP"), ("I;16", "TIFF"), ("LA", "PNG")):
        picture = image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)
        assert picture_size(encoded(picture, kind)) == (20, 30), mode


def test_big_endian_tiffs_have_a_size() -> None:
    data = b"MM\0*" + bytes((0, 0, 0, 8, 0, 2))
    data += bytes.fromhex("0100 0003 00000001 00070000") + bytes.fromhex(
        "0101 0004 00000001 00000005"
    )
    assert picture_size(data) == (5, 7)


def test_cut_and_random_bytes_have_no_size_or_one_and_never_raise() -> None:
    rng = np.random.default_rng(0)
    for case, options in CASES.items():
        data = encoded(noise(9, 11), case.split()[0], **options)
        for length in range(min(len(data), 200)):
            assert picture_size(data[:length]) in (None, (9, 11))
        for _ in range(200):
            changed = bytearray(data)
            changed[rng.integers(len(data))] = rng.integers(256)
            picture_size(bytes(changed))
    for _ in range(200):
        assert picture_size(rng.bytes(100)) is None


def test_blanks_without_end_are_soon_given_up() -> None:
    assert picture_size(b"P6" + b" \n#x\n" * 100_000) is None
    assert picture_size(b"\xff\xd8" + b"\xff\xe1\x00\x02" * 100_000) is None


def test_a_heic_picture_has_the_size_of_its_whole_blocks() -> None:
    data = (Path(__file__).parent.parent / "assets/quarters.heic").read_bytes()
    assert picture_size(data) == (64, 64)  # the picture is 48 x 64; a decoder cuts the rest off
