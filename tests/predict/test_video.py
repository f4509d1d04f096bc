"""Each frame of a video once, as a picture is segmented, with the sound and times of the source."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image

from atrous.cli import main
from atrous.errors import AtrousError, ExitCode
from atrous.images.bands import Bands
from atrous.images.decode import remove_unfinished
from atrous.images.video import Frames, VideoWriter, count_frames, missing_program, probe
from atrous.predict.batch import Extras, check_output, segment_files
from atrous.predict.find import Picture, find_pictures
from atrous.predict.many import segment_many
from atrous.predict.predictor import Predictor
from atrous.predict.records import is_output
from atrous.predict.video import Steady, VideoOptions
from tests.engines.test_openvino import tiny
from tests.fake_engine import BrightestChannel

SOUND = ("-f", "lavfi", "-i", "sine=duration=4", "-shortest")


@pytest.fixture(autouse=True)
def _needs_ffmpeg() -> None:
    if missing_program():
        if os.environ.get("ATROUS_REQUIRE_FFMPEG"):
            pytest.fail("needs ffmpeg")
        pytest.skip("needs ffmpeg")


def ffmpeg(*arguments: object) -> bytes:
    command = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def clip(path: Path, *options: str, size: str = "64x48", seconds: float = 4) -> Path:
    """Draws a moving test picture, 25 frames a second."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(drawn(path.suffix, options, size, seconds))
    return path


@cache
def drawn(suffix: str, options: tuple[str, ...], size: str, seconds: float) -> bytes:
    source = f"testsrc=size={size}:rate=25:duration={seconds}"
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{suffix}"
        ffmpeg("-f", "lavfi", "-i", source, *options, path)
        return path.read_bytes()


def film(path: Path, frames: np.ndarray, *options: str) -> Path:
    """Writes frames (n, H, W, 3) without loss."""
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    command = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size]
    command += ["-i", "pipe:0", *options, "-c:v", "ffv1", str(path)]
    subprocess.run(command, input=frames.tobytes(), check=True)
    return path


def turn(path: Path) -> Path:
    """Turns an MP4 by 90 degrees as phones do: by the matrix in its header."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def packets(path: Path, stream: str) -> list[float]:
    """Returns the times of a stream's packets, sorted."""
    command = ["ffprobe", "-v", "error", "-select_streams", stream, "-of", "csv=p=0"]
    command += ["-show_entries", "packet=pts_time", str(path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return sorted(float(line.strip(",")) for line in out.split())


def segmented(path: Path, out: Path, engine=None, *, overwrite=False, overlay=True, **options):
    """Segments a video; returns its outcome."""
    found = find_pictures([path], out, videos=True)
    extras = Extras(overlay=overlay, video=VideoOptions(**options))
    predictor = Predictor(engine or BrightestChannel())
    (outcome,) = segment_files(predictor, found.pictures, out, extras=extras, overwrite=overwrite)
    return outcome


def lines_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "clip.frames.jsonl").read_text().splitlines()]


