import csv
from pathlib import Path

import numpy as np
import pytest

from atrous.classes import CITYSCAPES, CITYSCAPES_LABELS
from atrous.data.formats.cityscapes import MAPPING, submission
from atrous.data.opening import open_dataset, recognise
from tests.data.trees import picture, save

# cityscapesScripts 2.3.0, helpers/labels.py (MIT), written out so that the comparison always runs.
OFFICIAL = Path(__file__).parents[2] / "assets" / "cityscapes_labels.csv"


def official() -> list[dict[str, str]]:
    with OFFICIAL.open(newline="") as file:
        return list(csv.DictReader(file))


def test_mapping_is_the_official_tables() -> None:
    expected = {
        int(row["id"]): None if row["ignoreInEval"] == "1" else int(row["trainId"])
        for row in official()
        if int(row["id"]) >= 0
    }
    assert expected == MAPPING


def test_names_and_colours_are_the_official_tables() -> None:
    evaluated = sorted(
        (row for row in official() if row["ignoreInEval"] == "0"), key=lambda r: int(r["trainId"])
    )
    assert tuple(row["name"] for row in evaluated) == CITYSCAPES.classes
    colors = [tuple(int(row[c]) for c in ("red", "green", "blue")) for row in evaluated]
    assert tuple(colors) == CITYSCAPES.palette


def test_table_is_that_of_the_installed_scripts() -> None:
    labels = pytest.importorskip(
        "cityscapesscripts.helpers.labels", reason="cityscapesScripts is not installed"
    )
    ours = [(r["name"], int(r["id"]), int(r["trainId"])) for r in official()]
    assert ours == [(label.name, label.id, label.trainId) for label in labels.labels]


def cityscapes(root: Path) -> dict[str, np.ndarray]:
    """Makes fine train and val, and coarse train and train_extra, of every raw id."""
    raw = {}
    rng = np.random.default_rng(0)
    for seed, (quality, split) in enumerate(
        [("gtFine", "train"), ("gtFine", "val"), ("gtCoarse", "train"), ("gtCoarse", "train_extra")]
    ):
        stem = f"ulm/ulm_{seed:06d}_000019"
        labels = rng.permuted(np.arange(72 * 96) % 34).reshape(72, 96).astype(np.uint8)
        save(root / "leftImg8bit" / split / f"{stem}_leftImg8bit.png", picture(seed))
        save(root / quality / split / f"{stem}_{quality}_labelIds.png", labels)
        save(root / quality / split / f"{stem}_{quality}_color.png", picture(seed))
        raw[f"{quality}/{split}"] = labels
    # the picture the coarse mask of train is about
    save(root / "gtFine/train/ulm/ulm_000002_000019_gtFine_labelIds.png", raw["gtCoarse/train"])
    save(root / "gtCoarse/train/ulm/ulm_000000_000019_gtCoarse_labelIds.png", raw["gtFine/train"])
    return raw


def test_fine_and_coarse_raw_ids_become_train_ids(tmp_path: Path) -> None:
    raw = cityscapes(tmp_path)
    table = np.full(256, 255, np.uint8)
    for row in official():
        if row["ignoreInEval"] == "0":
            table[int(row["id"])] = int(row["trainId"])
    for split, key in (
        ("train", "gtFine/train"),
        ("val", "gtFine/val"),
        ("train_coarse", "gtCoarse/train"),
        ("train_extra", "gtCoarse/train_extra"),
    ):
        dataset = open_dataset(tmp_path, split)
        targets = [dataset[i].target for i in range(len(dataset))]
        assert any(np.array_equal(target, table[raw[key]]) for target in targets), split
    assert dataset.classes == CITYSCAPES.classes


def test_train_id_masks_alone_are_read_unmapped(tmp_path: Path) -> None:
    stem = "val/ulm/ulm_000000_000019"
    labels = (np.arange(72 * 96) % 20).reshape(72, 96).astype(np.uint8)
    labels[labels == 19] = 255
    save(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png", picture())
    save(tmp_path / f"gtFine/{stem}_gtFine_labelTrainIds.png", labels)
    np.testing.assert_array_equal(open_dataset(tmp_path)[0].target, labels)


def test_submission_gives_the_servers_ids_back(tmp_path: Path) -> None:
    train_ids = np.arange(len(CITYSCAPES_LABELS), dtype=np.uint8)[None]
    raw = submission(train_ids)
    expected = {int(r["trainId"]): int(r["id"]) for r in official() if r["ignoreInEval"] == "0"}
    assert raw[0].tolist() == [expected[i] for i in range(19)]
    assert [MAPPING[int(value)] for value in raw[0]] == list(range(19))
    assert submission(np.array([[255]], np.uint8))[0, 0] == 0


def test_names_keep_the_city(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    assert tuple(open_dataset(tmp_path, "val").names) == (
        "leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png",
    )
    assert recognise(tmp_path).kind == "Cityscapes"
