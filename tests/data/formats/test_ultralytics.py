from pathlib import Path

import numpy as np
import pytest

from atrous.data import FileDataset
from atrous.data.formats.dataset_yaml import read_dataset_yaml
from atrous.data.opening import open_dataset
from atrous.errors import AtrousError, ExitCode
from tests.data.trees import blocks, picture, save, write

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

NAMES = "names:\n  0: sky\n  1: sea\n  2: sand\n"
SIZE = (72, 96)


def masks(root: Path, *, suffix: str = ".png") -> dict[str, np.ndarray]:
    labels = {}
    for seed, split in enumerate(("train", "val")):
        labels[split] = blocks(3, seed)
        save(root / "images" / split / "a.jpg", picture(seed))
        save(root / "masks" / split / f"a{suffix}", labels[split])
    return labels


def described(root: Path, text: str) -> FileDataset:
    dataset = open_dataset(write(root / "data.yaml", text))
    assert isinstance(dataset, FileDataset)
    return dataset


def test_masks_stand_where_the_pictures_do(tmp_path: Path) -> None:
    labels = masks(tmp_path / "set")
    text = f"path: set\ntrain: images/train\nval: images/val\nmasks_dir: masks\n{NAMES}"
    dataset = described(tmp_path, text)
    assert dataset.classes == ("sky", "sea", "sand")
    np.testing.assert_array_equal(dataset[0].target, labels["val"])
    train = open_dataset(tmp_path, "train")  # the folder of data.yaml works, too
    np.testing.assert_array_equal(train[0].target, labels["train"])


@pytest.mark.parametrize("suffix", [".tif", ".bmp"])
def test_masks_may_have_other_lossless_formats(tmp_path: Path, suffix: str) -> None:
    labels = masks(tmp_path, suffix=suffix)
    dataset = described(tmp_path, f"val: images/val\nmasks_dir: masks\n{NAMES}")
    np.testing.assert_array_equal(dataset[0].target, labels["val"])


def test_folder_of_masks_counts_without_the_key(tmp_path: Path) -> None:
    labels = masks(tmp_path)
    dataset = described(tmp_path, f"val: images/val\n{NAMES}")
    np.testing.assert_array_equal(dataset[0].target, labels["val"])


def test_label_mapping_and_ignored_values(tmp_path: Path) -> None:
    labels = masks(tmp_path)["val"]
    mapping = "label_mapping:\n  -1: ignore_label\n  0: ignore_label\n  1: 0\n  2: 255\n  33: 1\n"
    names = "names: [sea, sand]\n"
    dataset = described(tmp_path, f"val: images/val\nmasks_dir: masks\n{names}{mapping}")
    np.testing.assert_array_equal(dataset[0].target, np.array([255, 0, 255], np.uint8)[labels])


def test_the_documented_cityscapes_mapping_equals_ours(tmp_path: Path) -> None:
    from atrous.classes import CITYSCAPES
    from atrous.data.formats.cityscapes import MAPPING

    masks(tmp_path)
    lines = [f"  {v}: {'ignore_label' if i is None else i}" for v, i in MAPPING.items()]
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(CITYSCAPES.classes))
    text = f"val: images/val\nmasks_dir: masks\nnames:\n{names}label_mapping:\n  -1: ignore_label\n"
    content = read_dataset_yaml(write(tmp_path / "c.yaml", text + "\n".join(lines)))
    assert content.mapping == MAPPING


def test_lists_of_pictures_and_several_folders(tmp_path: Path) -> None:
    labels = masks(tmp_path)
    write(tmp_path / "val.txt", "./images/val/a.jpg\nimages/train/a.jpg\n")
    dataset = described(tmp_path, f"val: val.txt\nmasks_dir: masks\n{NAMES}")
    np.testing.assert_array_equal(dataset[0].target, labels["val"])
    np.testing.assert_array_equal(dataset[1].target, labels["train"])
    assert len(set(dataset.names)) == 2
    both = described(tmp_path, f"val: [images/val, images/train]\nmasks_dir: masks\n{NAMES}")
    assert len(both) == len(set(both.names)) == 2


