import csv
import json
import logging
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atrous.data.dataset import Dataset, Sample
from atrous.data.loader import TrainingLoader
from atrous.errors import AtrousError, ExitCode
from atrous.evaluation.evaluator import evaluate
from atrous.evaluation.metrics import confusion_matrix, mean_iou
from atrous.loading import load
from atrous.training import checkpoint
from atrous.training import loop as training
from atrous.training.batch_norm import batch_norms
from atrous.training.checkpoint import load_newest
from atrous.training.config import read_config, to_json
from atrous.training.distributed import Processes
from atrous.training.guard import Guard, check_learning_rate, check_predictions
from atrous.training.inputs import augmentation
from atrous.training.loop import train
from atrous.training.progress import Progress
from atrous.training.renamed import with_names
from atrous.training.run_folder import RunFolder, opened
from atrous.training.setup import create_network
from atrous.training.update import Learner, Update
from atrous.weights.store import save as save_model
from tests.networks import recalibrate
from tests.tiny import SCRIPT, start, tiny, tiny_data

ALONE = Processes(0, 1, torch.device("cpu"))


class KilledError(Exception):
    """Ends a run as a kill would: nothing is saved."""


def _stop_after(step: int) -> Any:
    def on_progress(progress: Progress) -> None:
        if progress.step == step:
            raise KilledError

    return on_progress


def _fingerprint(out: Path) -> dict[str, Any]:
    """Returns all that must be bit-equal between a run and its interrupted twin."""
    snapshot = load_newest(out / "checkpoints")
    assert snapshot is not None
    tensors = {
        f"{file}/{name}": value.numpy().tobytes()
        for file, values in snapshot.tensors.items()
        for name, value in values.items()
    }
    return {
        **tensors,
        "state": snapshot.state,
        "step": snapshot.step,
        "metrics": (out / "metrics.csv").read_bytes(),
        "best": (out / "best.safetensors").read_bytes(),
    }


