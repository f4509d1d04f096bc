import numpy as np
import pytest
import torch
from torch import Tensor

from atrous.build import create_classifier
from atrous.classifier import Classifier
from atrous.data.dataset import Sample
from atrous.evaluation.classification import classify


class Scripted(Classifier):
    """Gives the logits written for a picture, which its first pixel numbers."""

    table: Tensor

    def forward(self, images: Tensor) -> Tensor:
        return self.table[images[:, 0, 0, 0].long()][..., None, None]


@pytest.fixture
def model() -> Scripted:
    made = create_classifier("mobilenet_v2", num_classes=7, depth_multiplier=0.1).eval()
    made.__class__ = Scripted
    made.table = torch.randint(0, 4, (70, 7), generator=torch.manual_seed(3)).float()  # with ties
    return made  # type: ignore[return-value]


def _samples(labels: list[int]) -> list[Sample]:
    return [
        Sample(np.full((9, 9, 3), i, np.uint8), np.full((9, 9), label, np.uint8))
        for i, label in enumerate(labels)
    ]


def test_top_1_and_top_5_are_those_of_a_naive_loop(model: Scripted) -> None:
    labels = np.random.default_rng(0).integers(0, 7, 70).tolist()
    counts, among = classify(model, _samples(labels), (4, 4))
    expected, within = np.zeros((7, 7), np.int64), 0
    for label, row in zip(labels, model.table.tolist(), strict=True):
        expected[label, row.index(max(row))] += 1
        within += sum(score > row[label] for score in row) < 5
    np.testing.assert_array_equal(counts, expected)
    assert among == within < 70


def test_shares_of_processes_add_up_to_the_whole(model: Scripted) -> None:
    samples = _samples([i % 7 for i in range(70)])
    whole, among = classify(model, samples, (4, 4))
    parts = [classify(model, samples[rank::3], (4, 4)) for rank in range(3)]
    np.testing.assert_array_equal(sum(counts for counts, _ in parts), whole)
    assert sum(found for _, found in parts) == among


def test_no_pictures_are_no_counts(model: Scripted) -> None:
    counts, among = classify(model, [], (4, 4))
    assert not counts.any()
    assert among == 0