KINDS = {
    "constant": ("clip.mp4", (*SOUND, "-pix_fmt", "yuv420p")),
    "variable": ("clip.mkv", ("-vf", "setpts=N*(1+N/9)/25/TB", "-vsync", "vfr")),
    "odd": ("clip.avi", ("-vf", "crop=53:37", "-c:v", "ffv1", "-pix_fmt", "yuv444p")),
    "turned": ("clip.mov", ("-pix_fmt", "yuv420p")),
    "wide pixels": ("clip.webm", ("-vf", "setsar=4/3", "-c:v", "libvpx", "-b:v", "1M")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_segmented_once_as_a_picture_would_be(kind, tmp_path):
    name, options = KINDS[kind]
    count = 100 if kind == "constant" else 25
    path = clip(tmp_path / name, *options, seconds=count / 25)
    if kind == "turned":
        turn(path)
    outcome = segmented(path, tmp_path / "out", label_frames=True)
    assert outcome.error is None
    assert outcome.record["num_frames"] == count
    (tmp_path / "png").mkdir()
    ffmpeg("-i", path, "-vsync", "0", tmp_path / "png" / "%03d.png")
    pictures = sorted((tmp_path / "png").iterdir())
    labels = sorted(Path(outcome.record["labels"]).iterdir())
    assert len(pictures) == len(labels) == count
    predictor = Predictor(BrightestChannel())
    for picture, found in zip(pictures, labels, strict=True):
        with Image.open(found) as image:
            assert np.array_equal(np.asarray(image), predictor(picture).labels)
    with Image.open(pictures[0]) as image:
        assert outcome.record["size"] == [image.height, image.width]
        assert (kind == "turned") == (image.height > image.width)
    times = packets(path, "v")
    shown = packets(Path(outcome.record["overlay"]), "v")
    assert np.allclose([line["time"] for line in lines_of(tmp_path / "out")], times, atol=2e-3)
    assert np.allclose(shown, times, atol=2e-3)
    assert (np.ptp(np.diff(times)) > 0.1) == (kind == "variable")
    assert probe(Path(outcome.record["overlay"])).shape == probe(path).shape
    assert bool(probe(path).shape) == (kind == "wide pixels")


def test_the_overlay_has_the_sound_bit_for_bit_and_in_time(tmp_path):
    late = ("-itsoffset", "0.6", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=25:duration=2")
    path = tmp_path / "clip.mp4"
    ffmpeg(*late, *SOUND[:4], "-vsync", "0", "-pix_fmt", "yuv420p", path)
    overlay = Path(segmented(path, tmp_path / "out").record["overlay"])
    assert overlay.name == "clip.overlay.mp4"
    sounds = [
        ffmpeg("-i", p, "-map", "0:a", "-c", "copy", "-f", "md5", "-") for p in (path, overlay)
    ]
    assert sounds[0] == sounds[1]
    before, after = (packets(p, "v")[0] - packets(p, "a")[0] for p in (path, overlay))
    assert before > 0.5
    assert after == pytest.approx(before, abs=0.03)


def test_the_overlay_is_the_pictures_overlay_and_is_even_and_private(tmp_path):
    frames = np.zeros((3, 37, 53, 3), np.uint8)
    frames[:, :, :30, 0] = frames[:, :, 30:, 2] = 200
    private = ("-metadata", "location=+48.85+002.35/", "-metadata", "title=at home")
    path = film(tmp_path / "clip.mkv", frames, *private)
    overlay = Path(segmented(path, tmp_path / "out").record["overlay"])
    for text in (b"at home", b"48.85"):
        assert text in path.read_bytes()
        assert text not in overlay.read_bytes()
    expected = np.asarray(Predictor(BrightestChannel())(frames[0]).overlay()).astype(int)
    raw = ffmpeg("-i", overlay, "-frames:v", 1, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    found = np.frombuffer(raw, np.uint8).reshape(38, 54, 3)[:37, :53].astype(int)
    assert np.abs(found - expected)[:, [*range(25), *range(35, 53)]].mean() < 8
    assert np.abs(found - expected).mean() < 12  # colours have half the size


def test_every_third_frame(tmp_path):
    path = clip(tmp_path / "clip.mkv", "-c:v", "ffv1", seconds=1)
    all_of_it = segmented(path, tmp_path / "all", label_frames=True).record
    third = segmented(path, tmp_path / "out", every=3, label_frames=True).record
    lines = lines_of(tmp_path / "out")
    assert [line["frame"] for line in lines] == list(range(0, 25, 3))
    assert np.allclose([line["time"] for line in lines], np.arange(0, 25, 3) / 25, atol=1e-3)
    assert len(packets(Path(third["overlay"]), "v")) == third["num_frames"] == 9
    for file in Path(third["labels"]).iterdir():
        with Image.open(file) as one, Image.open(Path(all_of_it["labels"]) / file.name) as other:
            assert np.array_equal(np.asarray(one), np.asarray(other))


def noisy(color: tuple[int, int, int], count: int, seed: int = 0) -> np.ndarray:
    """Draws a still picture of almost equal channels, with noise."""
    random = np.random.default_rng(seed)
    noise = random.normal(0, 6, (count, 48, 64, 3))
    return (np.asarray(color) + noise).clip(0, 255).astype(np.uint8)


def test_stabilised_labels_flicker_less_and_never_mix_scenes(tmp_path):
    frames = np.concatenate([noisy((120, 122, 118), 10), noisy((20, 22, 24), 5)])
    path = film(tmp_path / "clip.mkv", frames)
    plain = segmented(path, tmp_path / "plain", label_frames=True).record
    steady = segmented(path, tmp_path / "steady", stabilise=True, label_frames=True).record
    assert steady["changed"] < plain["changed"] / 2
    for number, equal in ((0, True), (1, False), (9, False), (10, True), (11, False)):
        name = f"{number:06}.labels.png"
        found = [np.asarray(Image.open(Path(r["labels"]) / name)) for r in (plain, steady)]
        assert np.array_equal(*found) == equal, number


def test_the_mean_is_the_closed_form():
    random = np.random.default_rng(0)
    logits = random.normal(size=(5, 4, 6, 3)).astype(np.float32)
    steady, frame = Steady(), Image.new("RGB", (24, 16), "grey")
    for coarse in logits:
        found = steady(frame, coarse)
    weights = np.array([0.75**4, *(0.25 * 0.75**k for k in (3, 2, 1, 0))])
    assert np.allclose(found, np.tensordot(weights, logits, 1), atol=1e-6)


def test_finished_videos_are_kept_and_other_options_do_them_again(tmp_path):
    path, out, engine = (
        clip(tmp_path / "clip.mp4", seconds=0.2),
        tmp_path / "out",
        BrightestChannel(),
    )
    first = segmented(path, out, engine, label_frames=True)
    assert engine.calls == 5
    again = segmented(path, out, engine, label_frames=True)
    assert (engine.calls, again.seconds) == (5, 0)
    assert again.record == first.record
    segmented(path, out, engine, label_frames=True, every=2)
    assert engine.calls == 8
    assert len(list((out / "clip.labels").iterdir())) == 3
    segmented(path, out, engine, label_frames=True, every=2, overwrite=True)
    assert engine.calls == 11


def test_files_of_a_killed_call_are_replaced_and_those_of_others_are_not(tmp_path):
    path, other = (clip(tmp_path / name / "clip.mp4", seconds=0.2) for name in ("a", "b"))
    whole = tmp_path / "whole"
    segmented(path, whole, label_frames=True)
    for left in ("clip.overlay.mp4", "clip.labels", "clip.frames.jsonl"):
        out = tmp_path / left
        out.mkdir()
        copy = shutil.copytree if (whole / left).is_dir() else shutil.copy
        copy(whole / left, out / left)
        with pytest.raises(AtrousError) as caught:
            segmented(other, out, label_frames=True)
        assert caught.value.code == "E-OUT-TAKEN"
        check_output(Picture(path, "clip"), out, Extras(video=VideoOptions(label_frames=True)))
    assert segmented(path, out, label_frames=True).record["num_frames"] == 5


def test_an_error_in_the_middle_leaves_nothing(tmp_path):
    class Fails(BrightestChannel):
        def coarse_logits(self, image):
            if self.calls == 3:
                raise MemoryError
            return super().coarse_logits(image)

    path, out = clip(tmp_path / "clip.mp4", seconds=0.2), tmp_path / "out"
    outcome = segmented(path, out, Fails(), label_frames=True)
    assert outcome.error.code == "E-MEMORY"
    assert list(out.iterdir()) == []


def test_earlier_output_is_no_input(tmp_path):
    path = clip(tmp_path / "clip.mp4", seconds=0.2)
    segmented(path, tmp_path, label_frames=True)
    found = find_pictures([tmp_path], tmp_path, videos=True)
    assert found.paths == [path]
    assert is_output(tmp_path / "clip.overlay.mp4")


def test_a_broken_end_is_said_and_the_frames_before_it_are_kept(tmp_path):
    path = clip(tmp_path / "clip.mkv", "-c:v", "mjpeg")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    outcome = segmented(path, tmp_path / "out")
    assert 20 < outcome.record["num_frames"] < 80
    assert any("damage" in note for note in outcome.record["notes"])


def broken_mp4(path: Path) -> Path:
    data = clip(path, seconds=0.2).read_bytes()
    path.write_bytes(data[: data.index(b"moov")])
    return path


def playlist(path: Path) -> Path:
    clip(path.with_name("other.mp4"), seconds=0.2)
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    return path


BAD = {
    "cut before its index": (broken_mp4, "E-VIDEO-BROKEN"),
    "text": (lambda path: path.write_text("no video"), "E-VIDEO-BROKEN"),
    "a picture": (lambda path: Image.new("RGB", (9, 9)).save(path, "PNG"), "E-VIDEO-BROKEN"),
    "a list of files": (playlist, "E-VIDEO-BROKEN"),
    "sound alone": (lambda path: ffmpeg(*SOUND[:4], path), "E-VIDEO-EMPTY"),
    "empty": (lambda path: path.write_bytes(b""), "E-FILE-EMPTY"),
    "missing": (lambda path: None, "E-FILE-MISSING"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_video_is_refused_by_name(kind, tmp_path):
    make, code = BAD[kind]
    path = tmp_path / "clip.mp4"
    make(path)
    good = tmp_path / "a.png"
    Image.new("RGB", (9, 9)).save(good)
    found = find_pictures([path, good], tmp_path / "out", videos=True)
    outcomes = list(segment_files(Predictor(BrightestChannel()), found.pictures, tmp_path / "out"))
    assert [o.error.code if o.error else None for o in outcomes] == [code, None]
    assert not list((tmp_path / "out").glob("clip*"))


def test_a_frame_beyond_the_memory_is_refused(tmp_path, monkeypatch):
    class Hungry(BrightestChannel):
        bytes_per_pixel = 10**9

    monkeypatch.setattr("atrous.predict.tiles._BYTES_AT_MOST", 10**9)
    path = clip(tmp_path / "clip.mp4", seconds=0.2)
    outcome = segmented(path, tmp_path / "out", Hungry())
    assert outcome.error.code == "E-VIDEO-SIZE"


def test_a_model_of_other_channels_takes_no_video(tmp_path):
    class Infrared(BrightestChannel):
        bands = Bands(("red", "green", "blue", "nir"), "uint16")

    outcome = segmented(clip(tmp_path / "clip.mp4", seconds=0.2), tmp_path / "out", Infrared())
    assert outcome.error.code == "E-MODEL-CHANNELS"


def test_a_full_disk_is_said(tmp_path):
    path = clip(tmp_path / "clip.mkv", seconds=0.2)
    (tmp_path / "full.mp4").symlink_to("/dev/full")
    with VideoWriter(tmp_path / "full.mp4", path, probe(path), "mark") as writer:
        writer.write(0, np.zeros((48, 64, 3), np.uint8))
        with pytest.raises(AtrousError) as caught:
            writer.end()
    assert (caught.value.code, caught.value.exit_code) == ("E-DISK-FULL", ExitCode.RESOURCES)


def test_an_overlay_that_lost_frames_is_never_given_its_name(tmp_path, monkeypatch):
    path = clip(tmp_path / "clip.mkv", seconds=0.2)
    assert count_frames(path) == 5
    monkeypatch.setattr("atrous.images.video.count_frames", lambda path: count_frames(path) - 1)
    outcome = segmented(path, tmp_path / "out")
    assert outcome.error.code == "E-VIDEO-WRITE"
    assert list((tmp_path / "out").iterdir()) == []


def test_without_ffmpeg_a_named_video_is_an_error_and_a_folder_says_so(tmp_path, monkeypatch):
    path = clip(tmp_path / "in" / "clip.mp4", seconds=0.2)
    Image.new("RGB", (9, 9)).save(tmp_path / "in" / "a.png")
    assert len(find_pictures([tmp_path / "in"], videos=True).paths) == 2
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = segmented(path, tmp_path / "out")
    assert outcome.error.code == "E-MISSING-PROGRAM"
    assert "install" in outcome.error.fix
    found = find_pictures([tmp_path / "in"], videos=True)
    assert [p.name for p in found.paths] == ["a.png"]
    assert [reason for reason in found.left_out if "ffmpeg" in reason]


@pytest.mark.parametrize("option", ["--coco=o.json", "--annotate=coco", "--cutout=red"])
def test_options_of_pictures_refuse_named_videos_and_leave_those_of_folders_out(
    option, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("atrous.predict.predictor.open_engine", lambda *_, **__: BrightestChannel())
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "in" / "clip.mp4", seconds=0.2)
    Image.new("RGB", (9, 9)).save(tmp_path / "in" / "a.png")
    with pytest.raises(SystemExit) as caught:
        main(["predict", "in/clip.mp4", option])
    assert caught.value.code == ExitCode.USAGE
    assert "E-VIDEO-OPTION" in capsys.readouterr().err
    main(["predict", "in", option])
    assert ".mp4 (a video" in capsys.readouterr().out


def test_the_command_prints_a_record_and_takes_the_options(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("atrous.predict.predictor.open_engine", lambda *_, **__: BrightestChannel())
    path = clip(tmp_path / "clip.mp4", seconds=0.2)
    out = tmp_path / "out"
    main(["predict", str(path), "--out", str(out), "--json", "--every", "5", "--stabilise",
          "--label-frames", "--no-overlay"])  # fmt: skip
    record = json.loads(capsys.readouterr().out)
    assert record["num_frames"] == 1
    assert record["overlay"] is None
    assert sorted(p.name for p in out.iterdir()) == [
        "clip.frames.jsonl",
        "clip.json",
        "clip.labels",
    ]
    assert sum(record["areas"].values()) == pytest.approx(1)


@pytest.mark.slow
def test_memory_does_not_grow_over_an_hour(tmp_path):
    script = """
import resource, sys
from tests.predict.test_video import segmented
from pathlib import Path
segmented(Path(sys.argv[1]), Path(sys.argv[2]), stabilise=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for seconds in (60, 3600):
        path = tmp_path / f"{seconds}.mp4"
        source = f"testsrc=size=64x48:rate=5:duration={seconds}"
        ffmpeg("-f", "lavfi", "-i", source, *SOUND[:2], "-i", f"sine=duration={seconds}", path)
        done = subprocess.run(
            [sys.executable, "-c", script, path, tmp_path / "out"],
            cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout) * 1024)
    assert peaks[1] - peaks[0] < 20e6
    assert len((tmp_path / "out" / "3600.frames.jsonl").read_text().splitlines()) == 18_000


def test_segment_many_takes_videos_and_pictures_in_several_processes(tmp_path):
    path = clip(tmp_path / "in" / "clip.mp4", seconds=0.2)
    Image.new("RGB", (9, 9)).save(tmp_path / "in" / "a.png")
    model = tiny(tmp_path / "tiny.onnx")
    records = segment_many([path.parent], model, tmp_path / "out", jobs=2)
    assert [record.get("num_frames") for record in records] == [None, 5]
    assert Path(records[1]["frames"]).is_file()


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ffmpeg_that_was_ended_is_no_end_of_the_video(signal_, tmp_path):
    path = clip(tmp_path / "clip.mkv", "-c:v", "ffv1", size="320x240")
    with Frames(path, probe(path)) as frames:
        read = iter(frames)
        next(read)
        frames._process.send_signal(signal_)
        with pytest.raises(AtrousError) as caught:
            list(read)
    assert caught.value.code == "E-VIDEO-BROKEN"


def test_a_call_that_ends_does_not_wait_for_its_videos(tmp_path):
    class Streams(BrightestChannel):
        streams = 2

        def coarse_logits(self, image):
            time.sleep(0.05)
            return super().coarse_logits(image)

    clip(tmp_path / "b.mp4")  # 100 frames: five seconds
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    found = find_pictures([tmp_path], videos=True)
    outcomes = segment_files(Predictor(Streams()), found.pictures, tmp_path / "out")
    assert next(outcomes).path.name == "a.png"
    time.sleep(0.5)
    begun = time.perf_counter()
    outcomes.close()
    assert time.perf_counter() - begun < 3
    assert not list((tmp_path / "out").glob("b.*"))
    assert not list((tmp_path / "out").glob(".tmp-*"))


def test_hdr_is_said(tmp_path):
    path = clip(tmp_path / "clip.mkv", "-c:v", "ffv1", "-color_trc", "smpte2084", seconds=0.2)
    assert any("HDR" in note for note in segmented(path, tmp_path / "out").record["notes"])


@pytest.mark.slow
def test_a_killed_call_leaves_no_named_file_and_the_next_one_does_it_all(tmp_path):
    script = """
import sys, time
from pathlib import Path
from tests.fake_engine import BrightestChannel
from tests.predict.test_video import segmented

class Slow(BrightestChannel):
    def coarse_logits(self, image):
        print(self.calls, flush=True)
        time.sleep(0.05)
        return super().coarse_logits(image)

segmented(Path(sys.argv[1]), Path(sys.argv[2]), Slow(), label_frames=True)
"""
    path, out = clip(tmp_path / "clip.mp4"), tmp_path / "out"
    command = [sys.executable, "-c", script, str(path), str(out)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "20":
            pass
        process.kill()
    assert out.is_dir()
    assert all(file.name.startswith(".tmp-") for file in out.iterdir())
    assert segmented(path, out, label_frames=True).record["num_frames"] == 100
    remove_unfinished(out)  # by now the encoder of the killed call has ended
    names = ["clip.frames.jsonl", "clip.json", "clip.labels", "clip.overlay.mp4"]
    assert sorted(file.name for file in out.iterdir()) == names
