"""Index pictures written by rows are what Pillow reads."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.images.png_rows import IndexPng


@pytest.mark.parametrize("classes", [2, 21, 256, 300])
def test_rows_come_back(classes: int, tmp_path: Path) -> None:
    dtype = np.uint8 if classes <= 256 else np.uint16
    labels = np.random.default_rng(0).integers(0, classes, (23, 37)).astype(dtype)
    palette = [(i % 256, i // 256, 7) for i in range(classes)]
    with IndexPng(tmp_path / "p.png", (23, 37), palette) as png:
        for rows in (labels[:1], labels[1:20], labels[20:]):
            png.write(rows)
    with Image.open(tmp_path / "p.png") as image:
        image.load()
        assert np.array_equal(np.asarray(image), labels)
        assert image.mode == ("P" if classes <= 256 else "I;16")
        if classes <= 256:
            assert image.getpalette()[: 3 * classes] == [c for color in palette for c in color]  # type: ignore[index]


def test_an_error_leaves_no_complete_file(tmp_path: Path) -> None:
    def interrupted() -> None:
        with IndexPng(tmp_path / "p.png", (2, 2), [(0, 0, 0)]) as png:
            png.write(np.zeros((1, 2), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(OSError, match=r".+"), Image.open(tmp_path / "p.png") as image:
        image.load()
