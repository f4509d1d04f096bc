"""Videos, decoded and encoded by the programs ``ffmpeg`` and ``ffprobe`` of the user.

The programs run beside this process and hand frames over through pipes, so memory does not grow
with the length of a video.
"""

import json
import re
import shutil
import struct
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError, InputError, ResourceError
from atrous.images.decode import check_file, damaged

SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".wmv", ".asf"),
        *(".flv", ".f4v", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".ogv"),
    )
)
_PROGRAMS = ("ffmpeg", "ffprobe")
# A list of addresses that calls itself a video must not make ffmpeg open other files or the
# network: these containers hold all their data themselves.
_SAFE = (
    *("-protocol_whitelist", "file,pipe"),
    *("-format_whitelist", "mov,matroska,avi,mpegts,mpeg,asf,flv,ogg"),
)
_PROBE_SECONDS = 60.0
# ffmpeg's code after a signal that it handles. Frames that are missing then are no damage of the
# file. A Ctrl-C does not reach ffmpeg, which has a process group of its own: this process ends it.
_INTERRUPTED = 255
_TICKS = 60_000  # of a second in the overlay: whole numbers for the usual frame rates
_RGB24 = 0x18424752  # the tag of 24-bit RGB pictures in containers
_HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
_MARK_BYTES = 1 << 16


@dataclass(frozen=True)
class Facts:
    """What the header of a video says.

    Attributes:
        size: Height and width of an upright frame.
        frames: Number of frames, counted or estimated; 0: unknown.
        counted: Whether the file states its number of frames.
        shape: Width of a pixel divided by its height, as ``N/D``; empty: square.
        notes: Decisions about the colours.
    """

    size: tuple[int, int]
    frames: int
    counted: bool
    shape: str
    notes: tuple[str, ...]


def missing_program() -> str:
    """Returns the name of a needed program that is not installed; empty if all are."""
    return next((name for name in _PROGRAMS if shutil.which(name) is None), "")


def probe(path: Path) -> Facts:
    """Returns what the header of a video says.

    Raises:
        AtrousError: ``E-FILE-...``; ``E-MISSING-PROGRAM``; ``E-VIDEO-BROKEN``: no video that is
            read; ``E-VIDEO-EMPTY``: a file without a video stream, such as sound.
    """
    check_file(path)
    if missing := missing_program():
        raise InputError(
            "E-MISSING-PROGRAM",
            f"videos need the program {missing!r}, which is not installed",
            where=path,
            fix="apt-get install ffmpeg (macOS: brew install ffmpeg; Windows: winget install "
            "ffmpeg), then run this again",
        )
    wanted = "stream=width,height,sample_aspect_ratio,nb_frames,avg_frame_rate,color_transfer"
    wanted += ",duration:stream_tags=rotate:stream_side_data=rotation:format=duration"
    try:
        done = _ffprobe(path, "-show_entries", wanted, "-of", "json")
    except subprocess.TimeoutExpired:
        raise broken(path, f"ffprobe found nothing in {_PROBE_SECONDS:.0f} s") from None
    if done.returncode:
        raise broken(path, _last_line(done.stderr))
    found = json.loads(done.stdout)
    if not found.get("streams"):
        raise InputError("E-VIDEO-EMPTY", "no video in this file", where=path)
    return _facts(path, found["streams"][0], found.get("format", {}))


def count_frames(path: Path) -> int:
    """Returns the number of frames in a video, from its container, without decoding; 0: none."""
    wanted = ("-count_packets", "-show_entries", "stream=nb_read_packets", "-of", "csv=p=0")
    digits = _ffprobe(path, *wanted, seconds=None).stdout.strip(b",\r\n ")
    return int(digits) if digits.isdigit() else 0


def _ffprobe(
    path: Path, *options: str, seconds: float | None = _PROBE_SECONDS
) -> subprocess.CompletedProcess[bytes]:
    command = ["ffprobe", "-v", "error", *_SAFE, "-select_streams", "V:0", *options, _url(path)]
    return subprocess.run(command, capture_output=True, timeout=seconds, check=False)


