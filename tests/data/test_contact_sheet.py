from pathlib import Path

import numpy as np
from PIL import Image

from atrous.data import Sample
from atrous.data.contact_sheet import (
    fit_overlay,
    pick_samples,
    sample_tiles,
    sheet,
    view_tiles,
    with_legend,
)
from atrous.data.opening import open_dataset
from tests.data.trees import blocks, folders, picture, save, write


def test_overlay_darkens_unlabelled_pixels_and_tints_classes(tmp_path: Path) -> None:
    folders(tmp_path)
    dataset = open_dataset(tmp_path)
    target = np.full((72, 96), 255, np.uint8)
    target[:, 48:] = 1
    image = np.full((72, 96, 3), 200, np.uint8)
    shown = np.asarray(fit_overlay(Sample(image, target), dataset))
    assert shown.shape == (72, 96, 3)
    assert (shown[:, :40] < 100).all()
    right = shown[10:60, 60:90].reshape(-1, 3)
    assert (right == right[0]).all()
    assert right[0][0] > right[0][1] == right[0][2]  # dark red, brightened


def test_large_pictures_are_fitted_without_inventing_labels(tmp_path: Path) -> None:
    folders(tmp_path)
    dataset = open_dataset(tmp_path)
    sample = Sample(picture(size=(1000, 300)), blocks(3, size=(1000, 300)))
    assert fit_overlay(sample, dataset).size == (72, 240)


def test_broken_sample_shows_its_error(tmp_path: Path) -> None:
    folders(tmp_path)
    write(tmp_path / "images/val/picture1.jpg", b"broken")
    tiles = sample_tiles(open_dataset(tmp_path), [0, 1])
    assert len(tiles) == 4
    assert "not a picture" in tiles[1].caption
    assert tiles[3].caption == "72 x 96"


def test_sheet_holds_every_tile_and_a_legend(tmp_path: Path) -> None:
    folders(tmp_path)
    dataset = open_dataset(tmp_path)
    indices = pick_samples(dataset, 3, seed=0)
    page = sheet(sample_tiles(dataset, indices), columns=4)
    assert page.size == (4 * 328 + 8, 2 * 270 + 8)
    whole = with_legend(page, dataset, indices)
    assert whole.width == page.width
    assert whole.height > page.height


def test_samples_depend_on_the_seed_alone(tmp_path: Path) -> None:
    folders(tmp_path, count=20)
    dataset = open_dataset(tmp_path)
    assert pick_samples(dataset, 5, seed=3) == pick_samples(dataset, 5, seed=3)
    assert pick_samples(dataset, 5, seed=3) != pick_samples(dataset, 5, seed=4)
    assert pick_samples(dataset, 99, seed=0) == list(range(20))


def test_views_of_a_sample_stand_beside_it(tmp_path: Path) -> None:
    folders(tmp_path)
    dataset = open_dataset(tmp_path)

    def view(index: int, number: int) -> Sample:
        image, target = dataset[index]
        return Sample(image[:, :: (-1) ** number], target[:, :: (-1) ** number])

    tiles = view_tiles(dataset, 0, 2, view)
    assert [tile.caption for tile in tiles] == [
        "images/val/picture1.jpg",
        "view 1, 72 x 96",
        "view 2, 72 x 96",
    ]
    plain, same, flipped = (np.asarray(tile.image) for tile in tiles)
    np.testing.assert_array_equal(plain, same)
    assert not np.array_equal(plain, flipped)


def test_sixteen_bit_targets_are_shown(tmp_path: Path) -> None:
    names = "\n".join(f"c{k}" for k in range(300))
    labels = (np.arange(72 * 96) % 300).reshape(72, 96).astype(np.uint16)
    save(tmp_path / "images/val/a.jpg", picture())
    save(tmp_path / "masks/val/a.png", labels)
    write(tmp_path / "classes.txt", names)
    dataset = open_dataset(tmp_path)
    tiles = sample_tiles(dataset, [0])
    assert isinstance(tiles[1].image, Image.Image)
    assert with_legend(sheet(tiles, 2), dataset, [0]).width > 0
