"""Kills a training run with SIGKILL at random moments, and looks whether anything was lost.

    python -m tests.faults.kills --kills 200

Each run saves after every update, so that about half of the kills fall into a save. A killed run
goes on in a new process until it is finished; its end must equal, bit for bit, that of a run nobody
killed, and the newest valid checkpoint must never be older than one that was seen before.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from atrous.checkpoint import load_newest
from atrous.config import TrainConfig
from atrous.training.loop import train
from tests.tiny import tiny, tiny_data

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
    started = (out / "checkpoints" / "last").exists()
    if not started:
        shutil.rmtree(out, ignore_errors=True)  # killed before its first checkpoint
    train(config, out, data=tiny_data(), resume=started)


def kill_until_finished(out: Path, longest_life: float, chance: random.Random) -> int:
    """Returns how many kills a run took until it was finished."""
    kills, newest = 0, -1
    while True:
        pid = forked(lambda: run(CONFIG, out))
        deadline = time.monotonic() + chance.uniform(0, longest_life)
        while time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                assert status == 0, f"a run failed by itself: status {status}"
                return kills
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        kills += os.WIFSIGNALED(status)
        snapshot = load_newest(out / "checkpoints")
        step = -1 if snapshot is None else snapshot.step
        assert step >= newest, f"checkpoint of step {newest} was lost: the newest is {step}"
        newest = step


def torment(kills: int, folder: Path, seed: int = 0) -> int:
    """Kills runs until that many kills are done; returns the number of runs it took."""
    torch.set_num_threads(1)
    start = time.monotonic()
    assert (
        os.waitstatus_to_exitcode(os.waitpid(forked(lambda: run(CONFIG, folder / "calm")), 0)[1])
        == 0
    )
    life = time.monotonic() - start
    calm = fingerprint(folder / "calm")
    chance = random.Random(seed)
    done = runs = 0
    while done < kills:
        out = folder / f"run-{runs}"
        done += kill_until_finished(out, life / 2, chance)
        assert fingerprint(out) == calm, f"{out} differs from the run nobody killed"
        shutil.rmtree(out)
        runs += 1
        print(f"{done} kills, {runs} runs: nothing lost, all bit-equal", flush=True)
    return runs


def main() -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torment(arguments.kills, Path(folder), arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
