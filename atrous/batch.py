"""Many pictures: found, named, segmented one by one, and not twice."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atrous.errors import AtrousError
from atrous.images import SUFFIXES
from atrous.predict import Predictor


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """Returns the named files, and the pictures in the named folders, each once, in order.

    Raises:
        AtrousError: A folder without pictures.
    """
    found: dict[Path, None] = {}
    for path in paths:
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
    return list(found)


def output_stems(paths: Sequence[Path]) -> list[str]:
    """Returns the start of the output names of each picture.

    The stem alone where that is unique; else the path below the common folder; else that with
    the suffix.

    >>> output_stems([Path("a/x.jpg"), Path("b/x.jpg"), Path("b/y.jpg"), Path("b/y.png")])
    ['a/x', 'b/x', 'b/y.jpg', 'b/y.png']
    """
    absolute = [path.absolute() for path in paths]
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


def segment_files(
    predictor: Predictor, paths: Sequence[Path], out: Path, *, overwrite: bool = False
) -> Iterator[Outcome]:
    """Segments pictures into a folder, one at a time; a bad one does not stop the others.

    Finished output of the same picture, model and options is kept, so that an interrupted run
    is simply started again.

    Args:
        predictor: What segments them.
        paths: The pictures.
        out: The folder of the output; see `Segmentation.save`.
        overwrite: Do everything anew.

    Raises:
        AtrousError: The output folder cannot be one.
    """
    if out.exists() and not out.is_dir():
        raise AtrousError("E-OUT", "the output folder is a file", where=out, fix="name another")
    for path, stem in zip(paths, output_stems(paths), strict=True):
        start = time.perf_counter()
        try:
            made_from = {"input": str(path), "made_from": _made_from(path, predictor)}
            record = None if overwrite else _finished(out / f"{stem}.json", made_from)
            if record is not None:
                yield Outcome(path, record, None, 0.0)
                continue
            record = predictor(path).save(out, stem, facts=made_from)
            yield Outcome(path, record, None, time.perf_counter() - start)
        except AtrousError as error:
            yield Outcome(path, None, error, time.perf_counter() - start)


def _made_from(path: Path, predictor: Predictor) -> dict[str, str]:
    """Identifies picture and model, whatever they are called."""
    picture = ""
    if path.is_file():  # what is not, the Predictor explains
        with path.open("rb") as file:
            picture = hashlib.file_digest(file, "sha256").hexdigest()
    return {"picture": picture, "model": predictor.engine.fingerprint}


def _finished(summary: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the record of finished output, if it is whole and made from the same."""
    try:
        record = json.loads(summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or any(record.get(k) != v for k, v in made_from.items()):
        return None
    if all(Path(str(record.get(key))).is_file() for key in ("labels", "overlay")):
        return record
    return None
