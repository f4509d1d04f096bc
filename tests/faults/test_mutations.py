import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from tests.faults.mutations import mutate, originals, run, summary


def test_damaged_pictures_and_masks_never_crash_hang_or_change_a_png_label() -> None:
    result = summary(run(250))
    assert result["bad"] == []
    assert result["files"] == 250
    assert result["png_masks"] > 50


@pytest.mark.slow
def test_two_thousand_more() -> None:
    assert summary(run(2000, first_seed=100_000))["bad"] == []


def test_originals_are_read_as_they_were_written() -> None:
    from atrous.classes import VOC
    from atrous.data.masks.colors import color_table
    from atrous.data.masks.files import read_mask

    for original in originals():
        if original.labels is not None:
            mask = read_mask(io.BytesIO(original.data), colors=color_table(VOC.palette))
            np.testing.assert_array_equal(mask.labels, original.labels, err_msg=original.name)


def test_labels_would_change_if_checksums_were_not_verified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from atrous.data.masks import files as masks
    from atrous.images.decode import open_image

    @contextmanager
    def without_checksums(source: io.BytesIO, *, checksums: bool) -> Iterator[Image.Image]:
        with open_image(source) as image:
            yield image

    monkeypatch.setattr(masks, "open_image", without_checksums)
    assert summary(run(120))["png_masks_with_other_labels"] > 0


def test_damage_is_a_function_of_the_seed() -> None:
    for seed in range(20):
        original, data = mutate(seed)
        assert data == mutate(seed)[1] != original.data
