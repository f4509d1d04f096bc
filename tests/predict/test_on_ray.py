"""On Ray, files and lines are those of one process, whatever dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from atrous.errors import AtrousError
from atrous.images.decode import _host, remove_unfinished
from atrous.predict.many import segment_many
from atrous.predict.predictor import Predictor
from tests.engines.test_openvino import tiny
from tests.fake_engine import BrightestChannel
from tests.predict.test_jobs import contents, draw

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tiny(tmp_path / "tiny.onnx")


def command(pictures: object, model: Path, out: object, *options: str) -> list[str]:
    words = [sys.executable, "-m", "atrous.cli", "predict", pictures, "--model", model]
    return [str(word) for word in (*words, "--out", out, "--json", "--engine", "ray", *options)]


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_ray_writes_what_one_process_writes(model, tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    pictures = draw(tmp_path / "in", 20)
    (pictures / "bad.png").write_bytes(b"no picture")
    done, plain = (
        subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        for words in (
            command("in", model, "ray"),  # actors work in the folder of the call
            [word for word in command("in", model, "one") if word not in ("--engine", "ray")],
        )
    )
    assert done.returncode == plain.returncode == 3, done.stderr
    files = {n: d.replace(b'"ray/', b'"one/') for n, d in contents(tmp_path / "ray").items()}
    assert files == contents(tmp_path / "one")
    found = sorted(lines(done.stdout), key=lambda line: str(line["input"]))
    expected = sorted(lines(plain.stdout), key=lambda line: str(line["input"]))
    assert [line.get("areas") for line in found] == [line.get("areas") for line in expected]
    assert [line.get("code") for line in found] == [line.get("code") for line in expected]
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 10  # progress and the report, no log of Ray's


@pytest.mark.slow
def test_a_model_that_actors_cannot_open_ends_the_call(model, tmp_path):
    """The driver opened it; the file is gone when the actors look."""
    pytest.importorskip("ray", reason="needs the extra ray")
    code = f"""
from pathlib import Path
from atrous.errors import AtrousError
from atrous.predict.find import find_pictures
from atrous.predict.on_ray import segment_on_ray
from atrous.predict.batch import PLAIN
pictures = find_pictures([{str(draw(tmp_path / "in", 3))!r}]).pictures
try:
    list(segment_on_ray({{"model": "none.onnx"}}, list(enumerate(pictures, 1)),
        Path({str(tmp_path / "out")!r}), PLAIN, False, actors=1, address=None))
except AtrousError as error:
    print(error.code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "E-MODEL-MISSING", done.stderr


def descendants(process: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from descendants(child)


def actors_of(process: int) -> list[int]:
    """Returns the processes of a driver's cluster that hold a Predictor."""
    found = []
    for each in descendants(process):
        try:
            title = Path(f"/proc/{each}/cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith((b"ray::MapWorker", b"ray::Map(")):
            found.append(each)
    return found


@pytest.mark.slow
def test_P02_kills_of_actors_and_driver_lose_nothing(model, tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    pictures, out = draw(tmp_path / "in", 2000), tmp_path / "out"
    bad = {"005", "700", "1900"}
    for stem in bad:
        (pictures / f"{stem}.png").write_bytes(b"no picture")
    words = command(pictures, model, out, "--jobs", "2")
    random, kills = np.random.default_rng(0), 0
    for most in (900, 2000):  # the first driver is killed after 900 pictures
        seen: list[dict[str, object]] = []
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as driver:
            assert driver.stdout is not None
            for line in driver.stdout:
                seen.append(json.loads(line))
                if len(seen) % 100 == 0:
                    for actor in actors_of(driver.pid)[:1] if random.random() < 0.9 else ():
                        os.kill(actor, signal.SIGKILL)
                        kills += 1
                if len(seen) == most and most < 2000:
                    driver.kill()
                    break
    assert kills >= 20
    assert driver.returncode == 3
    assert len({line["input"] for line in seen}) == len(seen) == 2000
    assert {Path(str(line["input"])).stem for line in seen if "error" in line} == bad
    assert not list(out.glob(".tmp-*"))
    assert len(list(out.glob("*.json"))) == 1997
    before = time.time()
    again = subprocess.run(words, capture_output=True)
    assert again.returncode == 3
    assert not [path for path in out.iterdir() if path.stat().st_mtime > before]


def test_an_address_needs_an_engine(tmp_path):
    predictor = Predictor(BrightestChannel())
    pictures = draw(tmp_path / "in", 1)
    with pytest.raises(AtrousError) as caught:
        segment_many([pictures], predictor, tmp_path / "out", address="10.0.0.1:6379")
    assert caught.value.code == "E-JOBS"


def test_temporary_files_of_dead_processes_of_this_machine_are_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine, theirs = _host(), "0" * 6
    kept = [f".tmp-{os.getpid()}-{mine}-ab.png", f".tmp-{ended.pid}-{theirs}-ab.png", "x.png"]
    for name in (*kept, f".tmp-{ended.pid}-{mine}-ab.png"):
        (tmp_path / name).write_bytes(b"half")
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
