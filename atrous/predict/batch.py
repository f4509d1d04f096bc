"""Segments pictures into a folder one by one, and replaces no file of another picture."""

import errno
import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event
from typing import IO, Any

from atrous.errors import AtrousError, InputError, ResourceError
from atrous.images.decode import TIFF_MAGIC, exif_of
from atrous.images.pages import split_page
from atrous.images.raster import place_of
from atrous.images.stores import Named, fetch, is_address, stored
from atrous.images.web import fetch_picture
from atrous.predict.find import Picture, refuse_videos
from atrous.predict.predictor import Predictor
from atrous.predict.records import check_free, digest_of, finished, taken
from atrous.predict.segmentation import OutputFiles, output_files
from atrous.predict.video import (
    ALL_FRAMES,
    OnFrame,
    VideoFiles,
    VideoOptions,
    segment_video,
    video_files,
)

Task = tuple[int, Picture]  # a place in the call, from 1, and its picture

_FULL = (errno.ENOSPC, errno.EDQUOT)  # errors that end a batch: later pictures would fail too


@dataclass(frozen=True)
class Outcome:
    """The result of one picture: a record or an error.

    Attributes:
        path: The picture.
        shown: The picture as it was named.
        name: The name of the picture, unique in the call.
        place: The number of the picture in the call, from 1.
        record: The content of the JSON; None after an error.
        error: The error; None if the picture was segmented or its finished output kept.
        seconds: Time spent; 0 if finished output was kept.
    """

    path: Path
    shown: str
    name: str
    place: int
    record: dict[str, Any] | None
    error: AtrousError | None
    seconds: float


@dataclass(frozen=True)
class Extras:
    """The files that are written beside labels and JSON.

    Attributes:
        probabilities: Classes whose probability is written as a grey picture.
        cutouts: Classes whose cut-out is written.
        overlay: Whether to write an overlay.
        legend: Whether the overlay has a legend below it.
        keep_exif: Whether the overlay keeps the picture's EXIF, which may hold a position.
        video: How videos are segmented.
    """

    probabilities: tuple[str, ...] = ()
    cutouts: tuple[str, ...] = ()
    overlay: bool = True
    legend: bool = False
    keep_exif: bool = False
    video: VideoOptions = ALL_FRAMES

    def files(self, out: Path, picture: Picture) -> OutputFiles | VideoFiles:
        """Returns the files of the output of a picture or video."""
        if picture.is_video:
            return video_files(
                out, picture.stem, picture.path, overlay=self.overlay,
                label_frames=self.video.label_frames,
            )  # fmt: skip
        return output_files(
            out, picture.stem, self.probabilities, self.cutouts, overlay=self.overlay,
            placed=place_of(picture.path) is not None,
        )  # fmt: skip


PLAIN = Extras()


def segment_files(
    predictor: Predictor,
    pictures: Sequence[Picture],
    out: Path,
    *,
    overwrite: bool = False,
    extras: Extras = PLAIN,
    shard: tuple[int, int] = (1, 1),
    on_frame: OnFrame | None = None,
) -> Iterator[Outcome]:
    """Segments pictures into a folder, in order; a bad one does not stop the others.

    Finished output of the same picture, model and options is kept, so an interrupted call can be
    started again. Output of another picture, and files that are no output, are never replaced.

    Args:
        predictor: The model.
        pictures: From `find_pictures`.
        out: The folder of the output; see `Segmentation.save`.
        overwrite: Whether to do finished pictures anew.
        extras: Files beside labels and JSON.
        shard: (i, n): do the i-th of n equal shares, i from 1.
        on_frame: Called after each frame of a video; see `segment_video`.

    Raises:
        AtrousError: Before the first picture: the folder cannot be written, or output would
            replace another file. Later: the disk is full.
    """
    stop = Event()  # so that a call that ends does not wait for the end of a video

    def watched(path: Path, done: int, expected: int) -> None:
        if stop.is_set():
            raise InterruptedError(errno.EINTR, "the call ended", str(path))
        if on_frame is not None:
            on_frame(path, done, expected)

    job = Job(predictor, out, extras, overwrite, watched)
    tasks = checked_share(pictures, out, extras, shard)
    if predictor.engine.streams == 1:
        yield from (job.do(*task) for task in tasks)
        return
    # Decoding and writing take one processor, and so does the network in each stream. One picture
    # more than there are streams keeps the processors busy while another waits for Python or a
    # disk.
    pool = ThreadPoolExecutor(predictor.engine.streams + 1)
    begun: deque[Future[Outcome]] = deque()
    try:
        for task in tasks:
            begun.append(pool.submit(job.do, *task))
            if len(begun) > 2 * predictor.engine.streams:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def checked_share(
    pictures: Sequence[Picture], out: Path, extras: Extras, shard: tuple[int, int]
) -> list[Task]:
    """Returns a share of the pictures with their places, after a look at their output.

    Raises:
        AtrousError: The folder cannot be written, or output would replace another file.
    """
    share = list(enumerate(pictures, start=1))[shard[0] - 1 :: shard[1]]
    if is_address(out):  # one listing; each picture's own output is looked at when it is done
        there = {name[len(str(out)) + 1 :] for name in stored(out)}
        return [(place, _with_output(picture, there, extras)) for place, picture in share]
    check_folder(out)
    for _, picture in share:
        check_output(picture, out, extras)
    return share