@pytest.fixture(autouse=True)
def _without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take longer than these runs; the run of `finished` has them."""
    for name in ("draw_curves", "draw_confusion"):
        monkeypatch.setattr(training, name, lambda *_: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six updates that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    train(tiny(average_decay=0.9), out, data=tiny_data())
    return out


def test_the_kept_model_says_how_it_was_trained(finished: Path) -> None:
    provenance = load(finished / "best.safetensors").provenance
    assert provenance.source.startswith("atrous train")
    assert provenance.training is not None
    assert provenance.training.steps == 6
    assert provenance.training.initial_weights == "random initialisation"
    rows = list(csv.DictReader((finished / "metrics.csv").read_text().splitlines()))
    best = max(float(row["mean_iou"]) for row in rows)
    assert provenance.training.mean_iou == pytest.approx(best)
    assert "step" in provenance.training.evaluated_on


@pytest.mark.parametrize("killed_after", [1, 5])
def test_T01_killed_run_goes_on_bit_for_bit(
    tmp_path: Path, finished: Path, killed_after: int
) -> None:
    config = tiny(average_decay=0.9)
    with pytest.raises(KilledError):
        train(config, tmp_path / "run", data=tiny_data(), on_progress=_stop_after(killed_after))
    torch.manual_seed(99)  # whatever happened to the process in between
    train(config, tmp_path / "run", data=tiny_data(), resume=True)
    assert _fingerprint(tmp_path / "run") == _fingerprint(finished)


def test_the_number_of_workers_changes_nothing(tmp_path: Path, finished: Path) -> None:
    config = tiny(average_decay=0.9)
    with pytest.raises(KilledError):
        train(config, tmp_path / "run", data=tiny_data(), on_progress=_stop_after(3))
    train(replace(config, workers=1), tmp_path / "run", data=tiny_data(), resume=True)
    assert _fingerprint(tmp_path / "run") == _fingerprint(finished)


def test_run_folder_holds_what_is_promised(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "config.json", "environment.json", "metrics.csv", "curves.png", "confusion.png", "samples",
        "checkpoints", "best.safetensors", "model_card.md", "log.txt",
    }  # fmt: skip
    header, *rows = (finished / "metrics.csv").read_text().splitlines()
    assert header == "step,epoch,loss,mean_iou,pixel_accuracy"
    assert [row.split(",")[0] for row in rows] == ["3", "6"]
    assert len(list((finished / "samples").iterdir())) == 1
    assert "| balloon |" in (finished / "model_card.md").read_text()


def test_timing_is_written_every_ten_updates(tmp_path: Path) -> None:
    config = tiny(steps=10, evaluate_every=0, save_every=100)
    seen: list[Progress] = []
    train(config, tmp_path / "run", data=tiny_data(), on_progress=seen.append)
    header, row = (tmp_path / "run" / "timing.csv").read_text().splitlines()
    assert header.startswith("step,seconds")
    assert row.startswith("10,")
    assert [progress.step for progress in seen] == list(range(1, 11))


def test_a_run_of_version_0_1_goes_on_bit_for_bit(tmp_path: Path, finished: Path) -> None:
    """Its config.json is flat, with options that are constants or of the network today."""
    with pytest.raises(KilledError):
        train(
            tiny(average_decay=0.9), tmp_path / "run", data=tiny_data(), on_progress=_stop_after(3)
        )
    old = Path(__file__).parents[1] / "assets" / "config_0.1.json"
    shutil.copy(old, tmp_path / "run" / "config.json")
    config = read_config(tmp_path / "run" / "config.json")
    train(config, tmp_path / "run", data=tiny_data(), resume=True)
    assert _fingerprint(tmp_path / "run") == _fingerprint(finished)


@pytest.mark.parametrize(
    ("classes", "changes"),
    [
        (5, {}),
        (7, {"decoder": False}),
        (7, {"reduced_channels": 16}),
        (7, {"optimizer": "adamw", "base_lr": 0.001}),
        (7, {"average_decay": 0.0}),
    ],
)
def test_resuming_with_another_network_says_so(
    tmp_path: Path, finished: Path, classes: int, changes: dict[str, Any]
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    config = tiny(**{"average_decay": 0.9, **changes})
    data = tuple(with_names(part, part.classes[1:classes]) for part in tiny_data())
    if classes == 7:
        data = tiny_data()
    with pytest.raises(AtrousError) as caught:
        train(config, tmp_path / "run", data=data, resume=True, override=True)  # type: ignore[arg-type]
    assert caught.value.code == "E-RUN-NETWORK"
    assert "--weights RUN" in caught.value.fix


def test_the_average_starts_from_the_weights_training_starts_from(tmp_path: Path) -> None:
    """Batch norms that were folded are restored first; at learning rate 0 nothing else changes."""
    model = create_network(tiny(), tiny_data()[0])
    for _, module in batch_norms(model):
        module.running_var.fill_(1 - module.eps)  # as after folding
    save_model(model, tmp_path / "folded.safetensors")
    config = tiny(
        weights=str(tmp_path / "folded.safetensors"), average_decay=0.99, base_lr=1e-30,
        weight_decay=0.0, steps=2, evaluate_every=0, batch_norm_momentum=1e-9,
    )  # fmt: skip
    train(config, tmp_path / "run", data=tiny_data())
    snapshot = load_newest(tmp_path / "run" / "checkpoints")
    assert snapshot is not None
    average, last = snapshot.tensors["average"], snapshot.tensors["model"]
    for name, value in average.items():
        torch.testing.assert_close(value, last[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("loss", ["dice", "lovasz", "ohem", "cross_entropy", "focal"])
@pytest.mark.parametrize(("pictures", "accumulation"), [(6, 4), (4, 3), (2, 4)])
def test_every_loss_has_its_size_whatever_the_number_of_chunks(
    loss: str, pictures: int, accumulation: int
) -> None:
    """Six pictures in four parts are three chunks of two: the mean of three, not of four."""
    data, _ = tiny_data()
    config = tiny(batch_size=12, accumulation=accumulation, losses=loss, batch_norm="frozen")
    torch.manual_seed(0)
    network = create_network(config, data)
    network.encoder.aspp.dropout.p = 0.0
    recalibrate(network, [_batch(data)[0]])
    learner = Learner(network, config, ALONE)
    images, targets = (part[:1].repeat(pictures, *[1] * (part.ndim - 1)) for part in _batch(data))
    one_picture = _loss_of(learner, images[:1], targets[:1])
    assert learner.update(images, targets, 0).loss == pytest.approx(one_picture, rel=1e-4)


def _loss_of(learner: Learner, images: torch.Tensor, targets: torch.Tensor) -> float:
    labelled = (targets != 255).sum()
    with torch.no_grad():
        coarse = learner.model.coarse_logits(images)
        return learner.loss(coarse, targets.long(), labelled).item()


def test_finished_run_has_nothing_left_to_do(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    before = _fingerprint(finished)
    result = train(tiny(average_decay=0.9), tmp_path / "run", data=tiny_data(), resume=True)
    assert result.step == 6
    assert _fingerprint(tmp_path / "run") == before


def test_T08_a_changed_config_is_shown_and_refused(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    changed = tiny(average_decay=0.9, base_lr=0.1)
    with pytest.raises(AtrousError) as caught:
        train(changed, tmp_path / "run", data=tiny_data(), resume=True)
    assert caught.value.code == "E-RUN-CHANGED"
    assert "base_lr: 0.05 -> 0.1" in caught.value.what
    train(changed, tmp_path / "run", data=tiny_data(), resume=True, override=True)


def test_T21_more_steps_for_a_finished_run_need_extend(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    longer = tiny(average_decay=0.9, steps=7)
    with pytest.raises(AtrousError) as caught:
        train(longer, tmp_path / "run", data=tiny_data(), resume=True)
    assert caught.value.code == "E-RUN-FINISHED"
    result = train(longer, tmp_path / "run", data=tiny_data(), resume=True, extend=True)
    assert result.step == 7


def test_T05_resume_falls_back_to_the_older_checkpoint(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step-00000006" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    train(tiny(average_decay=0.9), tmp_path / "run", data=tiny_data(), resume=True)
    assert _fingerprint(tmp_path / "run") == _fingerprint(finished)


def test_T17_a_folder_with_a_run_is_not_mixed_with_another(finished: Path) -> None:
    with pytest.raises(AtrousError) as caught:
        train(tiny(), finished, data=tiny_data())
    assert caught.value.code == "E-RUN-EXISTS"


def test_T17_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    with (
        opened(tmp_path, leads=True, resume=False),
        pytest.raises(AtrousError) as caught,
        opened(tmp_path, leads=True, resume=True),
    ):
        pass
    assert caught.value.code == "E-RUN-LOCKED"


def test_T18_an_unwritable_folder_is_found_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AtrousError) as caught:
        train(tiny(), tmp_path / "file" / "run", data=tiny_data())
    assert caught.value.code == "E-RUN-WRITE"


class _Broken:
    """Scenes of which the validation pictures cannot be read."""

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self.classes, self.palette, self.names = data.classes, data.palette, data.names

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Sample:
        raise AtrousError("E-IMAGE-BROKEN", "the picture cannot be decoded", where="x.jpg")

    def fingerprint(self) -> str:
        return "broken"


@pytest.mark.parametrize("which", [0, 1])
def test_T18_data_that_cannot_be_read_is_found_before_the_first_update(
    tmp_path: Path, which: int
) -> None:
    data = list(tiny_data())
    data[which] = _Broken(data[which])
    updates: list[Progress] = []
    with pytest.raises(AtrousError) as caught:
        train(tiny(), tmp_path / "run", data=(data[0], data[1]), on_progress=updates.append)
    assert caught.value.code == "E-IMAGE-BROKEN"
    assert caught.value.where == "x.jpg"
    assert updates == []


def test_T18_weights_that_are_not_there_are_found_before_the_first_update(tmp_path: Path) -> None:
    updates: list[Progress] = []
    config = tiny(weights=str(tmp_path / "nowhere.safetensors"))
    with pytest.raises(AtrousError) as caught:
        train(config, tmp_path / "run", data=tiny_data(), on_progress=updates.append)
    assert caught.value.code == "E-MODEL-MISSING"
    assert updates == []


class _Failing:
    """Scenes of which one cannot be read from the second epoch on, as when its worker dies."""

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self.classes, self.palette, self.names = data.classes, data.palette, data.names
        self.reads = 0

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Sample:
        self.reads += 1
        if self.reads > 20:  # 4 by the look before the first update, 16 by four updates
            raise AtrousError("E-DATA-WORKER", "a data worker died: killed by signal 9")
        return self._data[index]

    def fingerprint(self) -> str:
        return self._data.fingerprint()


def test_T13_what_was_learnt_is_saved_when_data_fail(tmp_path: Path) -> None:
    train_data, val_data = tiny_data()
    config = tiny(save_every=100, evaluate_every=0)
    with pytest.raises(AtrousError) as caught:
        train(config, tmp_path / "run", data=(_Failing(train_data), val_data))
    assert caught.value.code == "E-DATA-WORKER"
    snapshot = load_newest(tmp_path / "run" / "checkpoints")
    assert snapshot is not None
    assert snapshot.step == 4
    train(config, tmp_path / "run", data=tiny_data(), resume=True)
    train(config, tmp_path / "calm", data=tiny_data())
    assert _fingerprint(tmp_path / "run") == _fingerprint(tmp_path / "calm")


def test_T01_a_start_that_failed_or_was_killed_is_simply_repeated(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by torchrun, which takes the folder for a run only once there is a checkpoint."""
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_config", _killed)
        with pytest.raises(KilledError):
            train(tiny(average_decay=0.9), tmp_path / "run", data=tiny_data())
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    train(tiny(average_decay=0.9), tmp_path / "run", data=tiny_data())
    assert _fingerprint(tmp_path / "run") == _fingerprint(finished)


