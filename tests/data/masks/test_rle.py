import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from atrous.data.masks.rle import decode_coco, decode_runs, encode_coco, unpack_counts
from atrous.errors import AtrousError
from tests import reference

masks = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(lambda s: arrays(np.bool_, s))


def coarse_masks() -> list[np.ndarray]:
    """Returns masks with long runs, whose counts need several characters."""
    rng = np.random.default_rng(0)
    cells = [rng.random((5, 7)) < share for share in np.linspace(0, 1, 12)]
    return [np.kron(cell, np.ones((61, 83), np.bool_)) for cell in cells]


def agree_with_the_naive_code(mask: np.ndarray) -> None:
    counts = reference.run_lengths(mask.T)
    expected = {"size": list(mask.shape), "counts": reference.packed(counts)}
    assert encode_coco(mask) == expected
    np.testing.assert_array_equal(decode_coco(expected, mask.shape), mask)
    as_list = {"size": list(mask.shape), "counts": counts}
    np.testing.assert_array_equal(decode_coco(as_list, mask.shape), mask)


@given(masks)
def test_encoding_and_decoding_equal_the_naive_code(mask: np.ndarray) -> None:
    agree_with_the_naive_code(mask)


def test_long_runs_equal_the_naive_code() -> None:
    for mask in coarse_masks():
        agree_with_the_naive_code(mask)


@given(st.lists(st.integers(0, 1 << 30), max_size=30))
def test_unpacking_undoes_packing(counts: list[int]) -> None:
    assert unpack_counts(reference.packed(counts)) == counts


def test_uncompressed_counts_walk_columns() -> None:
    mask = decode_coco({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3))
    np.testing.assert_array_equal(mask, [[0, 1, 0], [1, 0, 0]])


def test_runs_may_begin_with_either_state() -> None:
    for pixels in ([True, False], [False, True], [True], [False], []):
        array = np.array(pixels, dtype=np.bool_)
        counts = reference.run_lengths(array)
        np.testing.assert_array_equal(decode_runs(counts, array.size), array)


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [4, 4], "counts": [16]},
        {"size": [4, 5], "counts": [19]},
        {"size": [4, 5], "counts": [-5, 25]},
        {"size": [4, 5], "counts": "~"},
        {"size": [4, 5], "counts": "o"},
        {"size": [4, 5], "counts": "oooooooooooo1"},
        {"size": [4, 5], "counts": [2.5, 17.5]},
        {"size": [4, 5], "counts": [1 << 80]},
        {"size": [4, 5], "counts": None},
        {"size": [4, 5]},
        [1, 2],
        {"size": 4, "counts": [20]},
    ],
)
def test_D19_broken_run_lengths_are_refused(rle: object) -> None:
    with pytest.raises(AtrousError) as caught:
        decode_coco(rle, (4, 5))
    assert caught.value.code == "E-SHAPE-RLE"


@given(st.text(max_size=40))
def test_any_text_decodes_or_is_refused(text: str) -> None:
    try:
        mask = decode_coco({"size": [6, 7], "counts": text}, (6, 7))
    except AtrousError:
        return
    assert mask.shape == (6, 7)
