"""Listing, naming and resuming stay cheap: 100,000 inputs whose output is finished."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from atrous.predict.batch import Extras
from atrous.predict.find import find_pictures
from atrous.predict.many import segmented
from atrous.predict.predictor import Predictor
from atrous.predict.records import identity
from tests.fake_engine import BrightestChannel

ROOT = Path(__file__).parents[2]


def finished(folder: Path, count: int) -> tuple[Path, Path]:
    """Makes empty pictures in folders of 1,000 and their finished output; returns both folders."""
    for index in range(count):
        picture = folder / "in" / f"{index // 1000}" / f"{index}.png"
        stem = folder / "out" / f"{index // 1000}" / f"{index}"
        if index % 1000 == 0:
            picture.parent.mkdir(parents=True)
            stem.parent.mkdir(parents=True)
        picture.touch()
        labels = stem.with_name(f"{stem.name}.labels.png")
        labels.touch()
        made_from = {"picture": "", "model": "brightest", "at": identity(picture)}
        record = {"input": str(picture), "labels": str(labels), "overlay": None, "size": [1, 1]}
        record |= {"areas": {"red": 1.0}, "made_from": made_from | {"options": {"overlay": False}}}
        stem.with_suffix(".json").write_text(json.dumps(record))
    return folder / "in", folder / "out"


def kept(pictures: Path, out: Path) -> int:
    """Runs a call that has nothing to do; returns how many pictures it kept."""
    found = find_pictures([pictures], out)
    outcomes = segmented(
        Predictor(BrightestChannel()), {"model": None}, found.pictures, out,
        jobs=1, overwrite=False, extras=Extras(overlay=False),
    )  # fmt: skip
    return sum(outcome.record is not None and outcome.seconds == 0 for outcome in outcomes)


def test_a_picture_takes_two_kilobytes_until_it_is_done(tmp_path):
    folders = finished(tmp_path, 2000)
    kept(*folders)  # imports
    tracemalloc.start()
    try:
        assert kept(*folders) == 2000
        assert tracemalloc.get_traced_memory()[1] < 2000 * 2000
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_hundred_thousand_pictures_are_resumed_in_a_minute_and_300_megabytes(tmp_path):
    folders = finished(tmp_path, 100_000)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from atrous.engines.machine import peak_megabytes\n"
        "from tests.predict.test_many_pictures import kept\n"
        "print(kept(*map(Path, sys.argv[1:])), peak_megabytes(), time.process_time())"
    )
    command = [sys.executable, "-c", code, *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    count, megabytes, seconds = map(float, done.stdout.split())
    assert count == 100_000
    print(done.stdout)
    assert megabytes < 300
    assert seconds < 60  # of the processor, so that other programs do not count