def test_colours_of_masks_are_our_own_key(tmp_path: Path) -> None:
    labels = masks(tmp_path)["val"]
    colors = np.array([(1, 2, 3), (4, 5, 6), (7, 8, 9)], np.uint8)
    save(tmp_path / "masks/val/a.png", colors[labels])
    keys = "colors:\n  sky: [1, 2, 3]\n  1: [4, 5, 6]\n  sand: [7, 8, 9]\n"
    dataset = described(tmp_path, f"val: images/val\nmasks_dir: masks\n{NAMES}{keys}")
    np.testing.assert_array_equal(dataset[0].target, labels)
    assert dataset.palette == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    void = "colors:\n  sky: [1, 2, 3]\n  1: [4, 5, 6]\n  ignore_label: [7, 8, 9]\n"
    dataset = described(tmp_path, f"val: images/val\nmasks_dir: masks\n{NAMES}{void}")
    np.testing.assert_array_equal(dataset[0].target, np.array([0, 1, 255], np.uint8)[labels])


def outlines(root: Path, text: str) -> None:
    save(root / "images/val/a.jpg", picture())
    write(root / "labels/val/a.txt", text)


BIG = "1 0 0 1 0 1 1 0 1"  # the whole picture
SMALL = "0 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5"


def test_outlines_get_a_background_after_several_classes(tmp_path: Path) -> None:
    outlines(tmp_path, f"{SMALL}\n1 0.5 0.5 1 0.5 1 1 0.5 1\n")
    dataset = described(tmp_path, "val: images/val\nnames: [cat, dog]\n")
    assert dataset.classes == ("cat", "dog", "background")
    expected = np.full(SIZE, 2, np.uint8)
    expected[18:36, 24:48] = 0
    expected[36:, 48:] = 1
    np.testing.assert_array_equal(dataset[0].target, expected)


def test_outlines_of_one_class_are_one_on_zero(tmp_path: Path) -> None:
    outlines(tmp_path, SMALL)
    dataset = described(tmp_path, "val: images/val\nnames: [cat]\n")
    assert dataset.classes == ("background", "cat")
    expected = np.zeros(SIZE, np.uint8)
    expected[18:36, 24:48] = 1
    np.testing.assert_array_equal(dataset[0].target, expected)


@pytest.mark.parametrize("text", [f"{BIG}\n{SMALL}", f"{SMALL}\n{BIG}"])
def test_smaller_outlines_lie_on_top(tmp_path: Path, text: str) -> None:
    outlines(tmp_path, text)
    target = described(tmp_path, "val: images/val\nnames: [cat, dog]\n")[0].target
    assert (target[20, 30], target[0, 0]) == (0, 1)


def test_empty_file_is_all_background_and_missing_one_is_named(tmp_path: Path) -> None:
    outlines(tmp_path, "")
    text = "val: images/val\nnames: [cat, dog]\n"
    assert (described(tmp_path, text)[0].target == 2).all()
    save(tmp_path / "images/val/b.jpg", picture())
    with pytest.raises(AtrousError, match=r"(?s)b\.jpg.*E-DATA-PAIRS"):
        described(tmp_path, text)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("2 0 0 1 0 1 1", "E-DATA-ANNOTATION"),
        ("0.5 0 0 1 0 1 1", "E-DATA-ANNOTATION"),
        ("-1 0 0 1 0 1 1", "E-DATA-ANNOTATION"),
        ("nan 0 0 1 0 1 1", "E-DATA-ANNOTATION"),
        ("0 0.5 0.5 0.2 0.2", "E-DATA-ANNOTATION"),
        ("0 0 0 1 0 1", "E-DATA-ANNOTATION"),
        ("0 0 0 1 0 1 2", "E-SHAPE"),
        ("0 0 0 1 0 1 nan", "E-SHAPE"),
        ("0 0 0", "E-SHAPE"),
        ("0", "E-SHAPE"),
        ("dog 0 0 1 0 1 1", "E-DATA-ANNOTATION"),
    ],
)
def test_D19_broken_line_names_file_and_line(tmp_path: Path, line: str, code: str) -> None:
    outlines(tmp_path, f"{SMALL}\n{line}\n")
    with pytest.raises(AtrousError, match=code) as caught:
        described(tmp_path, "val: images/val\nnames: [cat, dog]\n")[0]
    assert "line 2" in caught.value.what
    assert caught.value.where.endswith("a.txt")


