"""Segments the frames of a video into an overlay video and areas for each frame."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from atrous.classes import Labels
from atrous.errors import InputError
from atrous.images.decode import atomic, write
from atrous.images.video import Facts, Frames, VideoWriter, overlay_suffix, probe
from atrous.predict.overlay import palette_image
from atrous.predict.predictor import Predictor
from atrous.predict.records import MARK
from atrous.predict.segmentation import Segmentation, encoded

WEIGHT = 0.25  # of a new frame in the mean: half of it is of the last 2.4 frames
CUT = 20.0  # mean difference of two frames, 0..255, reduced to `_REDUCED`, that begins a new mean
_REDUCED = (32, 32)

OnFrame = Callable[[Path, int, int], None]


@dataclass(frozen=True)
class VideoOptions:
    """How videos are segmented.

    Attributes:
        every: Segment every so many frames, beginning with the first. The overlay holds these.
        stabilise: Whether labels are those of a mean over frames; see `Steady`.
        label_frames: Whether to write the labels of each frame as a picture.
    """

    every: int = 1
    stabilise: bool = False
    label_frames: bool = False


ALL_FRAMES = VideoOptions()


@dataclass(frozen=True)
class VideoFiles:
    """The files of one video's output.

    Attributes:
        frames: Areas of each frame, JSON Lines.
        overlay: The tinted video; None if there is none.
        labels: Folder of the label pictures; None if there are none.
        summary: The JSON.
    """

    frames: Path
    overlay: Path | None
    labels: Path | None
    summary: Path

    @property
    def pictures(self) -> list[Path]:
        """All files but the JSON."""
        return [path for path in (self.frames, self.overlay, self.labels) if path is not None]


def video_files(
    out: Path, stem: str, path: Path, *, overlay: bool, label_frames: bool
) -> VideoFiles:
    """Returns the names of a video's output files; see `segment_video`."""
    return VideoFiles(
        frames=out / f"{stem}.frames.jsonl",
        overlay=out / f"{stem}.overlay{overlay_suffix(path)}" if overlay else None,
        labels=out / f"{stem}.labels" if label_frames else None,
        summary=out / f"{stem}.json",
    )


