import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.classes import CITYSCAPES, VOC
from atrous.data.doctor.diagnosis import Diagnosis, examine
from atrous.data.doctor.findings import Finding
from atrous.data.doctor.measure import runs
from atrous.data.doctor.survey import survey
from atrous.data.formats.cityscapes import MAPPING
from atrous.data.opening import open_dataset, recognise
from tests.data.trees import blocks, folders, picture, save, voc, write


def diagnose(path: Path, **options: bool) -> Diagnosis:
    return examine(survey(recognise(path), workers=1), **options)


def find(diagnosis: Diagnosis, code: str) -> Finding:
    found = [finding for finding in diagnosis.findings if finding.code == code]
    assert found, [finding.code for finding in diagnosis.findings]
    return found[0]


def codes(diagnosis: Diagnosis, level: str = "") -> set[str]:
    return {f.code for f in diagnosis.findings if level in ("", f.level)}


def test_healthy_data_has_no_errors_or_warnings(tmp_path: Path) -> None:
    folders(tmp_path)
    diagnosis = diagnose(tmp_path)
    assert diagnosis.healthy
    assert codes(diagnosis) == {"N-DATA-UNPROTECTED"}
    assert "may go unnoticed: 8 JPEG" in find(diagnosis, "N-DATA-UNPROTECTED").what


def test_shares_equal_a_count_of_all_targets(tmp_path: Path) -> None:
    voc(tmp_path, {"train": 3, "val": 2})
    with_void = blocks(21)
    with_void[:40] = 255
    save(tmp_path / "SegmentationClass/train_000.png", with_void)
    diagnosis = diagnose(tmp_path)
    for split in ("train", "val"):
        dataset = open_dataset(tmp_path, split)
        pixels = np.concatenate([dataset[i].target.ravel() for i in range(len(dataset))])
        labelled = pixels[pixels != 255]
        for k, name in enumerate(VOC.classes):
            share = (labelled == k).mean()
            assert diagnosis.shares(split)[name] == pytest.approx(share)
        assert diagnosis.void_share(split) == pytest.approx((pixels == 255).mean())
        occurrences = sum((dataset[i].target == 5).any() for i in range(len(dataset)))
        assert diagnosis.pictures[split][5] == occurrences


def test_class_weights_are_median_frequency_of_the_training_split(tmp_path: Path) -> None:
    voc(tmp_path, {"train": 3, "val": 2})
    diagnosis = diagnose(tmp_path)
    train = open_dataset(tmp_path, "train")
    counts = sum(np.bincount(train[i].target.ravel(), minlength=21) for i in range(3))
    expected = np.median(counts) / counts
    np.testing.assert_allclose(diagnosis.class_weights, expected, atol=1e-4)


def test_runs_are_those_of_a_naive_loop() -> None:
    labels = np.array([[1, 1, 2], [2, 2, 0]], np.uint8)
    values, lengths = runs(labels)
    assert (values.tolist(), lengths.tolist()) == ([1, 2, 0], [2, 3, 1])


def test_D01_truncated_jpeg_is_found(tmp_path: Path) -> None:
    folders(tmp_path)
    path = tmp_path / "images/train/picture0.jpg"
    write(path, path.read_bytes()[:-400])
    finding = find(diagnose(tmp_path), "E-IMAGE-BROKEN")
    assert str(path) in finding.where[0]


def test_D02_empty_file_folder_and_dangling_link_are_found_with_reason(tmp_path: Path) -> None:
    folders(tmp_path)
    images = tmp_path / "images/train"
    write(images / "picture0.jpg")
    (images / "picture2.jpg").unlink()
    (images / "picture2.jpg").mkdir()
    (images / "picture4.jpg").unlink()
    (images / "picture4.jpg").symlink_to(tmp_path / "nowhere.jpg")
    diagnosis = diagnose(tmp_path)
    assert not diagnosis.healthy
    assert {"E-FILE-EMPTY", "E-FILE-KIND", "E-FILE-MISSING"} <= codes(diagnosis, "error")


