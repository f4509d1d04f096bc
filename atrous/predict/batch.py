"""Many pictures: found, named, segmented one by one, and not twice."""

import glob
import hashlib
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from atrous.errors import AtrousError
from atrous.images.decode import SUFFIXES, atomic, exif_of, open_image, read_image
from atrous.predict.predictor import Predictor
from atrous.predict.regions import coco_annotation, outlines, polygon_area

STDIN = Path("-")  # a picture on standard input


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """Returns the named files, and the pictures in the named folders, each once, in order.

    A name that is no file may be a pattern (``*.jpg``, ``**/*.png``): shells leave patterns alone
    that are quoted or match nothing. ``-`` is a picture on standard input.

    Raises:
        AtrousError: A folder without pictures, a pattern without matches, or names of nothing.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.exists() and glob.has_magic(str(path)):
            # Path.glob knows no absolute patterns.
            matches = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207
            if not matches:
                raise AtrousError("E-NO-PICTURES", "no file matches this pattern", where=path)
            found.update(dict.fromkeys(match for match in matches if match.is_file()))
            continue
        if not path.is_dir():
            found[path] = None
            continue
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not inside:
            raise AtrousError(
                "E-NO-PICTURES",
                "no pictures in this folder",
                where=path,
                fix=f"looked for {' '.join(sorted(SUFFIXES))}",
            )
        found.update(dict.fromkeys(inside))
    if not any(path.exists() or path == STDIN for path in found):
        raise AtrousError("E-FILE-MISSING", "no such file or folder", where=next(iter(found)))
    return list(found)


def output_stems(paths: Sequence[Path]) -> list[str]:
    """Returns the start of the output names of each picture.

    The stem alone where that is unique; else the path below the common folder; else that with
    the suffix.

    >>> output_stems([Path("a/x.jpg"), Path("b/x.jpg"), Path("b/y.jpg"), Path("b/y.png")])
    ['a/x', 'b/x', 'b/y.jpg', 'b/y.png']
    """
    absolute = [Path("stdin").absolute() if path == STDIN else path.absolute() for path in paths]
    common = _common_folder(absolute)
    below = [path.relative_to(common) for path in absolute]
    names = [path.stem for path in below]
    for longer in (
        [path.with_suffix("").as_posix() for path in below],
        [path.as_posix() for path in below],
    ):
        counts = Counter(names)
        names = [b if counts[a] > 1 else a for a, b in zip(names, longer, strict=True)]
    return names


def _common_folder(paths: Sequence[Path]) -> Path:
    common = paths[0].parent
    while not all(path.is_relative_to(common) for path in paths):
        common = common.parent
    return common


@dataclass(frozen=True)
class Outcome:
    """What became of one picture.

    Attributes:
        path: The picture.
        record: What its JSON holds, if it was segmented.
        error: Why not, otherwise.
        seconds: Time it took, 0 if finished output was kept.
    """

    path: Path
    record: dict[str, Any] | None
    error: AtrousError | None
    seconds: float


@dataclass(frozen=True)
class Extras:
    """What is written beside labels, overlay and JSON.

    Attributes:
        probabilities: Classes whose probability becomes a grey picture.
        keep_exif: Whether the overlay keeps the picture's EXIF, its position maybe.
    """

    probabilities: tuple[str, ...] = ()
    keep_exif: bool = False


def segment_files(
    predictor: Predictor,
    paths: Sequence[Path],
    out: Path,
    *,
    overwrite: bool = False,
    extras: Extras = Extras(),
    shard: tuple[int, int] = (1, 1),
) -> Iterator[Outcome]:
    """Segments pictures into a folder, one at a time; a bad one does not stop the others.

    Finished output of the same picture, model and options is kept, so that an interrupted run
    is simply started again.

    Args:
        predictor: What segments them.
        paths: The pictures.
        out: The folder of the output; see `Segmentation.save`.
        overwrite: Do everything anew.
        extras: What else to write.
        shard: (i, n): do the i-th of n equal shares, i from 1. Names are those of the whole.

    Raises:
        AtrousError: The output folder cannot be one.
    """
    if out.exists() and not out.is_dir():
        raise AtrousError("E-OUT", "the output folder is a file", where=out, fix="name another")
    first, shares = shard
    jobs = list(zip(paths, output_stems(paths), strict=True))[first - 1 :: shares]
    for path, stem in jobs:
        start = time.perf_counter()
        try:
            picture: Path | Image.Image = path
            content = None
            if path == STDIN and not path.exists():
                content = sys.stdin.buffer.read()
                picture = read_image(io.BytesIO(content))
            made_from = {
                "input": str(path),
                "made_from": _made_from(path, content, predictor, extras),
            }
            record = None if overwrite else _finished(out / f"{stem}.json", made_from)
            if record is not None:
                yield Outcome(path, record, None, 0.0)
                continue
            record = predictor(picture).save(
                out,
                stem,
                probabilities=extras.probabilities,
                exif=exif_of(path if content is None else io.BytesIO(content))
                if extras.keep_exif
                else b"",
                facts=made_from,
            )
            yield Outcome(path, record, None, time.perf_counter() - start)
        except AtrousError as error:
            yield Outcome(path, None, error, time.perf_counter() - start)


def _made_from(
    path: Path, content: bytes | None, predictor: Predictor, extras: Extras
) -> dict[str, Any]:
    """Identifies picture, model and options, whatever they are called."""
    picture = ""
    if content is not None:
        picture = hashlib.sha256(content).hexdigest()
    elif path.is_file():  # what is not, the Predictor explains
        with path.open("rb") as file:
            picture = hashlib.file_digest(file, "sha256").hexdigest()
    options = {
        "unknown_below": predictor.unknown_below,
        "probabilities": list(extras.probabilities),
        "keep_exif": extras.keep_exif,
    }
    used = {name: value for name, value in options.items() if value}
    made_from = {"picture": picture, "model": predictor.engine.fingerprint}
    return {**made_from, "options": used} if used else made_from


def write_coco(path: Path, records: Sequence[dict[str, Any]], classes: Sequence[str]) -> int:
    """Writes the regions of finished pictures as polygons: one JSON in COCO's instance format.

    Category ids are label values plus 1; regions of the unknown are left out.

    Args:
        path: The file.
        records: What `segment_files` returned for each picture.
        classes: Names in the order of the label values.

    Returns:
        The number of regions.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, record in enumerate(records, start=1):
        height, width = record["size"]
        name = Path(record["input"]).name
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        with open_image(record["labels"], max_pixels=height * width) as picture:
            labels = np.asarray(picture)
        for label in np.unique(labels[labels < len(classes)]).tolist():
            for ring in outlines(labels == label):
                ids = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1}
                annotations.append(coco_annotation(ring, polygon_area(ring), **ids))
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, start=1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    return len(annotations)


def _finished(summary: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the record of finished output, if it is whole and made from the same."""
    try:
        record = json.loads(summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or any(record.get(k) != v for k, v in made_from.items()):
        return None
    files = [record.get("labels"), record.get("overlay")]
    files += (record.get("probabilities") or {}).values()
    return record if all(Path(str(file)).is_file() for file in files) else None
