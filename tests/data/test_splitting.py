import pytest

from atrous.data import scenes, split_off
from atrous.data.splitting import Subset, held_out
from atrous.errors import AtrousError


def test_the_two_parts_are_all_samples_once() -> None:
    data = scenes(0, 10, size=(16, 16))
    train, val = split_off(data, 0.2, seed=3)
    assert (len(train), len(val)) == (8, 2)
    assert sorted((*train.names, *val.names)) == sorted(data.names)
    assert (train[0].image == data[data.names.index(train.names[0])].image).all()
    assert train.fingerprint() != val.fingerprint()
    assert train.classes == data.classes


def test_the_choice_is_the_same_on_every_machine() -> None:
    names = [f"images/p{i}.jpg" for i in range(10)]
    assert sorted(held_out(names, 3)) == [4, 7, 9]  # by sha256sum
    assert sorted(held_out(names, 3, seed=1)) == [2, 6, 8]


def test_the_choice_follows_names_and_not_their_order() -> None:
    names = [f"p{i}" for i in range(40)]
    chosen = {names[i] for i in held_out(names, 8)}
    other = names[::-1]
    assert {other[i] for i in held_out(other, 8)} == chosen
    more = [*names, "new"]
    assert len({more[i] for i in held_out(more, 8)} - chosen) <= 1


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_both_parts_have_a_sample(share: float) -> None:
    train, val = split_off(scenes(0, 2, size=(16, 16)), share)
    assert len(train) == len(val) == 1


@pytest.mark.parametrize(("count", "share"), [(1, 0.2), (0, 0.2), (5, 0), (5, 1)])
def test_what_cannot_be_divided_is_refused(count: int, share: float) -> None:
    with pytest.raises(AtrousError) as caught:
        split_off(scenes(0, count, size=(16, 16)), share)
    assert caught.value.code == "E-DATA-SPLIT"


def test_a_subset_is_in_the_order_asked_for() -> None:
    data = scenes(0, 5, size=(16, 16))
    assert Subset(data, (4, 0)).names == (data.names[4], data.names[0])
