"""Fuzz: whatever the names are, a picture is in one split with its own annotation, or refused."""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from atrous.data.opening import open_dataset
from atrous.errors import AtrousError
from tests.data.trees import save, write

SUFFIXES = (".png", ".jpg", ".PNG")

SIZE = (24, 32)


class Labelled(NamedTuple):
    """A picture whose colour and whose annotation both say its number."""

    number: int
    subset: str
    folder: str
    stem: str
    suffix: str

    @property
    def name(self) -> str:
        return self.stem + self.suffix

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.name}" if self.folder else self.name

    @property
    def image(self) -> np.ndarray:
        return np.full((*SIZE, 3), 8 * self.number + 4, np.uint8)

    @property
    def box(self) -> tuple[int, int]:
        return 2 + self.number % 5 * 6, 2 + self.number // 5 * 6  # left, top

    @property
    def target(self) -> np.ndarray:
        left, top = self.box
        target = np.zeros(SIZE, np.uint8)
        target[top : top + 4, left : left + 4] = 1
        return target

    @property
    def corners(self) -> list[tuple[int, int]]:
        left, top = self.box
        return [(left, top), (left + 4, top), (left + 4, top + 4), (left, top + 4)]


names = st.tuples(
    st.sampled_from(["train", "val", "test"]),
    st.sampled_from(["", "cam1", "cam2"]),
    st.sampled_from(["a", "b", "0001"]),
    st.sampled_from([".png", ".jpg", ".PNG"]),
)


@st.composite
def collections(draw: st.DrawFn) -> list[Labelled]:
    chosen = draw(st.lists(names, min_size=1, max_size=7, unique=True))
    pictures = [Labelled(number, *parts) for number, parts in enumerate(chosen)]
    return draw(st.permutations(pictures))


def subsets(pictures: Sequence[Labelled]) -> dict[str, list[Labelled]]:
    return {s: [p for p in pictures if p.subset == s] for s in sorted({p.subset for p in pictures})}


def distinct(pictures: Sequence[Labelled], key: Callable[[Labelled], object]) -> bool:
    return len({key(p) for p in pictures}) == len(pictures)


def stem_path(picture: Labelled) -> tuple[str, str, str]:
    return picture.subset, picture.folder, picture.stem


def coco(root: Path, pictures: Sequence[Labelled], style: str) -> bool:
    """Writes a COCO data set; says whether it must be accepted."""
    flat = style == "flat"
    for number, (subset, some) in enumerate(subsets(pictures).items()):
        written = {
            "whole": lambda p: p.path,
            "flat": lambda p: p.path,
            "bare": lambda p: p.name,
            "windows": lambda p: f"C:\\data\\{p.subset}\\{p.path}".replace("/", "\\"),
            "elsewhere": lambda p: f"/home/me/images/{p.subset}/{p.path}",
        }[style]
        thing = 1 + number % 2  # the files number their categories differently
        document: dict[str, Any] = {
            "categories": [{"id": thing, "name": "thing"}, {"id": 3 - thing, "name": "other"}],
            "images": [
                {"id": 90 - p.number, "file_name": written(p), "height": 24, "width": 32}
                for p in some
            ],
            "annotations": [
                {
                    "id": p.number,
                    "image_id": 90 - p.number,
                    "category_id": thing,
                    "segmentation": [[float(v) for corner in p.corners for v in corner]],
                }
                for p in some[::-1]
            ],
        }
        keys = sorted(document, reverse=number % 2 == 1)
        text = json.dumps({key: document[key] for key in keys})
        write(root / "annotations" / f"instances_{subset}.json", text)
        for p in some:
            save(root / "images" / ("" if flat else subset) / p.path, p.image)
    if style == "bare":
        return distinct(pictures, lambda p: (p.subset, p.name.lower())) and not any(
            p.folder for p in pictures
        )
    return distinct(pictures, lambda p: ("" if flat else p.subset, p.path.lower()))


def cvat(root: Path, pictures: Sequence[Labelled], style: str) -> bool:
    images = []
    for p in pictures:
        points = ";".join(f"{x},{y}" for x, y in p.corners)
        images.append(
            f'<image id="{p.number}" name="{p.path}" subset="{p.subset}" width="32" height="24">'
            f'<polygon label="thing" points="{points}"/></image>'
        )
        save(root / "images" / (p.subset if style == "whole" else "") / p.path, p.image)
    labels = "<meta><labels><label><name>thing</name></label></labels></meta>"
    write(root / "annotations.xml", f"<annotations>{labels}{''.join(images)}</annotations>")
    return style == "whole" or distinct(pictures, lambda p: p.path.lower())


def labelme(root: Path, pictures: Sequence[Labelled], style: str) -> bool:
    for p in pictures:
        shape = {"label": "thing", "points": p.corners, "shape_type": None}
        path = p.name if style == "whole" else f"C:\\x\\{p.name}"
        document = {"imageData": "A" * 70000, "imagePath": path, "shapes": [shape]}
        save(root / p.subset / p.path, p.image)
        write(root / p.subset / p.folder / f"{p.stem}.json", json.dumps(document))
    return distinct(pictures, stem_path)