def _killed(*_: object, **__: object) -> None:
    raise KilledError


def test_D22_changed_data_is_said_aloud(
    tmp_path: Path, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    train(tiny(average_decay=0.9), tmp_path / "run", data=tiny_data(11), resume=True)
    assert "the data changed since the checkpoint: train" in caplog.text


def test_T03_training_goes_on_when_the_disk_is_full_and_stops_the_third_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    steps: list[int] = []

    def on_progress(progress: Progress) -> None:
        steps.append(progress.step)
        if progress.step == 1:  # the disk fills up after the run has begun
            monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    config = tiny(steps=20, save_every=1, evaluate_every=0)
    with pytest.raises(AtrousError) as caught:
        train(config, tmp_path / "run", data=tiny_data(), on_progress=on_progress)
    assert caught.value.code == "E-CHECKPOINT-WRITE"
    assert caught.value.exit_code == ExitCode.RESOURCES
    assert steps == [1, 2, 3]
    assert "NOT SAVED (2 of 3" in caplog.text
    snapshot = load_newest(tmp_path / "run" / "checkpoints")
    assert snapshot is not None
    assert snapshot.step == 0


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)]
)
def test_T06_a_signal_saves_and_exits_with_its_code(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """In a process of its own: a signal is for a whole process, and this one runs other tests."""
    out = tmp_path / "run"
    process = start(to_json(tiny(steps=100_000, save_every=100_000, evaluate_every=0)), out)
    while not (out / "config.json").exists():  # which the first checkpoint precedes
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert f"atrous train --resume {out}" in (out / "log.txt").read_text()
    snapshot = load_newest(out / "checkpoints")
    assert snapshot is not None
    assert snapshot.step > 0


@pytest.mark.slow
def test_T06_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    process = start(to_json(tiny(steps=100_000)), tmp_path / "run")
    while not (tmp_path / "run" / "checkpoints" / "last").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGTERM, 143)


