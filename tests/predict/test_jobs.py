"""Workers may die: every picture is done once or reported, and no part of a file is left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.engines.machine import usable_processors
from atrous.errors import AtrousError
from atrous.images.decode import _host
from atrous.predict import jobs as jobs_module
from atrous.predict.batch import Extras
from atrous.predict.find import find_pictures
from atrous.predict.jobs import segment_in_jobs
from atrous.predict.many import segment_many
from atrous.predict.predictor import Predictor
from tests.engines.test_openvino import tiny
from tests.fake_engine import BrightestChannel


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    return tiny(tmp_path / "tiny.onnx")


def draw(folder: Path, count: int) -> Path:
    random = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        pixels = random.integers(0, 256, (9, 13, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the files of a folder; the JSON name the folder, which differs."""
    return {p.name: p.read_bytes().replace(str(folder).encode(), b"OUT") for p in folder.iterdir()}


def test_several_processes_write_what_one_writes(model, tmp_path):
    pictures = draw(tmp_path / "in", 7)
    (pictures / "bad.png").write_bytes(b"no picture")
    one = segment_many([pictures], model, tmp_path / "one")
    two = segment_many([pictures], model, tmp_path / "two", jobs=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [line.get("error") for line in one] == [line.get("error") for line in two]
    assert [line["input"] for line in one] == [line["input"] for line in two]
    seen = []
    segment_many([pictures], model, tmp_path / "two", jobs=2, on_outcome=seen.append)
    assert sorted(o.seconds == 0 for o in seen) == [False, *[True] * 7]  # the rest was kept


def killing(name: str, times: int, log: Path):
    """Returns a Job.do that kills its process before a picture, so many times."""

    def do(self, place, picture):
        if picture.path.stem == name and len(log.read_text()) < times:
            with log.open("a") as file:
                file.write("x")
            (self.out / f".tmp-{os.getpid()}-{_host()}-half.png").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, place, picture)

    plain = jobs_module.Job.do
    return do


@pytest.fixture
def forked(monkeypatch):
    """Workers are forked, so that they have what a test replaced, and run no engine."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(jobs_module.multiprocessing, "get_context", lambda _kind: context)
    monkeypatch.setattr(jobs_module, "Predictor", lambda **_: Predictor(BrightestChannel()))


@pytest.mark.parametrize(("deaths", "reported"), [(1, []), (2, ["003"]), (99, ["003"])])
def test_a_picture_that_kills_its_worker_twice_is_reported(
    deaths, reported, forked, tmp_path, monkeypatch
):
    pictures, out = draw(tmp_path / "in", 9), tmp_path / "out"
    out.mkdir()
    (tmp_path / "log").write_text("")
    monkeypatch.setattr(jobs_module.Job, "do", killing("003", deaths, tmp_path / "log"))
    found = find_pictures([pictures], out)
    outcomes = list(
        segment_in_jobs({}, list(enumerate(found.pictures, 1)), out, jobs=2, extras=Extras())
    )
    assert sorted(o.path.stem for o in outcomes) == [f"{i:03}" for i in range(9)]
    errors = {o.path.stem: o.error for o in outcomes if o.error is not None}
    assert list(errors) == reported
    assert all(error.code == "E-WORKER" for error in errors.values())
    assert len((tmp_path / "log").read_text()) == min(deaths, 2)
    assert not list(out.glob(".tmp-*"))
    assert len(list(out.glob("*.json"))) == 9 - len(reported)


def test_a_full_disk_ends_the_call(forked, tmp_path, monkeypatch):
    def full(self, place, picture):
        raise AtrousError("E-DISK-FULL", "full", exit_code=5)

    monkeypatch.setattr(jobs_module.Job, "do", full)
    found = find_pictures([draw(tmp_path / "in", 3)], tmp_path / "out")
    with pytest.raises(AtrousError) as caught:
        list(segment_in_jobs({}, list(enumerate(found.pictures, 1)), tmp_path / "out", jobs=2))
    assert caught.value.code == "E-DISK-FULL"


def test_workers_share_the_threads(forked, tmp_path, monkeypatch):
    asked = []
    crew = jobs_module._Crew
    monkeypatch.setattr(
        jobs_module, "_Crew", lambda made, *rest: asked.append(made[0]) or crew(made, *rest)
    )
    found = find_pictures([draw(tmp_path / "in", 1)], tmp_path / "out")
    for options, jobs in (({"threads": 8}, 4), ({}, 64)):
        list(
            segment_in_jobs(
                options, list(enumerate(found.pictures, 1)), tmp_path / "out", jobs=jobs
            )
        )
    assert [made["threads"] for made in asked] == [2, max(1, usable_processors() // 64)]


def test_several_jobs_need_a_model_that_workers_can_open(tmp_path):
    pictures = draw(tmp_path / "in", 1)
    with pytest.raises(AtrousError) as caught:
        segment_many([pictures], Predictor(BrightestChannel()), tmp_path / "out", jobs=2)
    assert caught.value.code == "E-JOBS"


@pytest.mark.parametrize("moment", ["a worker starts", "a picture is done"])
def test_P02_an_interrupt_leaves_whole_files_only_and_no_process(model, tmp_path, moment):
    pictures, out = draw(tmp_path / "in", 400), tmp_path / "out"
    command = [sys.executable, "-m", "atrous.cli", "predict", str(pictures), "--jobs", "2"]
    process = subprocess.Popen(
        [*command, "--model", str(model), "--out", str(out)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # Shells make commands behind & ignore this signal, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    begun = {
        "a worker starts": lambda: workers_of(process.pid),
        "a picture is done": lambda: list(out.glob("*.json")),
    }
    while not begun[moment]() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in output
    assert not list(out.glob(".tmp-*"))
    for path in out.glob("*"):
        json.loads(path.read_text()) if path.suffix == ".json" else Image.open(path).load()
    with pytest.raises(ProcessLookupError):  # noqa: PT012  # nobody of its group is left
        while time.monotonic() < deadline + 10:
            os.killpg(process.pid, 0)
            time.sleep(0.05)


def workers_of(pid: int) -> list[int]:
    """Returns the worker processes of a call."""
    found = []
    for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            command = Path(f"/proc/{text}/cmdline").read_bytes()
        except OSError:
            continue
        if b"resource_tracker" not in command:
            found.append(int(text))
    return found


@pytest.mark.slow
def test_P02_twenty_kills_among_two_thousand_pictures_lose_nothing(model, tmp_path):
    pictures, out = draw(tmp_path / "in", 2000), tmp_path / "out"
    for index in (5, 700, 1900):
        (pictures / f"{index:03}.png").write_bytes(b"no picture")
    command = [sys.executable, "-m", "atrous.cli", "predict", str(pictures), "--jobs", "2"]
    command += ["--model", str(model), "--out", str(out), "--json"]
    lines, kills, random = [], 0, np.random.default_rng(0)
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(json.loads(line))
            if len(lines) % 90 == 0 and kills < 20:
                living = workers_of(process.pid)
                if living:
                    os.kill(int(random.choice(living)), signal.SIGKILL)
                    kills += 1
    assert process.returncode == 3
    assert kills == 20
    assert len({line["input"] for line in lines}) == len(lines) == 2000
    assert sorted(Path(line["input"]).stem for line in lines if "error" in line) == [
        "005",
        "1900",
        "700",
    ]
    assert not list(out.glob(".tmp-*"))
    assert len(list(out.glob("*.json"))) == 1997
    again = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True)
    assert again.returncode == 3
    changed = [path for path in out.iterdir() if path.stat().st_mtime > time.time() - 1]
    assert not changed
