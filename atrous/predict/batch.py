"""Many pictures: segmented one by one, none of them twice, none of them instead of another."""

import errno
import hashlib
import io
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from atrous.errors import AtrousError, ExitCode
from atrous.images.decode import TIFF_MAGIC, exif_of
from atrous.predict.find import Picture
from atrous.predict.predictor import Predictor
from atrous.predict.records import check_free, digest_of, finished, identity
from atrous.predict.segmentation import OutputFiles, Segmentation, output_files

_FULL = (errno.ENOSPC, errno.EDQUOT)  # no picture after this one can be written either


@dataclass(frozen=True)
class Outcome:
    """What became of one picture.

    Attributes:
        path: The picture.
        name: Its name among the pictures of the call.
        place: Its place among them, from 1.
        record: The content of its JSON, if it was segmented or kept.
        error: Why not, otherwise.
        seconds: Time it took, 0 if finished output was kept.
        result: The segmentation, if it was made in this process and now.
    """

    path: Path
    name: str
    place: int
    record: dict[str, Any] | None
    error: AtrousError | None
    seconds: float
    result: Segmentation | None = None


@dataclass(frozen=True)
class Extras:
    """What is written beside labels and JSON.

    Attributes:
        probabilities: Classes whose probability becomes a grey picture.
        cutouts: Classes that are cut out of the picture.
        overlay: Whether there is an overlay.
        legend: Whether the overlay has a legend below it.
        keep_exif: Whether the overlay keeps the picture's EXIF, its position maybe.
    """

    probabilities: tuple[str, ...] = ()
    cutouts: tuple[str, ...] = ()
    overlay: bool = True
    legend: bool = False
    keep_exif: bool = False

    def files(self, out: Path, stem: str) -> OutputFiles:
        """Returns the files of a picture's output."""
        return output_files(out, stem, self.probabilities, self.cutouts, overlay=self.overlay)


PLAIN = Extras()


def segment_files(
    predictor: Predictor,
    pictures: Sequence[Picture],
    out: Path,
    *,
    overwrite: bool = False,
    extras: Extras = PLAIN,
    shard: tuple[int, int] = (1, 1),
) -> Iterator[Outcome]:
    """Segments pictures into a folder, one at a time; a bad one does not stop the others.

    Finished output of the same picture, model and options is kept, so that an interrupted run
    is simply started again. Nothing else is ever replaced: neither another picture's output nor a
    file that is no output.

    Args:
        predictor: What segments them.
        pictures: From `find_pictures`.
        out: The folder of the output; see `Segmentation.save`.
        overwrite: Whether to do finished pictures anew.
        extras: What else to write.
        shard: (i, n): do the i-th of n equal shares, i from 1.

    Raises:
        AtrousError: Before the first picture: the folder cannot be written, or output would
            replace another file. Later: the disk is full.
    """
    check_folder(out)
    jobs = list(enumerate(pictures, start=1))[shard[0] - 1 :: shard[1]]
    for _, picture in jobs:
        check_output(picture, out, extras)
    job = Job(predictor, out, extras, overwrite)
    for place, picture in jobs:
        yield job.do(place, picture)


def check_folder(out: Path) -> None:
    """Makes sure that output can go to a folder, which need not exist.

    Raises:
        AtrousError: A file is in its place, or its parent cannot be written.
    """
    there = out
    while not there.exists() and there != there.parent:
        there = there.parent
    if there == out and not out.is_dir():
        raise AtrousError("E-OUT", "the output folder is a file", where=out, fix="name another")
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise AtrousError(
            "E-OUT",
            f"the output folder cannot be written: {there} is "
            f"{'not writable' if there.is_dir() else 'a file'}",
            where=out,
            fix="name another with --out",
        )


def check_output(picture: Picture, out: Path, extras: Extras) -> None:
    """Makes sure that a picture's output replaces nothing but that picture's output.

    Raises:
        AtrousError: Something else is in its place.
    """
    files = extras.files(out, picture.stem)
    at = identity(picture.path, picture.content)
    check_free(picture.path, at, files.pictures, files.summary)