def masks(root: Path, pictures: Sequence[Labelled], style: str) -> bool:
    for p in pictures:
        save(root / "images" / p.subset / p.path, p.image)
        name = p.path if style == "whole" else p.path.removesuffix(p.suffix)
        save(root / "masks" / p.subset / f"{name}.png", p.target)
    write(root / "classes.txt", "background\nthing\n")
    return style == "whole" or distinct(pictures, stem_path)


def lists(root: Path, pictures: Sequence[Labelled], style: str) -> bool:
    """Writes one folder of pictures and one of masks, and lists with one or two columns."""
    for subset, some in subsets(pictures).items():
        lines = []
        for p in some:
            folder = f"{subset}-{p.path}"  # one folder holds all subsets
            save(root / "Images" / folder, p.image)
            mask = f"{folder}.png" if style == "two" else f"{folder.removesuffix(p.suffix)}.png"
            save(root / "Labels" / mask, p.target)
            lines.append(f"/Images/{folder} /Labels/{mask}" if style == "two" else folder)
        write(root / f"{subset}_list.txt", "\n".join(lines))
    write(root / "labels.txt", "background\nthing\n")
    return style == "two" or distinct(pictures, stem_path)


def yolo(root: Path, pictures: Sequence[Labelled], style: str) -> bool:
    splits = []
    for subset, some in subsets(pictures).items():
        for p in some:
            save(root / "images" / subset / p.path, p.image)
            outline = " ".join(f"{x / 32} {y / 24}" for x, y in p.corners)
            label = root / "labels" / subset / p.folder / f"{p.stem}.txt"
            write(label, f"0 {outline}\n")
        source = f"images/{subset}"
        if style == "list":
            source = f"{subset}.txt"
            prefix = f"data/images/{subset}"  # as CVAT writes it
            write(root / source, "\n".join(f"{prefix}/{p.path}" for p in some))
        splits.append(f"{subset}: {source}")
    write(root / "data.yaml", "\n".join(splits) + "\nnames: [thing]\n")
    return distinct(pictures, stem_path)


WriteSet = Callable[[Path, Sequence[Labelled], str], bool]


def check(write_set: WriteSet, pictures: Sequence[Labelled], style: str, *, lost: int = -1) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        must_open = write_set(root, pictures, style)
        if lost >= 0:
            must_open = False
            for path in [p for p in root.rglob("*") if p.is_file() and p.suffix in SUFFIXES]:
                pixels = np.asarray(Image.open(path))
                if pixels.ndim == 3 and int(pixels[0, 0, 0]) // 8 == pictures[lost].number:
                    path.unlink()
        seen: list[int] = []
        try:
            for split in subsets(pictures):
                dataset = open_dataset(root, split)
                assert len(set(dataset.names)) == len(dataset)
                for index, name in enumerate(dataset.names):
                    image, target = dataset[index]
                    number = int(image[0, 0, 0]) // 8
                    picture = next(p for p in pictures if p.number == number)
                    assert picture.subset == split
                    assert name.endswith(picture.path)
                    assert (root / name).is_file()
                    thing = dataset.classes.index("thing")
                    np.testing.assert_array_equal(target == thing, picture.target == 1)
                    seen.append(number)
        except AtrousError:
            assert not must_open
            return
        if lost < 0:
            assert sorted(seen) == sorted(p.number for p in pictures)
    finally:
        shutil.rmtree(root)


CASES = [
    (coco, "whole"), (coco, "flat"), (coco, "bare"), (coco, "windows"), (coco, "elsewhere"),
    (cvat, "whole"), (cvat, "flat"), (labelme, "whole"), (labelme, "windows"), (masks, "whole"),
    (masks, "stem"), (lists, "one"), (lists, "two"), (yolo, "folder"), (yolo, "list"),
]  # fmt: skip


@pytest.mark.parametrize(("write_set", "style"), CASES)
@given(collections())
@settings(max_examples=15, deadline=None)
def test_C1_a_picture_is_in_one_split_with_its_own_annotation_or_refused(
    write_set: WriteSet, style: str, pictures: list[Labelled]
) -> None:
    check(write_set, pictures, style)


@pytest.mark.parametrize(("write_set", "style"), CASES)
@given(collections(), st.integers(0, 6))
@settings(max_examples=10, deadline=None)
def test_C1_the_annotation_of_a_lost_picture_goes_to_no_other(
    write_set: WriteSet, style: str, pictures: list[Labelled], lost: int
) -> None:
    if write_set in (labelme, masks, yolo):  # b.png may be b.jpg, converted
        assume(distinct(pictures, stem_path))
    check(write_set, pictures, style, lost=lost % len(pictures))