def _poison(learner_update: Any, bad_steps: set[int]) -> Any:
    def update(self: Learner, images: torch.Tensor, targets: torch.Tensor, step: int) -> Any:
        if step in bad_steps:
            images = images.float()
            images[0, 0, 0, 0] = float("nan")
        return learner_update(self, images, targets, step)

    return update


def test_T09_a_nan_never_reaches_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Learner, "update", _poison(Learner.update, {2}))
    result = train(tiny(), tmp_path / "run", data=tiny_data())
    assert result.step == 6
    snapshot = load_newest(tmp_path / "run" / "checkpoints")
    assert snapshot is not None
    for values in snapshot.tensors.values():
        assert all(bool(value.isfinite().all()) for value in values.values())
    kept = tmp_path / "run" / "debug" / "nan_step_2"
    assert {path.name for path in kept.iterdir()} == {"inputs.safetensors", "about.json"}
    assert len(json.loads((kept / "about.json").read_text())["samples"]) == 4
    assert "update skipped, weights as before" in caplog.text


def test_T09_a_skipped_update_leaves_everything_as_it_was() -> None:
    torch.manual_seed(0)
    data, _ = tiny_data()
    learner = Learner(create_network(tiny(), data), tiny(), ALONE)
    images, targets = _batch(data)
    learner.update(images, targets, 0)
    before = {k: {n: v.clone() for n, v in f.items()} for k, f in learner.tensors().items()}
    bad = images.float()
    bad[0, 0, 0, 0] = float("inf")
    assert not learner.update(bad, targets, 1).applied
    after = learner.tensors()
    for file, values in before.items():
        assert all(torch.equal(value, after[file][name]) for name, value in values.items())


