import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from atrous.errors import AtrousError
from atrous.predict.rle import (
    decode_coco,
    decode_runs,
    encode_coco,
    encode_runs,
    pack_counts,
    unpack_counts,
)

masks = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(lambda s: arrays(np.bool_, s))


def coarse_masks() -> list[np.ndarray]:
    """Returns masks with long runs, whose counts need several characters."""
    rng = np.random.default_rng(0)
    cells = [rng.random((5, 7)) < share for share in np.linspace(0, 1, 40)]
    return [np.kron(cell, np.ones((61, 83), np.bool_)) for cell in cells]


def agree_with_pycocotools(mask: np.ndarray) -> None:
    mask_api = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    theirs = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_coco(mask) == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    np.testing.assert_array_equal(
        decode_coco(theirs | {"size": list(mask.shape)}, mask.shape), mask
    )


@given(masks)
def test_encoding_and_decoding_equal_pycocotools(mask: np.ndarray) -> None:
    agree_with_pycocotools(mask)


def test_long_runs_equal_pycocotools() -> None:
    for mask in coarse_masks():
        agree_with_pycocotools(mask)


@given(masks)
def test_decoding_undoes_encoding(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_coco(encode_coco(mask), mask.shape), mask)


@given(st.lists(st.integers(0, 1 << 30), max_size=30))
def test_unpacking_undoes_packing(counts: list[int]) -> None:
    assert unpack_counts(pack_counts(counts)) == counts


def test_uncompressed_counts_walk_columns() -> None:
    mask = decode_coco({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3))
    np.testing.assert_array_equal(mask, [[0, 1, 0], [1, 0, 0]])


def test_runs_may_begin_with_either_state() -> None:
    for pixels in ([True, False], [False, True], [True], [False], []):
        array = np.array(pixels, dtype=np.bool_)
        np.testing.assert_array_equal(decode_runs(encode_runs(array), array.size), array)


@pytest.mark.parametrize(
    ("rle", "reason"),
    [
        ({"size": [4, 4], "counts": [16]}, "picture of"),
        ({"size": [4, 5], "counts": [19]}, "19 pixels for a mask of 20"),
        ({"size": [4, 5], "counts": [-5, 25]}, "a run of -5"),
        ({"size": [4, 5], "counts": "~"}, "character"),
        ({"size": [4, 5], "counts": "o"}, "end within a number"),
        ({"size": [4, 5], "counts": "oooooooooooo1"}, "character"),
        ({"size": [4, 5], "counts": [2.5, 17.5]}, "no pixel counts"),
        ({"size": [4, 5], "counts": [1 << 80]}, "no pixel counts"),
        ({"size": [4, 5], "counts": None}, "without counts"),
        ({"size": [4, 5]}, "without counts"),
        ([1, 2], "without counts"),
        ({"size": 4, "counts": [20]}, "picture of"),
    ],
)
def test_D19_broken_run_lengths_are_refused(rle: object, reason: str) -> None:
    with pytest.raises(AtrousError, match=reason):
        decode_coco(rle, (4, 5))


@given(st.text(max_size=40))
def test_any_text_decodes_or_is_refused(text: str) -> None:
    try:
        mask = decode_coco({"size": [6, 7], "counts": text}, (6, 7))
    except AtrousError:
        return
    assert mask.shape == (6, 7)
