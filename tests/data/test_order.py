from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.data.order import Draw, Position, epoch_order, evaluation_order, training_order
from atrous.errors import AtrousError


def draws_of(num_samples: int, batches: int, **options: object) -> list[list[Draw]]:
    order = training_order(num_samples, **options)  # type: ignore[arg-type]
    return [draws for draws, _ in islice(order, batches)]


@given(num_samples=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_epoch_holds_every_sample_once_and_no_batch_is_short(
    num_samples: int, batch_size: int, seed: int
) -> None:
    batches = -(-3 * num_samples // batch_size)
    drawn = draws_of(num_samples, batches, seed=seed, batch_size=batch_size)
    assert {len(batch) for batch in drawn} == {batch_size}
    flat = [draw for batch in drawn for draw in batch]
    for epoch in range(3):
        stretch = flat[epoch * num_samples : (epoch + 1) * num_samples]
        assert sorted(stretch) == [Draw(epoch, sample) for sample in range(num_samples)]


@given(
    num_samples=st.integers(1, 40), batch_size=st.integers(1, 20), stop=st.integers(0, 12),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_resumed_order_equals_uninterrupted(num_samples: int, batch_size: int, stop: int) -> None:
    whole = list(islice(training_order(num_samples, seed=5, batch_size=batch_size), 14))
    start = whole[stop][1]
    rest = training_order(num_samples, seed=5, batch_size=batch_size, start=start)
    assert list(islice(rest, 13 - stop)) == whole[stop + 1 :]


@given(num_samples=st.integers(1, 40), world_size=st.integers(1, 6), share=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_T07_ranks_share_the_same_batches_whatever_their_number(
    num_samples: int, world_size: int, share: int
) -> None:
    size = world_size * share
    alone = draws_of(num_samples, 7, seed=1, batch_size=size)
    ranks = [
        draws_of(num_samples, 7, seed=1, batch_size=size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    together = [[draw for part in parts for draw in part] for parts in zip(*ranks, strict=True)]
    assert together == alone


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [epoch_order(50, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 6


def test_order_is_uniform() -> None:
    first = np.array([epoch_order(4, seed=0, epoch=epoch)[0] for epoch in range(2000)])
    counts = np.bincount(first, minlength=4)
    assert abs(counts - 500).max() < 5 * 19.4  # five deviations of the binomial


@given(num_samples=st.integers(0, 50), world_size=st.integers(1, 9))
@settings(deadline=None)
def test_T16_evaluation_neither_repeats_nor_drops_samples(
    num_samples: int, world_size: int
) -> None:
    shares = [
        evaluation_order(num_samples, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert sorted(index for share in shares for index in share) == list(range(num_samples))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("batch_size", "world_size"), [(6, 4), (0, 1)])
def test_batch_that_cannot_be_shared_is_refused(batch_size: int, world_size: int) -> None:
    order = training_order(9, seed=0, batch_size=batch_size, world_size=world_size)
    with pytest.raises(AtrousError, match="E-BATCH-SIZE"):
        next(order)


def test_empty_data_is_refused() -> None:
    with pytest.raises(AtrousError, match="E-DATA-EMPTY"):
        next(training_order(0, seed=0, batch_size=1, start=Position()))
