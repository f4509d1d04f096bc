"""Kills a training run with SIGKILL at random moments, and looks whether anything was lost.

    python -m tests.faults.kills --kills 200 --out benchmarks/results/kills.json

Each run saves after every update, so that many kills fall into a save (it leaves a temporary or
half-deleted folder behind, which is how they are counted). A killed run goes on in a new process
until it is finished; its end must equal, bit for bit, that of a run nobody killed, and the newest
valid checkpoint must never be older than one that was seen before.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.figure  # noqa: F401  # here, or every child would import it anew
import torch

from atrous.training.checkpoint import load_newest
from atrous.training.config import TrainConfig
from atrous.training.loop import train
from tests.tiny import tiny, tiny_data


@dataclass
class Tally:
    """What was done to the runs, none of which lost anything (that raises)."""

    kills: int = 0
    in_a_save: int = 0
    before_the_first_checkpoint: int = 0
    runs: int = 0


CONFIG = tiny(steps=12, save_every=1, evaluate_every=6, samples=0, average_decay=0.9)


def fingerprint(out: Path) -> dict[str, Any]:
    """Returns all of a run that must be bit-equal to that of its uninterrupted twin."""
    snapshot = load_newest(out / "checkpoints")
    assert snapshot is not None
    tensors = {
        f"{file}/{name}": value.numpy().tobytes()
        for file, values in snapshot.tensors.items()
        for name, value in values.items()
    }
    files = {name: (out / name).read_bytes() for name in ("metrics.csv", "best.safetensors")}
    return {**tensors, **files, "state": snapshot.state, "step": snapshot.step}


def forked(work: Callable[[], object]) -> int:
    """Runs a function in a child process, which does not import torch again; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 2)
        work()
        code = 0
    finally:
        os._exit(code)


def run(config: TrainConfig, out: Path) -> None:
    """Begins a run, or goes on with it."""
    train(config, out, data=tiny_data(), resume=(out / "config.json").exists())


def kill_until_finished(
    out: Path, longest_life: float, chance: random.Random, tally: Tally
) -> None:
    """Kills a run again and again until it is finished."""
    newest = -1
    while True:
        pid = forked(lambda: run(CONFIG, out))
        deadline = time.monotonic() + chance.uniform(0, longest_life)
        while time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                assert status == 0, f"a run failed by itself: status {status}"
                return
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            tally.kills += 1
            tally.in_a_save += any((out / "checkpoints").glob(".*"))
        snapshot = load_newest(out / "checkpoints")
        step = -1 if snapshot is None else snapshot.step
        tally.before_the_first_checkpoint += snapshot is None
        assert step >= newest, f"checkpoint of step {newest} was lost: the newest is {step}"
        newest = step


def torment(kills: int, folder: Path, seed: int = 0) -> Tally:
    """Kills runs until that many kills are done."""
    torch.set_num_threads(1)
    start = time.monotonic()
    calm_run = forked(lambda: run(CONFIG, folder / "calm"))
    assert os.waitstatus_to_exitcode(os.waitpid(calm_run, 0)[1]) == 0
    life = time.monotonic() - start
    calm = fingerprint(folder / "calm")
    chance = random.Random(seed)
    tally = Tally()
    while tally.kills < kills:
        out = folder / f"run-{tally.runs}"
        kill_until_finished(out, life / 2, chance, tally)
        assert fingerprint(out) == calm, f"{out} differs from the run nobody killed"
        shutil.rmtree(out)
        tally.runs += 1
        print(f"{tally}: nothing lost, all bit-equal", flush=True)
    return tally


def main() -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to write the tally as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = torment(arguments.kills, Path(folder), arguments.seed)
    if arguments.out:
        facts = {
            **asdict(tally),
            "steps_of_a_run": CONFIG.steps,
            "seed": arguments.seed,
            "torch": torch.__version__,
        }
        arguments.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
