"""Two processes on the CPU (gloo) against one."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from atrous.data.loader import TrainingLoader
from atrous.errors import AtrousError
from atrous.training.batch_norm import batch_norms, restore_folded
from atrous.training.checkpoint import load_newest
from atrous.training.config import from_json, to_json
from atrous.training.distributed import Processes, joined
from atrous.training.inputs import augmentation
from atrous.training.loop import _try_batch
from atrous.training.run_folder import RunFolder
from atrous.training.setup import create_network
from atrous.training.update import Learner
from atrous.training.validation import validate
from tests.tiny import tiny, tiny_data

CONFIG = tiny(batch_norm="sync", steps=4)
BATCH_NORMS = ("train", "sync", "frozen")


def run(processes: Processes, out: Path) -> dict[str, object]:
    """Trains four updates in float64 without dropout, and evaluates three pictures."""
    torch.manual_seed(0)
    train_data, val_data = tiny_data()
    network = create_network(CONFIG, train_data).double()
    network.encoder.aspp.dropout.p = 0.0
    learner = Learner(network, CONFIG, processes)
    loader = TrainingLoader(
        train_data, augmentation(CONFIG), CONFIG.batch_size, CONFIG.seed,
        rank=processes.rank, world_size=processes.world_size,
    )  # fmt: skip
    losses = []
    for step, batch in zip(range(CONFIG.steps), loader.batches(), strict=False):
        targets = batch.targets.clone()
        targets[0, : 10 * (1 + processes.rank)] = 255  # ranks with other numbers of labels
        if processes.world_size == 1:  # what the second rank does to its first sample
            targets[2, :20] = 255
        losses.append(learner.update(batch.images, targets, step).loss)
    network.float()
    counts = validate(learner, val_data, RunFolder(out)).confusion
    return {"losses": losses, "pixels": int(counts.sum()), "correct": int(counts.trace())}


def _two(module: str, *arguments: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=Path(__file__).parents[2],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes computed: `run`, `hashes` for each kind of batch norm, `restored`."""
    out = tmp_path_factory.mktemp("two")
    for process in _two("tests.training.test_distributed", str(out)):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def test_T16_two_processes_are_one(results: list[dict[str, Any]], tmp_path: Path) -> None:
    """The same losses at equal global batch to 1e-6, and every picture evaluated exactly once."""
    alone = run(Processes(0, 1, torch.device("cpu")), tmp_path)
    for result in results:
        assert result["losses"] == pytest.approx(alone["losses"], rel=1e-6, abs=1e-6)
        assert result["pixels"] == alone["pixels"]
        assert result["correct"] == pytest.approx(alone["correct"], rel=1e-3)


def hashes(processes: Processes, batch_norm: str) -> list[str]:
    """Returns the hash of a learner's state after set-up and after each of three updates."""
    train_data, _ = tiny_data()
    config = tiny(batch_norm=batch_norm, average_decay=0.9, weights="folded")
    torch.manual_seed(processes.rank)  # each process starts from weights of its own
    network = create_network(replace(config, weights=None), train_data)
    for _, module in batch_norms(network):
        module.running_var.fill_(1 - module.eps)  # as after folding
    loader = TrainingLoader(
        train_data, augmentation(config), config.batch_size, config.seed,
        rank=processes.rank, world_size=processes.world_size,
    )  # fmt: skip
    _try_batch(network, loader, config, resume=False)
    learner = Learner(network, config, processes)
    found = [_hash(learner)]
    for step, batch in zip(range(3), loader.batches(), strict=False):
        learner.update(batch.images, batch.targets, step)
        found.append(_hash(learner))
    return found


def _hash(learner: Learner) -> str:
    digest = hashlib.sha256()
    for file, tensors in learner.tensors().items():
        for name, tensor in tensors.items():
            digest.update(f"{file}/{name}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("batch_norm", BATCH_NORMS)
def test_states_of_two_processes_are_equal_after_set_up_and_every_update(
    results: list[dict[str, Any]], batch_norm: str
) -> None:
    first, second = (result[batch_norm] for result in results)
    assert first == second
    assert len(set(first)) == 4  # every update changes the state


def restored(processes: Processes, out: Path) -> str:
    """Restores folded batch norm from a batch of this process; returns a hash of the state."""
    from tests.training.test_batch_norm import _images, folded_network

    model = folded_network()
    assert len(restore_folded(model, [_images(processes.rank, 1 + processes.rank)])) > 50
    state = model.state_dict()
    torch.save(state, out / f"restored-{processes.rank}.pth")
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in state.values())).hexdigest()


