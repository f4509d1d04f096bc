import io

import numpy as np
import pytest
from PIL import Image

from atrous.data.doctor.jpeg import without_refinements
from tests.data.trees import picture
from tests.faults.mutations import damage


def jpeg(**options: object) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(picture(1, size=(120, 160)))
    image.save(stream, "JPEG", **({"quality": 90} | options))
    return stream.getvalue()


def decoded(data: bytes, *, shrunk: bool) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    if shrunk:
        image.draft("L", (20, 15))
    return np.asarray(image)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 4}])
def test_coarse_picture_is_that_of_the_whole_file_but_for_its_last_bit(
    options: dict[str, object],
) -> None:
    data = jpeg(progressive=True, **options)
    coarse = without_refinements(data)
    assert coarse is not None
    assert len(coarse) < len(data) / 2
    ours, theirs = decoded(coarse, shrunk=True), decoded(data, shrunk=True)
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert not np.array_equal(decoded(coarse, shrunk=False), decoded(data, shrunk=False))


def test_other_files_are_left_to_the_decoder() -> None:
    assert without_refinements(jpeg()) is None  # baseline: one scan
    assert without_refinements(b"") is None
    assert without_refinements(b"\x89PNG\r\n\x1a\n") is None


def test_files_that_do_not_reach_their_end_are_left_to_the_decoder() -> None:
    data = jpeg(progressive=True)
    for length in range(0, len(data) - 1, 101):
        assert without_refinements(data[:length]) is None


def readable(data: bytes) -> bool:
    try:
        Image.open(io.BytesIO(data)).load()
    except Exception:
        return False
    return True


def test_no_damaged_file_passes_that_the_decoder_refuses() -> None:
    whole = jpeg(progressive=True)
    passed = 0
    for seed in range(400):
        data = damage(whole, np.random.default_rng(seed))
        coarse = without_refinements(data)
        if coarse is not None and readable(coarse):
            passed += 1
            assert readable(data), seed
    assert passed > 100