def _facts(path: Path, stream: dict[str, Any], container: dict[str, Any]) -> Facts:
    size = stream.get("height", 0), stream.get("width", 0)
    ratio = _fraction(stream.get("sample_aspect_ratio", "").replace(":", "/"))
    if min(size) < 1:
        raise broken(path, "it states no size")
    turned = [side.get("rotation", 0) for side in stream.get("side_data_list", ())]
    turned += [stream.get("tags", {}).get("rotate", 0)]
    if any(round(float(angle)) % 180 == 90 for angle in turned):
        size, ratio = size[::-1], 1 / ratio if ratio else ratio
    seconds = float(stream.get("duration") or container.get("duration") or 0)
    counted = int(stream.get("nb_frames") or 0)
    frames = counted or round(seconds * _fraction(stream.get("avg_frame_rate", "")))
    curve = _HDR.get(stream.get("color_transfer", ""))
    notes = (f"HDR ({curve}) was read as it is, without tone mapping",) if curve else ()
    return Facts(size, frames, bool(counted), str(ratio) if ratio not in (0, 1) else "", notes)


def _fraction(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return Fraction(0)


class Frames:
    """The frames of a video, decoded one by one while they are asked for.

    Frames are upright. All have the size of the first, also where the size of the video changes.

    Args:
        path: The file.
        facts: From `probe`.
        every: Decode every so many frames only, beginning with the first.

    Attributes:
        errors: Damage that ffmpeg reported, known after the last frame.
    """

    def __init__(self, path: Path, facts: Facts, *, every: int = 1) -> None:
        self.path, self.size = path, facts.size
        self.errors: deque[str] = deque(maxlen=20)
        self._ticks: SimpleQueue[int | None] = SimpleQueue()
        self._unit = Fraction(1, 90_000)
        height, width = facts.size
        filters = f"showinfo,scale={width}:{height},format=rgb24"
        if every > 1:
            filters = rf"select=not(mod(n\,{every})),{filters}"
        self._process = subprocess.Popen(
            ["ffmpeg", "-hide_banner", "-nostdin", "-nostats", "-loglevel", "repeat+level+info",
             *_SAFE, "-i", _url(path), "-map", "0:V:0", "-vf", filters,
             *_every_frame(), "-f", "rawvideo", "pipe:1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            process_group=0,
        )  # fmt: skip
        self._listener = Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __iter__(self) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """Yields the time of each frame in seconds, and the frame (H, W, 3) RGB.

        Raises:
            AtrousError: ``E-VIDEO-BROKEN``: no frame could be decoded, or a signal ended ffmpeg.
        """
        height, width = self.size
        count, last = 0, Fraction(-1, 10)
        assert self._process.stdout is not None
        while len(data := self._process.stdout.read(height * width * 3)) == height * width * 3:
            ticks = self._ticks.get()  # ffmpeg wrote it before the frame
            # A frame without a time comes a tenth of a second after the one before.
            last = last + Fraction(1, 10) if ticks is None else ticks * self._unit
            yield float(last), np.frombuffer(data, np.uint8).reshape(height, width, 3)
            count += 1
        code = self._process.wait()
        self._listener.join()
        if code < 0 or code == _INTERRUPTED:
            raise broken(self.path, f"ffmpeg was ended after {count} frames")
        if not count:
            why = self.errors[0] if self.errors else "it holds no frames"
            raise broken(self.path, why)

    def _listen(self) -> None:
        """Reads what ffmpeg says: the times of the frames, and errors."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode("utf-8", "replace").strip()
            if "showinfo" in text:
                if unit := re.search(r"config in time_base: (\d+/\d+)", text):
                    self._unit = Fraction(unit[1])
                elif found := re.search(r"\bn: *\d+ pts: *(-?\d+|NOPTS)", text):
                    self._ticks.put(None if found[1] == "NOPTS" else int(found[1]))
            elif match := re.search(r"\[(?:error|fatal)\] (.*)", text):
                self.errors.append(match[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


class VideoWriter:
    """A video that is being encoded, with the sound of another.

    Args:
        target: The file; its suffix says the container.
        source: The video whose sound is copied as it is.
        facts: Of that video.
        mark: A text stored in the file.
    """

    def __init__(self, target: Path, source: Path, facts: Facts, mark: str) -> None:
        self._target, self._source, self._facts, self._mark = target, source, facts, mark
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self._process: subprocess.Popen[bytes] | None = None
        self._start, self._ticks, self._count = 0.0, -1, 0

    def write(self, time: float, frame: NDArray[np.uint8]) -> None:
        """Adds a frame (H, W, 3) that is shown from a time on, in seconds; times rise.

        Raises:
            AtrousError: ``E-DISK-FULL`` or ``E-VIDEO-WRITE``.
        """
        height, width = frame.shape[:2]
        # Players want colours at half the size, so sides are even: the last pixels are repeated.
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        try:
            if self._process is None:
                self._begin(time, *even.shape[:2])
            self._ticks = max(self._ticks + 1, round((time - self._start) * _TICKS))
            self._pipe.write(struct.pack("<IQ", even.nbytes, self._ticks))
            self._pipe.write(even.data)
            self._count += 1
        except BrokenPipeError:
            raise self._failure() from None

    def end(self) -> None:
        """Writes the end of the file.

        Raises:
            AtrousError: ``E-DISK-FULL`` or ``E-VIDEO-WRITE``.
        """
        try:
            self._pipe.close()
        except BrokenPipeError:
            raise self._failure() from None
        assert self._process is not None
        # ffmpeg does not report every failed write, so its frames are counted.
        if self._process.wait() or count_frames(self._target) != self._count:
            raise self._failure()

    @property
    def _pipe(self) -> IO[bytes]:
        assert self._process is not None
        assert self._process.stdin is not None
        return self._process.stdin

    def _begin(self, time: float, height: int, width: int) -> None:
        """Starts ffmpeg; frames go to it as IVF, the simplest container with times."""
        self._start = time
        filters = "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"
        if self._facts.shape:
            filters += f",setsar={self._facts.shape}"
        # -tag:v replaces the kind of raw pixels that the header below gives.
        command = ["ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", "-y"]
        command += ["-f", "ivf", "-itsoffset", f"{time:.6f}", "-tag:v", str(_RGB24), "-i", "pipe:0"]
        command += [*_SAFE, "-i", _url(self._source), "-map", "0:v", "-map", "1:a?", "-c:a", "copy"]
        # The quality is of encoders without a constant quality of their own.
        command += ["-vf", filters, "-q:v", "3", "-enc_time_base", f"1/{_TICKS}", *_every_frame()]
        for key in ("colorspace", "color_primaries", "color_trc"):
            command += [f"-{key}", "bt709"]
        command += ["-map_metadata", "-1", "-map_chapters", "-1"]
        command += ["-metadata", f"comment={self._mark}", _url(self._target)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._said,
            process_group=0,
        )  # fmt: skip
        header = (b"DKIF", 0, 32, b"I420", width, height, _TICKS, 1, 0, 0)
        self._pipe.write(struct.pack("<4sHH4sHHIIII", *header))

    def _failure(self) -> AtrousError:
        assert self._process is not None
        self._process.wait()
        self._said.seek(0)
        said = self._said.read()
        full = shutil.disk_usage(self._target.parent).free < 1 << 20
        if full or b"No space left" in said or b"quota exceeded" in said:
            return ResourceError(
                "E-DISK-FULL",
                "no space left for the overlay",
                where=self._target,
                fix="make room, or choose another --out; the same call then does the rest",
            )
        return InputError(
            "E-VIDEO-WRITE",
            f"ffmpeg cannot write the overlay: {_last_line(said)}",
            where=self._source,
            fix="run again with --no-overlay, or convert the video first: ffmpeg -i IN OUT.mkv",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            with suppress(BrokenPipeError):
                self._pipe.close()
        self._said.close()


def overlay_suffix(path: Path) -> str:
    """Returns the suffix of a container that holds H.264 and the sound of a video as it is."""
    suffix = path.suffix.lower()
    return {".m4v": ".mp4", ".mp4": ".mp4", ".mov": ".mov"}.get(suffix, ".mkv")


def ends_of(path: Path) -> bytes:
    """Returns the first and last bytes of a file, where a video holds its metadata."""
    with path.open("rb") as file:
        head = file.read(_MARK_BYTES)
        file.seek(max(len(head), path.stat().st_size - _MARK_BYTES))
        return head + file.read()


def broken(path: Path, why: str) -> AtrousError:
    """Returns the error of a video that cannot be decoded."""
    return damaged(path, f"the video cannot be decoded: {why}", "E-VIDEO-BROKEN")


def _url(path: Path) -> str:
    return f"file:{path}"  # so that a name is never an option or a protocol


@cache
def _every_frame() -> tuple[str, str]:
    """Returns the option that passes each frame on once; its name changed in ffmpeg 5.1."""
    options = subprocess.run(["ffmpeg", "-h", "long"], capture_output=True, check=False).stdout
    return "-fps_mode" if b"-fps_mode" in options else "-vsync", "passthrough"


def _last_line(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it gave no reason"