class Steady:
    """The exponential mean of coarse logits over the frames since the last cut.

    Noise changes the logits of each frame a little, so labels flicker where two classes are almost
    equally likely. The mean changes less. A cut, or a movement that changes as much of the picture,
    begins a new mean: labels of another scene are never mixed in.
    """

    def __init__(self) -> None:
        self._mean: NDArray[np.float32] | None = None
        self._last = np.zeros(0, np.float32)

    def __call__(self, frame: Image.Image, coarse: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the mean with the coarse logits (h, w, K) of the next frame in it."""
        reduced = np.asarray(frame.resize(_REDUCED, Image.Resampling.BOX), np.float32)
        if self._mean is None or np.abs(reduced - self._last).mean() > CUT:
            self._mean = coarse.copy()
        else:
            self._mean += np.float32(WEIGHT) * (coarse - self._mean)
        self._last = reduced
        return self._mean


def segment_video(
    predictor: Predictor,
    path: Path,
    files: VideoFiles,
    options: VideoOptions,
    *,
    facts: dict[str, Any],
    mark: str,
    on_frame: OnFrame | None = None,
) -> dict[str, Any]:
    """Writes the output of a video and returns the content of its JSON.

    One frame is in memory at a time. Each file gets its name when it is whole, the JSON last.

    Args:
        predictor: The model.
        path: The video.
        files: From `video_files`.
        options: How.
        facts: Entries that are added to the JSON.
        mark: A text stored in every file.
        on_frame: Called with the video, the number of frames done, and the number expected (0:
            unknown).

    Raises:
        AtrousError: ``E-MISSING-PROGRAM``, ``E-VIDEO-BROKEN``, ``E-VIDEO-EMPTY``,
            ``E-VIDEO-SIZE``, ``E-VIDEO-WRITE`` or ``E-DISK-FULL``.
    """
    header = probe(path)
    if not predictor.fits(header.size):
        raise InputError(
            "E-VIDEO-SIZE",
            f"a frame of {header.size[0]} x {header.size[1]} needs more than the memory, and "
            "frames are not seen in tiles",
            where=path,
            fix="allow more with --memory, or shrink the video: ffmpeg -i IN -vf scale=1280:-2 OUT",
        )
    expected = -(-header.frames // options.every)
    if on_frame is not None:
        on_frame(path, 0, expected)
    with ExitStack() as stack:
        frames = stack.enter_context(Frames(path, header, every=options.every))
        output = _Output(files, path, header, mark, stack)
        steady = Steady() if options.stabilise else None
        for count, (time, frame) in enumerate(frames):
            image = Image.fromarray(frame)
            coarse = predictor.engine.coarse_logits(frame)
            if steady is not None:
                coarse = steady(image, coarse)
            result = predictor.segmented(image, coarse)
            output.add(count * options.every, time, result)
            if on_frame is not None:
                on_frame(path, count + 1, expected)
        if output.writer is not None:
            output.writer.end()
    notes = [*header.notes, *_damage(header, options.every, output.count, frames.errors)]
    record = {
        **facts,
        "labels": str(files.labels) if files.labels else None,
        "overlay": str(files.overlay) if files.overlay else None,
        "frames": str(files.frames),
        "size": list(header.size),
        **output.totals(),
        **({"notes": notes} if notes else {}),
    }
    write(files.summary, (json.dumps(record, indent=1) + "\n").encode())
    return record


def _damage(header: Facts, every: int, count: int, errors: Any) -> list[str]:
    """Returns what is to be said about frames that are missing or damaged."""
    said = []
    expected = -(-header.frames // every)
    if header.counted and count < expected:
        said.append(f"the video is damaged: {count} of {expected} frames could be decoded")
    if errors:
        said.append(f"ffmpeg found damage, and frames may be wrong or missing: {errors[0]}")
    return said


class _Output:
    """The files of a video while they are written, under temporary names until a stack ends."""

    def __init__(
        self, files: VideoFiles, path: Path, header: Facts, mark: str, stack: ExitStack
    ) -> None:
        self._mark = mark
        self.count, self._sure, self._changed = 0, 0.0, 0.0
        self._areas: Counter[str] = Counter()
        self._last: Labels | None = None
        # Renamed in the opposite order: what holds no mark of its own comes last.
        lines = stack.enter_context(atomic(files.frames))
        self._lines = stack.enter_context(lines.open("w", encoding="utf-8"))
        self._labels = self.writer = None
        if files.labels:
            self._labels = stack.enter_context(atomic(files.labels, folder=True))
        if files.overlay:
            target = stack.enter_context(atomic(files.overlay))
            writer = VideoWriter(target, path, header, f"{MARK} {mark}")
            self.writer = stack.enter_context(writer)

    def add(self, number: int, time: float, result: Segmentation) -> None:
        """Writes a frame."""
        changed = None if self._last is None else float(np.mean(self._last != result.labels))
        line = {
            "frame": number,
            "time": round(time, 6),
            "areas": result.areas,
            "confidence": round(result.confidence, 4),
            "changed": changed,
        }
        if self.count == 0:
            line[MARK] = self._mark
        self._lines.write(json.dumps(line) + "\n")
        if self._labels is not None:
            text = PngInfo()
            text.add_text(MARK, self._mark)
            picture = palette_image(result.labels, result._stored_palette)
            (self._labels / f"{number:06}.labels.png").write_bytes(
                encoded(picture, "PNG", pnginfo=text)
            )
        if self.writer is not None:
            self.writer.write(time, np.asarray(result.overlay()))
        self.count += 1
        self._areas.update(result.areas)
        self._sure += result.confidence
        self._changed += changed or 0.0
        self._last = result.labels

    def totals(self) -> dict[str, Any]:
        """Returns means over all frames."""
        count = self.count
        return {
            "num_frames": count,
            "areas": {name: share / count for name, share in self._areas.most_common()},
            "confidence": round(self._sure / count, 4),
            "changed": round(self._changed / max(1, count - 1), 6),
        }