def test_T09_the_third_nan_in_a_row_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Learner, "update", _poison(Learner.update, {2, 3, 4}))
    with pytest.raises(AtrousError) as caught:
        train(tiny(), tmp_path / "run", data=tiny_data())
    assert caught.value.code == "E-NOT-FINITE"
    assert caught.value.exit_code == ExitCode.DATA


def test_T10_an_fp16_overflow_is_counted_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    data, _ = tiny_data()
    config = tiny(precision="fp16", batch_norm_momentum=None)
    learner = Learner(create_network(config, data), config, ALONE)
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    images, targets = _batch(data)
    update = learner.update(images, targets, 0)
    assert not update.applied
    assert update.scale == 2.0**99
    assert all(torch.equal(v, before[n]) for n, v in learner.model.state_dict().items())
    guard = Guard(tmp_path / "debug", fp16=True)
    with caplog.at_level(logging.INFO, "atrous"):
        for step in range(10):
            guard.check(update, step, images, targets, data.names)
    assert "fp16 overflow, update skipped" in caplog.text
    assert "(10 so far)" in caplog.text
    assert not (tmp_path / "debug").exists()


def test_T10_a_loss_scale_below_one_for_a_hundred_steps_stops_the_run(tmp_path: Path) -> None:
    images, targets = _batch(tiny_data()[0])
    guard = Guard(tmp_path, fp16=True)
    small = Update(1.0, 1.0, 0.1, 100, applied=True, scale=0.5)
    for step in range(99):
        guard.check(small, step, images, targets, ["a"])
    with pytest.raises(AtrousError) as caught:
        guard.check(small, 99, images, targets, ["a"])
    assert caught.value.code == "E-NOT-FINITE"
    assert caught.value.exit_code == ExitCode.DATA


