"""Index pictures written by rows are what Pillow reads."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.images.png_rows import png_rows


@pytest.mark.parametrize("classes", [2, 21, 256, 300])
def test_rows_come_back(classes: int, tmp_path: Path) -> None:
    dtype = np.uint8 if classes <= 256 else np.uint16
    labels = np.random.default_rng(0).integers(0, classes, (23, 37)).astype(dtype)
    palette = [(i % 256, i // 256, 7) for i in range(classes)]
    kind = "palette" if classes <= 256 else "grey16"
    with png_rows(tmp_path / "p.png", (23, 37), kind, palette=palette, text=("a", "b")) as write:
        for rows in (labels[:1], labels[1:20], labels[20:]):
            write(rows)
    with Image.open(tmp_path / "p.png") as image:
        image.load()
        assert np.array_equal(np.asarray(image), labels)
        assert image.info["a"] == "b"
        assert image.mode == ("P" if classes <= 256 else "I;16")
        if classes <= 256:
            assert image.getpalette()[: 3 * classes] == [c for color in palette for c in color]  # type: ignore[index]


@pytest.mark.parametrize(("kind", "mode", "shape"), [("grey", "L", ()), ("rgba", "RGBA", (4,))])
def test_grey_and_transparent_rows_come_back(kind, mode, shape, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (23, 37, *shape)).astype(np.uint8)
    with png_rows(tmp_path / "p.png", (23, 37), kind) as write:
        write(pixels[:9])
        write(pixels[9:])
    with Image.open(tmp_path / "p.png") as image:
        assert image.mode == mode
        assert np.array_equal(np.asarray(image), pixels)


def test_an_error_leaves_no_complete_file(tmp_path: Path) -> None:
    def interrupted() -> None:
        with png_rows(tmp_path / "p.png", (2, 2), "palette", palette=[(0, 0, 0)]) as write:
            write(np.zeros((1, 2), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(OSError, match=r".+"), Image.open(tmp_path / "p.png") as image:
        image.load()
