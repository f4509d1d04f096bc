import numpy as np
import pytest

from atrous import upsample
from tests import reference


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (20, 29), (1, 40)])
@pytest.mark.parametrize("stride", [1, 4, 16])
def test_labels_match_naive_loop(size, stride):
    draw = np.random.default_rng(0)
    shape = (-(-size[0] // stride), -(-size[1] // stride), 5)
    coarse = draw.normal(size=shape).astype(np.float32)
    expected = reference.upsample(coarse, stride, size)
    assert np.array_equal(upsample.labels(coarse, stride, size), expected.argmax(2))


def test_probabilities_match_naive_softmax():
    coarse = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    logits = reference.upsample(coarse, 4, (11, 14))
    exponentials = np.exp(logits)
    for index in range(5):
        expected = exponentials[..., index] / exponentials.sum(2)
        found = upsample.probability(coarse, 4, (11, 14), index)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_P04_many_classes_and_pixels_are_done_in_chunks(monkeypatch):
    coarse = np.random.default_rng(0).normal(size=(5, 6, 9)).astype(np.float32)
    whole = upsample.labels(coarse, 4, (18, 22))
    monkeypatch.setattr(upsample, "CHUNK_BYTES", 1)
    assert np.array_equal(upsample.labels(coarse, 4, (18, 22)), whole)


def test_more_than_256_classes_give_sixteen_bit_labels():
    coarse = np.zeros((1, 1, 300), np.float32)
    coarse[..., 299] = 1
    assert upsample.labels(coarse, 4, (2, 2)).tolist() == [[299, 299], [299, 299]]