def test_D03_other_content_under_a_pictures_name(tmp_path: Path) -> None:
    folders(tmp_path)
    png = save(tmp_path / "x.png", picture(3)).read_bytes()
    write(tmp_path / "images/train/picture0.jpg", png)  # allowed: known by content
    (tmp_path / "x.png").unlink()
    write(tmp_path / "images/train/picture2.jpg", b"<html><body>404 not found</body></html>")
    finding = find(diagnose(tmp_path), "E-IMAGE-FORMAT")
    assert len(finding.where) == 1
    assert "picture2.jpg" in finding.where[0]


def test_D04_pixel_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    import struct
    import zlib

    folders(tmp_path)
    data = bytearray(save(tmp_path / "images/train/picture0.png", picture()).read_bytes())
    (tmp_path / "images/train/picture0.jpg").unlink()
    data[16:24] = struct.pack(">II", 65535, 65535)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    write(tmp_path / "images/train/picture0.png", bytes(data))
    assert "4295 megapixels" in find(diagnose(tmp_path), "E-IMAGE-PIXELS").what


def test_D05_turned_picture_with_a_raw_mask_is_found_with_a_hint(tmp_path: Path) -> None:
    folders(tmp_path)
    exif = Image.Exif()
    exif[274] = 8
    save(tmp_path / "images/train/picture0.jpg", picture(), exif=exif)
    diagnosis = diagnose(tmp_path)
    finding = find(diagnosis, "E-DATA-SIZE")
    assert "96x72" in finding.what
    assert "EXIF turns the picture and not the mask" in finding.fix
    assert len(find(diagnosis, "N-DATA-TURNED").where) == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_D06_pictures_of_any_mode_are_fine(tmp_path: Path, mode: str) -> None:
    folders(tmp_path)
    image = Image.fromarray(picture(3))
    image = image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)
    (tmp_path / "images/train/picture0.jpg").unlink()
    image.save(tmp_path / f"images/train/picture0.{'tif' if mode == 'CMYK' else 'png'}")
    assert diagnose(tmp_path).healthy


def test_D07_jpeg_masks_are_errors(tmp_path: Path) -> None:
    folders(tmp_path)
    labels = blocks(3)
    (tmp_path / "masks/train/picture0.png").unlink()
    save(tmp_path / "masks/train/picture0.jpg", labels)
    finding = find(diagnose(tmp_path), "E-MASK-LOSSY")
    assert finding.level == "error"
    assert "picture0.jpg" in finding.where[0]


def colored(root: Path, palette: np.ndarray, num_classes: int) -> None:
    for path in sorted((root / "masks").rglob("*.png")):
        save(path, palette[blocks(num_classes, len(path.name))])


def test_D08_colour_masks_list_their_colours_and_ask_for_classes(tmp_path: Path) -> None:
    folders(tmp_path)
    palette = np.array([(1, 2, 3), (40, 50, 60), (70, 80, 90)], np.uint8)
    colored(tmp_path, palette, 3)
    finding = find(diagnose(tmp_path), "E-MASK-COLOR")
    assert "masks in colours without a colour table: 8, in 3 colours" in finding.what
    pixels = sum(int((blocks(3, len("picture0.png")) == 0).sum()) for _ in range(8))
    assert f"(1, 2, 3): {pixels} px" in finding.where
    assert "[40, 50, 60]" in finding.proposal