@dataclass(frozen=True)
class Job:
    """What is done to each picture of a call.

    Attributes:
        predictor: What segments it.
        out: The folder of the output.
        extras: What else to write.
        overwrite: Whether to do a finished picture anew.
    """

    predictor: Predictor
    out: Path
    extras: Extras
    overwrite: bool

    def do(self, place: int, picture: Picture) -> Outcome:
        """Segments a picture into files, or keeps what is finished.

        Raises:
            AtrousError: The disk is full. All other errors are in the outcome.
        """
        start = time.perf_counter()
        record, result, problem = None, None, None
        try:
            record, result = self._done(picture)
        except Exception as error:  # one bad picture never ends a batch
            problem = _as_ours(error, picture.path)
            if problem.code == "E-DISK-FULL":
                raise problem from error
            problem.__cause__ = error
        seconds = time.perf_counter() - start if result is not None or problem else 0.0
        return Outcome(picture.path, picture.name, place, record, problem, seconds, result)

    def _done(self, picture: Picture) -> tuple[dict[str, Any], Segmentation | None]:
        """Returns the record of a picture, and its segmentation if that was made now."""
        digest, source, stream = _opened(picture)
        at = identity(picture.path, picture.content)
        made_from: dict[str, Any] = {
            "picture": digest,
            "model": self.predictor.engine.fingerprint,
            "at": at,
        }
        if options := self._options():
            made_from["options"] = options
        files = self.extras.files(self.out, picture.stem)
        kept = None if self.overwrite else finished(files.summary, made_from)
        if kept is not None:
            return {**kept, "input": str(picture.path)}, None
        # Once more, because other processes may write into the same folder.
        check_output(picture, self.out, self.extras)
        result = self.predictor(source)
        record = result.save(
            self.out,
            picture.stem,
            probabilities=self.extras.probabilities,
            cutouts=self.extras.cutouts,
            overlay=self.extras.overlay,
            legend=self.extras.legend,
            exif=exif_of(stream) if self.extras.keep_exif else b"",
            facts={
                "input": str(picture.path),
                "made_from": made_from,
                "precision": self.predictor.precision,
            },
            mark=at,
        )
        return record, result

    def _options(self) -> dict[str, Any]:
        """Returns the options that change the output and are not the default."""
        chosen = {**asdict(self.extras), "unknown_below": self.predictor.unknown_below}
        used = {k: list(v) if isinstance(v, tuple) else v for k, v in chosen.items() if v}
        if used.pop("overlay", None) is None:
            used["overlay"] = False
        if self.predictor.precision == "bf16":  # int8 files have fingerprints of their own
            used["precision"] = "bf16"
        return used


class _Named(io.BytesIO):
    """Bytes that know the file they came from, for error messages."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def _opened(picture: Picture) -> tuple[str, Any, Path | IO[bytes]]:
    """Returns the SHA-256 of a picture, what a Predictor takes, and what holds its EXIF.

    The file is read once; only a TIFF, which may be larger than the memory, stays a path.
    """
    path, content = picture.path, picture.content
    if content is None:
        if not path.is_file():
            return "", path, path  # the Predictor says what is wrong
        with path.open("rb") as file:
            head = file.read(4)
            if head in TIFF_MAGIC:
                return digest_of(path), path, path
            content = head + file.read()
    if not content:
        return "", path, path
    name = "standard input" if picture.content is not None else str(path)
    stream = _Named(content, name)
    return hashlib.sha256(content).hexdigest(), stream, _Named(content, name)


def _as_ours(error: Exception, path: Path) -> AtrousError:
    """Returns the error for a picture, whatever went wrong with it."""
    if isinstance(error, AtrousError):
        return error
    if isinstance(error, MemoryError):
        code, what, exit_code = "E-MEMORY", "not enough memory", ExitCode.RESOURCES
        fix = "allow less with --memory, so that the picture is seen in tiles"
    elif isinstance(error, OSError) and error.errno in _FULL:
        code, what, exit_code = "E-DISK-FULL", f"{error.strerror}", ExitCode.RESOURCES
        fix = "make room, or choose another --out; the same call then does the rest"
    elif isinstance(error, OSError):
        code, what, exit_code = "E-FILE-IO", f"{error.strerror or error}", ExitCode.SOME_FAILED
        fix = ""
    else:
        code, what, exit_code = "E-BUG", f"{type(error).__name__}: {error}", ExitCode.SOME_FAILED
        fix = "this is a bug in atrous; run again with --debug and report what it prints"
    where = getattr(error, "filename", None) or path
    return AtrousError(code, what, where=where, fix=fix, exit_code=exit_code)


def shown(outcome: Outcome) -> dict[str, Any]:
    """Returns the line of JSON for a picture: the record without its bookkeeping, or the error."""
    if outcome.record is None:
        assert outcome.error is not None
        message = outcome.error.what
        return {"input": str(outcome.path), "error": message, "code": outcome.error.code}
    keys = ("input", "labels", "overlay", "size", "areas", "confidence", "precision")
    more = ("probabilities", "cutouts", "notes")
    return {key: outcome.record[key] for key in (*keys, *more) if key in outcome.record}