def _batch(data: Dataset, n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.stack([torch.from_numpy(data[i].image).permute(2, 0, 1) for i in range(n)])
    return images, torch.stack([torch.from_numpy(data[i].target) for i in range(n)])


def test_D11_an_all_ignored_batch_changes_no_weight_but_by_decay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(0)
    data, _ = tiny_data()
    config = tiny(weight_decay=0.0)
    learner = Learner(create_network(config, data), config, ALONE)
    before = [p.clone() for p in learner.model.parameters()]
    images, targets = _batch(data)
    update = learner.update(images, torch.full_like(targets, 255), 0)
    assert update.applied
    assert update.loss == 0
    assert update.gradient_norm == 0
    assert all(map(torch.equal, before, learner.model.parameters()))


def test_accumulated_gradient_is_that_of_the_whole_batch() -> None:
    """With frozen batch norm and no dropout the parts do not know of each other."""
    data, _ = tiny_data()
    images, targets = _batch(data)
    targets[0, :20] = 255  # parts with different numbers of labelled pixels
    weights = []
    for accumulation in (1, 2, 4):
        torch.manual_seed(0)
        config = tiny(accumulation=accumulation, batch_norm="frozen")
        network = create_network(config, data).double()
        network.encoder.aspp.dropout.p = 0.0
        recalibrate(network, [images])  # else activations and gradients vanish
        learner = Learner(network, config, ALONE)
        assert learner.update(images, targets, 0).gradient_norm > 0.1
        weights.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(weights[2], weights[0], rtol=1e-10, atol=1e-12)


def test_gradient_checkpointing_changes_nothing_but_memory() -> None:
    data, _ = tiny_data()
    images, targets = _batch(data)
    states = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        config = tiny(gradient_checkpointing=checkpointing)
        learner = Learner(create_network(config, data), config, ALONE)
        for step in range(2):
            torch.manual_seed(step)
            learner.update(images, targets, step)
        states.append(learner.model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains(precision: str) -> None:
    torch.manual_seed(0)
    data, _ = tiny_data()
    config = tiny(precision=precision, base_lr=0.02)
    learner = Learner(create_network(config, data), config, ALONE)
    images, targets = _batch(data)
    updates = [learner.update(images, targets, step % 6) for step in range(12)]
    assert updates[-1].loss < updates[0].loss
    assert next(learner.model.parameters()).dtype == torch.float32


def test_clipping_bounds_the_update() -> None:
    torch.manual_seed(0)
    data, _ = tiny_data()
    config = tiny(clip_norm=1e-3, weight_decay=0.0, bias_multiplier=1.0)
    learner = Learner(create_network(config, data), config, ALONE)
    before = torch.cat([p.detach().flatten() for p in learner.model.parameters()])
    update = learner.update(*_batch(data), 0)
    after = torch.cat([p.detach().flatten() for p in learner.model.parameters()])
    assert update.gradient_norm > 1e-3
    assert (after - before).norm().item() == pytest.approx(1e-3 * update.lr, rel=0.01)


@pytest.mark.parametrize("loss", ["focal", "ohem", "dice", "lovasz", "0.5*cross_entropy,dice"])
def test_every_loss_trains(loss: str) -> None:
    torch.manual_seed(0)
    data, _ = tiny_data()
    config = tiny(losses=loss)
    learner = Learner(create_network(config, data), config, ALONE)
    images, targets = _batch(data)
    values = [learner.update(images, targets, 0).loss for _ in range(16)]
    assert values[-1] < values[0]


def test_class_weights_must_match_the_classes() -> None:
    data, _ = tiny_data()
    config = tiny(class_weights=(1.0, 2.0))
    with pytest.raises(AtrousError) as caught:
        Learner(create_network(config, data), config, ALONE)
    assert caught.value.code == "E-CONFIG"
    assert "class_weights" in caught.value.what


def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_scale() -> None:
    data, _ = tiny_data()
    config = tiny(batch_norm="frozen")
    network = create_network(config, data)
    recalibrate(network, [_batch(data)[0]])  # else activations and gradients vanish
    learner = Learner(network, config, ALONE)
    before = {
        path: (m.running_mean.clone(), m.weight.clone()) for path, m in batch_norms(learner.model)
    }
    learner.update(*_batch(data), 0)
    assert all(
        torch.equal(before[path][0], m.running_mean) for path, m in batch_norms(learner.model)
    )
    assert any(not torch.equal(before[path][1], m.weight) for path, m in batch_norms(learner.model))


def test_T12_a_batch_of_one_trains(tmp_path: Path) -> None:
    result = train(tiny(batch_size=1, steps=2), tmp_path / "run", data=tiny_data())
    assert np.isfinite(result.scores["mean_iou"])


def test_T20_evaluation_and_training_mode_agree_after_a_short_run() -> None:
    """With the paper's momentum .0003 a short run would be evaluated on its initial statistics."""
    torch.manual_seed(0)
    data, _ = tiny_data()
    images, targets = _batch(data, 8)
    gaps = {}
    for momentum, recalibrated in ((None, False), (0.1, False), (None, True)):
        torch.manual_seed(0)
        config = tiny(batch_norm_momentum=momentum, steps=60, base_lr=0.02, batch_size=8)
        learner = Learner(create_network(config, data), config, ALONE)
        learner.model.encoder.aspp.dropout.p = 0.0
        for step in range(60):
            learner.update(images, targets, step)
        if recalibrated:
            recalibrate(learner.model, [images])
        labelled = learner.processes.sum((targets != 255).sum())

        def loss_of(model, learner=learner, labelled=labelled):
            return learner.loss(model.coarse_logits(images), targets.long(), labelled).item()

        with torch.no_grad():
            with learner.evaluated() as model:
                evaluated = loss_of(model)
            gaps[momentum, recalibrated] = abs(evaluated - loss_of(learner.model.train()))
    assert gaps[0.1, False] < 0.5 * gaps[None, False]  # a running mean still lags behind
    assert gaps[None, True] < 0.15 * gaps[None, False]


def test_T20_the_kept_model_is_the_average_and_not_the_last_weights(tmp_path: Path) -> None:
    train(tiny(average_decay=0.9, steps=2, evaluate_every=0), tmp_path / "run", data=tiny_data())
    kept = load(tmp_path / "run").state_dict()
    snapshot = load_newest(tmp_path / "run" / "checkpoints")
    assert snapshot is not None
    average, last = snapshot.tensors["average"], snapshot.tensors["model"]
    assert all(torch.equal(kept[name], value) for name, value in average.items())
    assert any(not torch.equal(kept[name], value) for name, value in last.items())


def test_T20_training_and_evaluation_feed_the_same_colours() -> None:
    """A picture through loader and augmentation gives the labels that evaluation gives it."""
    data, _ = tiny_data(4)
    torch.manual_seed(0)
    config = tiny(scale_range=(1.0, 1.0), flip=0.0)
    model = create_network(config, data)
    loader = TrainingLoader(data, augmentation(config), 4, 0)
    batch = next(loader.batches())
    recalibrate(model, [batch.images])
    with torch.no_grad():
        labels = model.eval()(batch.images).argmax(1).numpy().astype(np.uint8)
        reversed_labels = model(batch.images.flip(1)).argmax(1).numpy().astype(np.uint8)
    counts = confusion_matrix(batch.targets.numpy(), labels, 7)
    assert np.array_equal(evaluate(model, data).confusion, counts)
    assert (labels != reversed_labels).mean() > 0.05  # blue for red would be noticed


def test_the_leading_process_keeps_the_model_without_the_others() -> None:
    """Else it would wait for them while they wait for its checkpoint."""
    data, _ = tiny_data()
    learner = Learner(create_network(tiny(), data), tiny(), ALONE)
    learner.processes = Processes(0, 2, torch.device("cpu"))  # there is nobody to talk to
    with learner.evaluated() as model:
        assert not model.training


def _two_pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns noise, redder where a rectangle and a disc are, and its targets: no thin things."""
    y, x = np.mgrid[:64, :96]
    targets = np.zeros((2, 64, 96), np.uint8)
    targets[0, 8:32, 12:48] = 1
    targets[0][(y - 42) ** 2 + (x - 67) ** 2 < 18**2] = 2
    targets[1][(y - 26) ** 2 + (x - 29) ** 2 < 21**2] = 1
    targets[1, 32:, 56:] = 2
    images = np.random.default_rng(0).integers(0, 128, (2, 3, 64, 96)).astype(np.uint8)
    images[:, 0] += 40 * targets
    return torch.from_numpy(images), torch.from_numpy(targets)


def test_overfits_two_pictures() -> None:
    torch.manual_seed(0)
    config = tiny(
        steps=100, base_lr=0.003, optimizer="adamw", weight_decay=0.0, depth_multiplier=0.5
    )
    learner = Learner(create_network(config, tiny_data()[0]), config, ALONE)
    learner.model.encoder.aspp.dropout.p = 0.0
    images, targets = _two_pictures()
    for step in range(config.steps):
        learner.update(images, targets, step)
    # In training mode: of the two values that image pooling has a channel, the variance in the
    # running statistics (n - 1) is twice that of the batch (n).
    with torch.no_grad():
        labels = learner.model.train()(images).argmax(1)
    assert mean_iou(confusion_matrix(targets.numpy(), labels.numpy().astype(np.uint8), 7)) > 0.99


def test_predicting_one_class_is_said_aloud(caplog: pytest.LogCaptureFixture) -> None:
    data, _ = tiny_data()
    learner = Learner(create_network(tiny(), data), tiny(), ALONE)
    counts = np.zeros((7, 7), np.int64)
    counts[:, 2] = 10
    check_predictions(counts, data.classes, learner)
    assert "the model predicts one class: land for 100.0 % of the pixels" in caplog.text
    caplog.clear()
    check_predictions(10 * np.eye(7, dtype=np.int64), data.classes, learner)
    assert caplog.text == ""


def test_a_strange_learning_rate_is_said_aloud(caplog: pytest.LogCaptureFixture) -> None:
    data, _ = tiny_data()
    config = tiny(base_lr=1e-9)
    check_learning_rate(Learner(create_network(config, data), config, ALONE))
    assert "base_lr 1e-09 is outside" in caplog.text


def test_T11_out_of_memory_gives_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def update(*_: object) -> None:
        message = (
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes."
        )
        raise RuntimeError(message)

    monkeypatch.setattr(Learner, "update", update)
    with pytest.raises(AtrousError) as caught:
        train(tiny(), tmp_path / "run", data=tiny_data())
    assert caught.value.code == "E-MEMORY"
    assert "8192 MB" in caught.value.what
    assert caught.value.exit_code == ExitCode.RESOURCES
    assert "--accumulation 2" in caught.value.fix
    assert "later" not in caught.value.where


def test_T11_out_of_memory_later_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Learner.update

    def update(self: Learner, images: torch.Tensor, targets: torch.Tensor, step: int) -> Update:
        if step == 3:
            raise MemoryError
        return own(self, images, targets, step)

    monkeypatch.setattr(Learner, "update", update)
    with pytest.raises(AtrousError) as caught:
        train(tiny(evaluate_every=0), tmp_path / "run", data=tiny_data())
    assert caught.value.code == "E-MEMORY"
    assert "checkpoint" in caught.value.where
    assert caught.value.exit_code == ExitCode.RESOURCES
    snapshot = load_newest(tmp_path / "run" / "checkpoints")
    assert snapshot is not None
    assert snapshot.step == 2


@pytest.mark.slow
def test_T11_memory_that_really_runs_out_gives_advice(tmp_path: Path) -> None:
    """The address space is limited to what the process has and 300 MB more."""
    limit = "import resource; used = int(open('/proc/self/statm').read().split()[0]) * 4096; "
    limit += "resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 10**8,) * 2)\n"
    script = SCRIPT.replace("train(from_json", f"{limit}train(from_json")
    config = to_json(tiny(batch_size=16, crop_size=(768, 768)))
    process = start(config, tmp_path / "run", script=script)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "E-MEMORY" in output, output
    assert "--accumulation 2" in output


def test_logging_is_left_as_it_was(tmp_path: Path) -> None:
    package = logging.getLogger("atrous")
    before = (package.level, list(package.handlers))
    train(tiny(steps=1), tmp_path / "run", data=tiny_data())
    assert (package.level, list(package.handlers)) == before


def test_checkpoints_hold_no_more_than_asked(finished: Path) -> None:
    names = sorted(path.name for path in (finished / "checkpoints").iterdir())
    assert names == ["last", "step-00000004", "step-00000006"]
    assert checkpoint.FORMAT == 1


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_does_without_torchs_compiler(optimizer: str, tmp_path: Path) -> None:
    """Its import takes 155 MB and two seconds."""
    script = SCRIPT + "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    config = tiny(steps=2, optimizer=optimizer, base_lr=0.001)
    process = start(to_json(config), tmp_path / "run", script=script)
    output, _ = process.communicate(timeout=120)
    assert output.splitlines()[-1] == "[]", output