def test_D08_published_colours_are_recognised_and_the_proposal_works(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    folders(tmp_path)
    (tmp_path / "classes.txt").unlink()
    colored(tmp_path, np.asarray(CITYSCAPES.palette, np.uint8), 19)
    finding = find(diagnose(tmp_path), "E-MASK-COLOR")
    assert "cityscapes" in finding.fix
    described = {"train": "images/train", "val": "images/val", "masks_dir": "masks"}
    described |= {"names": list(CITYSCAPES.classes)} | yaml.safe_load(finding.proposal)
    path = write(tmp_path / "fixed.yaml", yaml.safe_dump(described))
    diagnosis = diagnose(path)
    assert diagnosis.healthy
    np.testing.assert_array_equal(open_dataset(path)[0].target, blocks(19, len("picture0.png")))


def test_D08_colours_a_table_lacks_are_told_from_those_it_has(tmp_path: Path) -> None:
    folders(tmp_path)
    palette = np.array([(1, 2, 3), (40, 50, 60), (70, 80, 90)], np.uint8)
    colored(tmp_path, palette, 3)
    write(tmp_path / "labelmap.txt", "a:1,2,3::\nb:40,50,60::\n")
    finding = find(diagnose(tmp_path), "E-MASK-COLOR")
    assert "that the colour table lacks: 8, in 1 colours" in finding.what
    assert finding.proposal == "colors:\n  name_0: [70, 80, 90]"


def test_D08_smoothed_edges_of_colour_masks_are_said_to_be_that(tmp_path: Path) -> None:
    folders(tmp_path)
    for path in sorted((tmp_path / "masks").rglob("*.png")):
        labels = Image.fromarray(np.asarray(VOC.palette, np.uint8)[blocks(4, len(path.name))])
        labels.resize((48, 36), Image.Resampling.BICUBIC).resize((96, 72)).save(path)
    finding = find(diagnose(tmp_path), "E-MASK-COLOR")
    assert "look like smoothed edges" in finding.fix


def test_D10_values_that_are_no_classes_are_counted_over_all_files(tmp_path: Path) -> None:
    voc(tmp_path, {"train": 2, "val": 1})
    wrong = blocks(21)
    wrong[0, :7] = 200
    save(tmp_path / "SegmentationClass/train_000.png", wrong)
    save(tmp_path / "SegmentationClass/val_000.png", wrong)
    finding = find(diagnose(tmp_path), "E-DATA-LABEL")
    assert "values that are none of the 21 classes: 2; values 200 (14 px)" in finding.what
    assert any("train_000.png: 200 (7 px)" in where for where in finding.where)


def test_D11_pictures_without_a_label_are_listed(tmp_path: Path) -> None:
    folders(tmp_path)
    save(tmp_path / "masks/train/picture0.png", np.full((72, 96), 255, np.uint8))
    finding = find(diagnose(tmp_path), "W-DATA-ALL-VOID")
    assert len(finding.where) == 1


def test_D12_missing_partners_are_errors_unless_allowed(tmp_path: Path) -> None:
    folders(tmp_path)
    (tmp_path / "masks/train/picture0.png").unlink()
    save(tmp_path / "masks/train/lonely.png", blocks(3))
    diagnosis = diagnose(tmp_path)
    assert {"E-DATA-UNLABELLED", "E-DATA-NO-PICTURE"} <= codes(diagnosis, "error")
    assert "picture0.jpg" in find(diagnosis, "E-DATA-UNLABELLED").where[0]
    assert diagnose(tmp_path, allow_unlabelled=True).healthy
    save(tmp_path / "images/train/picture2.png", picture())
    assert "E-DATA-TWICE" in codes(diagnose(tmp_path, allow_unlabelled=True), "error")


def test_D13_sizes_that_differ_are_errors_naming_both_files(tmp_path: Path) -> None:
    folders(tmp_path)
    save(tmp_path / "masks/train/picture0.png", blocks(3, size=(36, 48)))
    finding = find(diagnose(tmp_path), "E-DATA-SIZE")
    assert "picture0.jpg" in finding.where[0]
    assert "picture0.png" in finding.where[0]


def described(root: Path, names: tuple[str, ...], extra: str = "") -> Path:
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    listed = "".join(f"  {i}: {name}\n" for i, name in enumerate(names))
    text = f"train: images/train\nval: images/val\nmasks_dir: masks\nnames:\n{listed}{extra}\n"
    return write(root / "data.yaml", text)


def relabel(root: Path, values: np.ndarray) -> None:
    """Writes every mask with all of the values."""
    rng = np.random.default_rng(0)
    for path in sorted((root / "masks").rglob("*.png")):
        cells = np.resize(rng.permutation(values), (9, 12)).astype(np.uint8)
        save(path, np.kron(cells, np.ones((8, 8), np.uint8)))


def test_D16_raw_cityscapes_ids_are_recognised_and_the_mapping_works(tmp_path: Path) -> None:
    folders(tmp_path)
    relabel(tmp_path, np.arange(34))
    path = described(tmp_path, CITYSCAPES.classes)
    finding = find(diagnose(path), "E-DATA-LABEL")
    assert "raw ids" in finding.fix
    fixed = described(tmp_path, CITYSCAPES.classes, finding.proposal)
    assert diagnose(fixed).healthy
    mask = np.asarray(Image.open(tmp_path / "masks/val/picture1.png"))
    table = np.array([255 if MAPPING[v] is None else MAPPING[v] for v in range(34)], np.uint8)
    np.testing.assert_array_equal(open_dataset(fixed)[0].target, table[mask])


def test_D16_classes_counted_from_one_are_recognised(tmp_path: Path) -> None:
    folders(tmp_path)
    relabel(tmp_path, np.arange(1, 6))
    path = described(tmp_path, ("a", "b", "c", "d", "e"))
    finding = find(diagnose(path), "E-DATA-LABEL")
    assert finding.fix == "the classes are counted from 1"
    fixed = described(tmp_path, ("a", "b", "c", "d", "e"), finding.proposal)
    assert diagnose(fixed).healthy
    mask = np.asarray(Image.open(tmp_path / "masks/val/picture1.png"))
    np.testing.assert_array_equal(open_dataset(fixed)[0].target, mask - 1)


def test_D16_one_value_too_many_has_two_readings(tmp_path: Path) -> None:
    folders(tmp_path)
    relabel(tmp_path, np.arange(6))
    finding = find(diagnose(described(tmp_path, ("a", "b", "c", "d", "e"))), "E-DATA-LABEL")
    one, two = finding.proposal.split("# or\n")
    assert "  0: ignore_label\n  1: 0\n" in one
    assert two.strip() == "label_mapping:\n  5: ignore_label"


def test_D16_off_and_on_masks_are_recognised(tmp_path: Path) -> None:
    folders(tmp_path)
    relabel(tmp_path, np.array([0, 255]))
    path = described(tmp_path, ("background", "thing"))
    assert diagnose(path).healthy
    mask = np.asarray(Image.open(tmp_path / "masks/val/picture1.png"))
    np.testing.assert_array_equal(open_dataset(path)[0].target, mask // 255)


def test_D16_as_many_spread_values_as_classes_are_recognised(tmp_path: Path) -> None:
    folders(tmp_path)
    relabel(tmp_path, np.array([0, 128, 200]))
    finding = find(diagnose(described(tmp_path, ("a", "b", "c"))), "E-DATA-LABEL")
    assert finding.proposal == "label_mapping:\n  0: 0\n  128: 1\n  200: 2"


def test_D16_masks_mapped_already_are_recognised_in_a_devkit(tmp_path: Path) -> None:
    for i, split in enumerate(("training", "validation")):
        labels = np.where(blocks(20, i) == 19, 255, blocks(20, i)).astype(np.uint8)
        save(tmp_path / "images" / split / "a.jpg", picture(i))
        save(tmp_path / "annotations" / split / "a.png", labels)
    assert "E-DATA-MAPPED-TWICE" in codes(diagnose(tmp_path), "error")


def test_D17_pictures_in_both_splits_are_counted_and_errors_if_strict(tmp_path: Path) -> None:
    folders(tmp_path)
    data = (tmp_path / "images/train/picture0.jpg").read_bytes()
    write(tmp_path / "images/val/picture1.jpg", data)
    finding = find(diagnose(tmp_path), "W-DATA-LEAK")
    assert finding.level == "warning"
    assert "pictures of val that are in train too (the same file): 1" in finding.what
    assert "picture0.jpg" in finding.where[0]
    assert "picture1.jpg" in finding.where[0]
    assert not diagnose(tmp_path, strict=True).healthy


def test_D17_scaled_and_recompressed_copies_are_found(tmp_path: Path) -> None:
    folders(tmp_path)
    image = Image.open(tmp_path / "images/train/picture0.jpg").resize((80, 60))
    image.save(tmp_path / "images/val/picture1.jpg", quality=60)
    save(tmp_path / "masks/val/picture1.png", blocks(3, size=(60, 80)))
    diagnosis = diagnose(tmp_path)
    assert len(find(diagnosis, "W-DATA-NEAR-LEAK").where) == 1
    assert "W-DATA-LEAK" not in codes(diagnosis)


def test_D17_the_same_picture_twice_in_a_split_is_a_warning(tmp_path: Path) -> None:
    folders(tmp_path)
    data = (tmp_path / "images/train/picture0.jpg").read_bytes()
    write(tmp_path / "images/train/picture2.jpg", data)
    assert (
        "pictures that are in train more than once: 1"
        in find(diagnose(tmp_path), "W-DATA-DUPLICATE").what
    )


def test_D17_blank_pictures_are_no_near_copies(tmp_path: Path) -> None:
    folders(tmp_path)
    for name, level in (("train/picture0", 0), ("val/picture1", 1)):
        save(tmp_path / "images" / f"{name}.jpg", np.full((72, 96, 3), level, np.uint8))
    assert "W-DATA-NEAR-LEAK" not in codes(diagnose(tmp_path))


def test_D18_empty_split_is_an_error(tmp_path: Path) -> None:
    voc(tmp_path, {"train": 2, "val": 0})
    finding = find(diagnose(tmp_path), "E-DATA-EMPTY")
    assert finding.level == "error"
    assert "'val'" in finding.what


def test_D18_absent_class_is_a_warning_and_has_no_share(tmp_path: Path) -> None:
    voc(tmp_path, {"train": 2, "val": 1})
    labels = blocks(21)
    save(tmp_path / "SegmentationClass/val_000.png", np.where(labels == 5, 6, labels).astype("u1"))
    diagnosis = diagnose(tmp_path)
    finding = find(diagnosis, "W-DATA-ABSENT")
    assert finding.what == "classes that do not occur in val: bottle"
    assert "mean IoU omits" in finding.fix
    assert diagnosis.shares("val")["bottle"] is None
    assert diagnosis.as_json()["splits"]["val"]["class_share"]["bottle"] is None


def test_D19_crossing_outlines_are_named(tmp_path: Path) -> None:
    save(tmp_path / "val/a.jpg", picture())
    bow_tie = {"label": "x", "shape_type": "polygon", "points": [[0, 0], [9, 9], [9, 0], [0, 9]]}
    write(tmp_path / "val/a.json", json.dumps({"shapes": [bow_tie], "imagePath": "a.jpg"}))
    finding = find(diagnose(tmp_path), "W-SHAPE-CROSSING")
    assert finding.where == (f"{tmp_path / 'val/a.json'}: shape 0 'x'",)


def test_D19_broken_shapes_are_errors(tmp_path: Path) -> None:
    for i, points in enumerate(([[0, 0], [9, 9]], [[0, 0], [9, 9], [float("nan"), 0]])):
        save(tmp_path / f"val/{i}.jpg", picture(i))
        shape = {"label": "x", "shape_type": "polygon", "points": points}
        write(tmp_path / f"val/{i}.json", json.dumps({"shapes": [shape], "imagePath": f"{i}.jpg"}))
    assert len(find(diagnose(tmp_path), "E-SHAPE").where) == 2


def smoothed(labels: np.ndarray) -> np.ndarray:
    small = Image.fromarray(labels).resize((48, 36), Image.Resampling.NEAREST)
    return np.asarray(small.resize((96, 72), Image.Resampling.BILINEAR))


def test_blended_edges_are_errors(tmp_path: Path) -> None:
    folders(tmp_path, num_classes=21)
    for path in sorted((tmp_path / "masks").rglob("*.png")):
        save(path, smoothed(np.asarray(Image.open(path))))
    finding = find(diagnose(tmp_path), "E-MASK-BLENDED")
    assert len(finding.where) == 8
    assert "nearest" in finding.fix


def test_palettes_that_differ_are_errors(tmp_path: Path) -> None:
    voc(tmp_path, {"train": 2, "val": 1})
    save(tmp_path / "SegmentationClass/val_000.png", blocks(21), palette=VOC.palette[::-1])
    finding = find(diagnose(tmp_path), "E-MASK-PALETTES")
    assert "in different masks: 20" in finding.what  # the middle one stays


def test_broken_picture_of_sbd_is_found(tmp_path: Path) -> None:
    pytest.importorskip("scipy.io", reason="SciPy is not installed")
    from tests.data.formats.test_voc import save_sbd

    write(tmp_path / "train.txt", "a\nb\n")
    write(tmp_path / "val.txt", "a\n")
    for name in "ab":
        save(tmp_path / "img" / f"{name}.jpg", picture(ord(name)))
        save_sbd(tmp_path / "cls" / f"{name}.mat", blocks(21))
    write(tmp_path / "img/b.jpg", b"broken")
    assert codes(diagnose(tmp_path), "error") == {"E-IMAGE-FORMAT"}


def test_one_class_only_is_an_error(tmp_path: Path) -> None:
    folders(tmp_path)
    for path in sorted((tmp_path / "masks/train").glob("*.png")):
        save(path, np.full((72, 96), 2, np.uint8))
    assert "'name2'" in find(diagnose(tmp_path), "E-DATA-ONE-CLASS").what


def test_mostly_unlabelled_split_is_a_warning(tmp_path: Path) -> None:
    folders(tmp_path)
    labels = blocks(3)
    labels[20:] = 255
    for path in sorted((tmp_path / "masks/train").glob("*.png")):
        save(path, labels)
    assert "72%" in find(diagnose(tmp_path), "W-DATA-VOID").what


def test_tiny_and_huge_pictures_are_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders(tmp_path)
    save(tmp_path / "images/train/picture0.jpg", picture(size=(8, 200)))
    save(tmp_path / "masks/train/picture0.png", blocks(3, size=(8, 200)))
    monkeypatch.setattr("atrous.data.doctor.files._HUGE", 72 * 96 - 1)
    diagnosis = diagnose(tmp_path)
    assert len(find(diagnosis, "W-DATA-TINY").where) == 1
    assert len(find(diagnosis, "W-DATA-HUGE").where) == 7


def test_workers_find_what_one_process_finds(tmp_path: Path) -> None:
    voc(tmp_path, {"train": 30, "val": 10})
    write(tmp_path / "JPEGImages/val_003.jpg", b"broken")
    layout = recognise(tmp_path)
    seen: list[tuple[int, int]] = []
    parallel = survey(layout, workers=2, on_progress=lambda done, total: seen.append((done, total)))
    alone = survey(layout, workers=1)
    assert [str(m.troubles) for m in parallel.measurements] == [
        str(m.troubles) for m in alone.measurements
    ]
    for one, other in zip(parallel.measurements, alone.measurements, strict=True):
        one.troubles = other.troubles = ()
        assert one == other
    assert seen[-1] == (40, 40)


def test_sample_of_two_splits_is_measured_once(tmp_path: Path) -> None:
    voc(tmp_path, {"train": 3, "val": 2})
    names = (tmp_path / "ImageSets/Segmentation/train.txt").read_text() + "val_000\n"
    write(tmp_path / "ImageSets/Segmentation/trainaug.txt", names)
    found = survey(recognise(tmp_path), workers=1)
    assert len(found.measurements) == 5
    assert len(found.splits["trainaug"]) == 4
    leak = find(examine(found), "W-DATA-LEAK")
    assert "pictures of val that are in trainaug too (the same file): 1" in leak.what