@pytest.mark.parametrize(
    "text",
    [
        "val: images/val\nnames: [a, b]\nnc: 3\n",
        "val: images/val\nnames: {0: a, 2: b}\n",
        "val: images/val\nnames: {1: a, 2: b}\n",
        "val: images/val\nnames: [a, b, a]\n",
        "val: images/val\nnames: {0: a, 0: b}\n",
        "val: images/val\nnames: {0: a, x: b}\n",
        "val: images/val\n",
        "val: images/val\nnames: []\n",
        "val: images/val\nval: images/train\nnames: [a]\n",
        "val: images/val\nnames: [a, b]\nlabel_mapping: {1: 2}\n",
        "val: images/val\nnames: [a]\nlabel_mapping: {x: 0}\n",
        "val: images/val\nnames: [a]\nlabel_mapping: [0]\n",
        "val: images/val\nnames: [a]\ncolors: {b: [1, 2, 3]}\n",
        "val: images/val\nnames: [a]\ncolors: {a: [1, 2]}\n",
        "val: images/val\nnames: [a]\ncolors: {a: [1, 2, 300]}\n",
        "val: images/valid\nnames: [a]\n",
        "path: nowhere\nval: images/val\nnames: [a]\n",
        "val: images/val\nnames: [a]\nmask_dir: masks\n",
        "val: images/val\nnames: [a]\nlabel_maping: {}\n",
        "- a\n- b\n",
        "",
        "a: [",
        "a: !!python/object/apply:os.system ['true']",
    ],
)
def test_D14_schema_error_says_what_does_not_fit(tmp_path: Path, text: str) -> None:
    masks(tmp_path)
    with pytest.raises(AtrousError, match="E-DATA-YAML") as caught:
        described(tmp_path, text)
    assert caught.value.exit_code == ExitCode.DATA
    assert caught.value.where.endswith("data.yaml")


def test_scripts_and_keys_of_other_tasks_are_passed_over(tmp_path: Path) -> None:
    masks(tmp_path)
    text = f"download: |\n  raise SystemExit\nkpt_shape: [17, 3]\nval: ../images/val\n{NAMES}"
    assert len(described(tmp_path, text)) == 1


@pytest.mark.parametrize(
    "lines",
    [
        "bands: [1, 2]",
        "normalize: {mean: [1], std: [1]}",
        "channels: [a, a]",
        "channels: a",
        "channels: [a, b]\nbands: [1]",
        "channels: [a, b]\nbands: [0, 1]",
        "channels: [a, b]\nbands: [1, '{stem}_b.tif']",
        "channels: [a, b]\nbands: [a.tif, b.tif]",
        "channels: [a, b, c]\npreview: [a, b]",
        "channels: [a, b, c]\npreview: [a, b, d]",
        "channels: [a, b]\nnormalize: {mean: [1, 2], std: [1, 0]}",
        "channels: [a, b]\nnormalize: {mean: [1], std: [1, 1]}",
        "channels: [a, b]\nnormalize: {low: [1, 2], high: [2, 2]}",
        "channels: [a, b]\nnormalize: {mean: [1, 2]}",
        "channels: [a, b]\nnormalize: {mean: [x, 2], std: [1, 1]}",
        "channels: [a, b]\nnormalize: {mean: [nan, 2], std: [1, 1]}",
        "chanels: [a, b]",
    ],
)
def test_impossible_channels_are_refused(tmp_path: Path, lines: str) -> None:
    text = f"path: .\ntrain: images\nnames: [x, y]\n{lines}\n"
    with pytest.raises(AtrousError) as caught:
        read_dataset_yaml(write(tmp_path / "c.yaml", text))
    assert caught.value.code == "E-DATA-YAML"