def _with_output(picture: Picture, there: set[str], extras: Extras) -> Picture:
    refuse_videos([picture], "videos are not written to a store", "name a folder with --out")
    files = extras.files(Path(), picture)
    made = (file.name for file in (*files.pictures, files.summary) if file.as_posix() in there)
    return replace(picture, made=frozenset(made))


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
        AtrousError: Another file has one of the names.
    """
    files = extras.files(out, picture)
    check_free(picture.path, picture.identity, files.pictures, files.summary)


@dataclass(frozen=True)
class Job:
    """The work on each picture of a call.

    Attributes:
        predictor: The model.
        out: The folder of the output.
        extras: Files beside labels and JSON.
        overwrite: Whether to do a finished picture anew.
        on_frame: Called after each frame of a video; see `segment_video`.
    """

    predictor: Predictor
    out: Path
    extras: Extras
    overwrite: bool
    on_frame: OnFrame | None = None

    def do(self, place: int, picture: Picture) -> Outcome:
        """Segments a picture into files, or keeps its finished output.

        Raises:
            AtrousError: The disk is full, or a store refuses output. All other errors are in the
                outcome.
        """
        start = time.perf_counter()
        record, problem, kept = None, None, False
        try:
            record, kept = self._done(picture)
        except Exception as error:  # one bad picture never ends a batch
            problem = as_ours(error, picture.shown)
            refused = problem.code == "E-STORE-ACCESS" and problem.where.startswith(str(self.out))
            if refused or problem.code == "E-DISK-FULL":
                raise problem from error
            problem.__cause__ = error
        seconds = 0.0 if kept else time.perf_counter() - start
        return Outcome(picture.path, picture.shown, picture.name, place, record, problem, seconds)

    def _done(self, picture: Picture) -> tuple[dict[str, Any], bool]:
        """Returns the record, and whether finished output was kept."""
        opened = None if picture.version else _opened(picture)
        at = picture.identity
        made_from: dict[str, Any] = {
            "picture": opened[0] if opened else picture.version,
            "model": self.predictor.engine.fingerprint,
            "at": at,
        }
        if options := self._options(picture):
            made_from["options"] = options
        files = self.extras.files(self.out, picture)
        if (kept := self._kept(picture, files.summary, made_from)) is not None:
            return {**kept, "input": picture.shown}, True
        facts = {
            "input": picture.shown,
            "made_from": made_from,
            "precision": self.predictor.precision,
        }
        if not (bands := self.predictor.bands).plain:
            facts["channels"] = f"{', '.join(bands.names)} in {bands.dtype}, as in training"
        if isinstance(files, VideoFiles):
            if not self.predictor.bands.plain:
                raise AtrousError(
                    "E-MODEL-CHANNELS", "videos are RGB, the model's pictures are not"
                )
            record = segment_video(
                self.predictor, picture.path, files, self.extras.video,
                facts=facts, mark=at, on_frame=self.on_frame,
            )  # fmt: skip
            return record, False
        _, source, stream = opened or _opened(picture)
        record = self.predictor(source).save(
            self.out,
            picture.stem,
            probabilities=self.extras.probabilities,
            cutouts=self.extras.cutouts,
            overlay=self.extras.overlay,
            legend=self.extras.legend,
            exif=exif_of(stream) if self.extras.keep_exif else b"",
            facts=facts,
            mark=at,
            replaces=picture.made,
        )
        return record, False

    def _kept(self, picture: Picture, summary: Path, of: dict[str, Any]) -> dict[str, Any] | None:
        """Returns the record of finished output; None: the output can be written."""
        kept, made = None, picture.made
        if not self.overwrite and (made is None or summary.name in made):
            kept = finished(summary, of, made, picture.packed)
        if kept is None and picture.packed:
            what = (
                "the tar file has other output of this name: of another model, options or picture"
            )
            raise taken(what, picture.shown, "name another tar file with --out")
        # Checked again, because another process may have written into the folder meanwhile.
        if kept is None and (made is None or made):
            check_output(picture, self.out, self.extras)
        return kept

    def _options(self, picture: Picture) -> dict[str, Any]:
        """Returns the options that change the output and differ from the default."""
        chosen = asdict(self.extras)
        video = chosen.pop("video")
        if picture.is_video:
            chosen = {"overlay": self.extras.overlay, **video}
        chosen["unknown_below"] = self.predictor.unknown_below
        used = {k: list(v) if isinstance(v, tuple) else v for k, v in chosen.items() if v}
        if used.pop("overlay", None) is None:
            used["overlay"] = False
        if self.predictor.precision == "bf16":  # an int8 file has its own fingerprint
            used["precision"] = "bf16"
        if self.predictor.device != "cpu":
            used["device"] = self.predictor.device
        return used


def _opened(picture: Picture) -> tuple[str, Any, Path | IO[bytes]]:
    """Returns the SHA-256 of a picture, a source for a Predictor, and a source for its EXIF.

    The file is read once. TIFFs and videos stay paths: they may be larger than the memory.
    """
    path, content = picture.path, picture.content
    if picture.address:
        content = fetch_picture(picture.address)
    elif content is None:
        found = _content_or_digest(picture)
        if not found or isinstance(found, str):
            return found or "", path, path  # the Predictor raises the errors of missing content
        content = found
    name = "standard input" if picture.content is not None else picture.shown
    return hashlib.sha256(content).hexdigest(), Named(content, name), Named(content, name)


def _content_or_digest(picture: Picture) -> bytes | str:
    """Returns the bytes of a file or object; of one that stays a path, the SHA-256."""
    if picture.member is not None:
        return picture.member.read().getvalue()
    path = split_page(picture.path)[0]
    if is_address(path):
        if path.suffix.lower() in (".tif", ".tiff"):
            return picture.version or digest_of(path)
        return fetch(path).read()
    if not path.is_file():
        return ""
    if picture.is_video:
        return digest_of(path)
    with path.open("rb") as file:
        head = file.read(4)
        return digest_of(path) if head in TIFF_MAGIC else head + file.read()


def as_ours(error: Exception, path: str) -> AtrousError:
    """Returns any exception as an `AtrousError` about a picture."""
    if isinstance(error, AtrousError):
        return error
    where = getattr(error, "filename", None) or path
    if isinstance(error, MemoryError):
        fix = "allow less with --memory, so that the picture is seen in tiles"
        return ResourceError("E-MEMORY", "not enough memory", where=where, fix=fix)
    if isinstance(error, OSError) and error.errno in _FULL:
        fix = "make room, or choose another --out; the same call then does the rest"
        return ResourceError("E-DISK-FULL", f"{error.strerror}", where=where, fix=fix)
    if isinstance(error, OSError):
        return InputError("E-FILE-IO", f"{error.strerror or error}", where=where)
    fix = "this is a bug in atrous; run again with --debug and report what it prints"
    return InputError("E-BUG", f"{type(error).__name__}: {error}", where=where, fix=fix)


def shown(outcome: Outcome) -> dict[str, Any]:
    """Returns the line of JSON for a picture: the record without its bookkeeping, or the error."""
    if outcome.record is None:
        assert outcome.error is not None
        message = outcome.error.what
        return {"input": outcome.shown, "error": message, "code": outcome.error.code}
    keys = ("input", "labels", "overlay", "size", "areas", "confidence", "precision")
    more = ("probabilities", "cutouts", "frames", "num_frames", "changed", "notes")
    return {key: outcome.record[key] for key in (*keys, *more) if key in outcome.record}