def test_processes_that_restore_folded_batch_norm_have_the_same_state(
    results: list[dict[str, Any]],
) -> None:
    """Two processes with batches of their own: one hash, the moments of both batches."""
    from tests.training.test_batch_norm import _images, folded_network

    first, second = results
    assert first["restored"] == second["restored"]
    alone = folded_network()
    restore_folded(alone, [_images(0, 1), _images(1, 2)])
    state = torch.load(Path(first["out"]) / "restored-0.pth", weights_only=True)
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-4, atol=1e-5)


def _stop_second(tmp_path: Path, number: signal.Signals) -> str:
    """Sends a signal to the second of two processes, and returns what the first one says."""
    config = tiny(steps=100_000, timeout=10.0, evaluate_every=0)
    pair = _two("tests.training.test_distributed", str(tmp_path), to_json(config))
    last = tmp_path / "run" / "checkpoints" / "step-00000004"
    while not last.exists():
        assert all(process.poll() is None for process in pair)
        time.sleep(0.1)
    pair[1].send_signal(number)
    try:
        output, _ = pair[0].communicate(timeout=120)
    finally:
        pair[1].kill()
        pair[1].communicate()
    assert pair[0].returncode not in (0, -signal.SIGKILL), output
    assert "E-PROCESS-LOST" in output
    assert re.search(r"rank-1 step \d+, \d+ s ago", output)
    assert load_newest(tmp_path / "run" / "checkpoints") is not None
    return output


@pytest.mark.slow
def test_T14_when_one_process_is_killed_the_other_leaves(tmp_path: Path) -> None:
    assert "torchrun --max-restarts" in _stop_second(tmp_path, signal.SIGKILL)


@pytest.mark.slow
def test_T15_a_process_that_hangs_is_named_with_its_step(tmp_path: Path) -> None:
    assert "TORCH_FR_BUFFER_SIZE" in _stop_second(tmp_path, signal.SIGSTOP)


@pytest.mark.slow
def test_T14_torchrun_goes_on_by_itself_after_a_kill(tmp_path: Path) -> None:
    """The elastic agent starts both anew; they resume, and finish as if nothing had happened."""
    config = tiny(steps=16, batch_norm="sync", evaluate_every=0)
    options = ("--nproc-per-node=2", "--max-restarts=3", "--monitor-interval=0.1")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *options]
    command += ["-m", "tests.training.test_distributed", str(tmp_path), to_json(config)]
    with (tmp_path / "log").open("w+") as log:
        agent = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        while not (tmp_path / "run" / "checkpoints" / "step-00000004").exists():
            assert agent.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        victim = next(pid for pid in children if _rank(pid) == "1")
        os.kill(int(victim), signal.SIGKILL)
        code = agent.wait(timeout=500)
    assert code == 0, (tmp_path / "log").read_text()
    assert "going on from step" in (tmp_path / "run" / "log.txt").read_text()
    snapshot = load_newest(tmp_path / "run" / "checkpoints")
    assert snapshot is not None
    assert snapshot.step == 16


def _rank(pid: str) -> str:
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next((v.removeprefix("RANK=") for v in variables if v.startswith("RANK=")), "")


@pytest.mark.slow
def test_T07_resume_on_another_number_of_processes_keeps_the_batches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from atrous.training.loop import train

    config = tiny(batch_norm="sync", steps=2, evaluate_every=0)
    for process in _two("tests.training.test_distributed", str(tmp_path), to_json(config)):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    more = replace(config, steps=4)
    result = train(more, tmp_path / "run", data=tiny_data(), resume=True, extend=True)
    assert result.step == 4
    assert "1 processes instead of 2" in caplog.text


def test_P05_cuda_that_is_not_there_is_refused_and_auto_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with (
        pytest.raises(AtrousError) as caught,
        joined("cuda", 10.0, tmp_path),
    ):
        pass
    assert caught.value.code == "E-DEVICE"
    assert "--device cpu" in caught.value.fix
    with joined("auto", 10.0, tmp_path) as processes:
        assert processes.device.type == "cpu"


def _main() -> None:
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    if len(sys.argv) > 2:
        start_in_process(out, sys.argv[2])
        return
    with joined("cpu", 60.0, out) as processes:
        result = run(processes, out) | {kind: hashes(processes, kind) for kind in BATCH_NORMS}
        result |= {"restored": restored(processes, out), "out": str(out)}
    (out / f"rank-{processes.rank}.json").write_text(json.dumps(result))


def start_in_process(out: Path, config_json: str) -> None:
    """Trains as the command line would."""
    from atrous.training.loop import train

    train(from_json(config_json), out / "run", data=tiny_data())


if __name__ == "__main__":
    _main()
