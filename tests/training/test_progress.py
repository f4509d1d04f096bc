"""The time limit of a run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from atrous.training import progress
from atrous.training.config import read_config
from atrous.training.loop import train
from atrous.training.progress import Progress, TimeLimit
from tests.tiny import tiny, tiny_data


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Returns a function that lets time pass."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


def _run(
    wait: Callable[[float], None], update: Callable[[int], float], evaluation: float = 0.0
) -> tuple[int, float]:
    """Returns the steps and seconds of a run of 100 steps in two minutes."""
    config, limit, step, spent = tiny(steps=100, evaluate_every=20), TimeLimit(2.0), 0, 0.0
    while step < config.steps:
        wait(update(step))
        spent += update(step)
        step += 1
        config = replace(config, steps=limit.steps(step, config))
        if step % 20 == 0 or step == config.steps:
            with limit.evaluating():
                wait(evaluation)
            spent += evaluation
    return step, spent


def test_a_run_as_fast_as_planned_keeps_its_steps(wait: Callable[[float], None]) -> None:
    assert _run(wait, lambda _: 1.0, evaluation=3.0) == (100, 115.0)
    assert _run(wait, lambda _: 1.23) == (100, pytest.approx(123.0))  # too late by 2.5 %


@pytest.mark.parametrize("evaluation", [0.0, 8.0])
@pytest.mark.parametrize("slower_from", [0, 30, 60])
def test_a_slower_run_ends_at_its_limit_with_fewer_steps(
    wait: Callable[[float], None], slower_from: int, evaluation: float
) -> None:
    steps, spent = _run(wait, lambda step: 3.0 if step >= slower_from else 0.8, evaluation)
    assert 10 < steps < 100
    assert 0.9 * 120 < spent < 1.03 * 120


def test_a_run_that_is_late_ends_with_its_next_update(wait: Callable[[float], None]) -> None:
    steps, _ = _run(wait, lambda step: 20.0 if step >= 10 else 1.0)
    assert steps < 20


def test_without_a_limit_no_step_is_left_out(wait: Callable[[float], None]) -> None:
    limit, config = TimeLimit(None), tiny(steps=100)
    for step in range(1, 50):
        wait(1e6)
        assert limit.steps(step, config) == 100


def test_a_shortened_run_ends_its_schedule_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Progress] = []
    config = tiny(steps=100_000, evaluate_every=50_000)
    result = train(config, tmp_path, data=tiny_data(), minutes=0.001, on_progress=seen.append)
    kept = read_config(tmp_path / "config.json")
    assert 10 < result.step == kept.steps < 100_000
    assert seen[-1].lr < 0.5 * seen[0].lr
    assert result.scores["step"] == kept.steps
    assert "fit into the time" in caplog.text
    resumed = train(kept, tmp_path, data=tiny_data(), resume=True)
    assert resumed.step == kept.steps


def test_a_shortened_run_that_is_killed_goes_on_with_the_shorter_schedule(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.steps < 100_000:
            raise KeyboardInterrupt

    config = tiny(steps=100_000, evaluate_every=50_000)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, data=tiny_data(), minutes=0.001, on_progress=stop)
    kept = read_config(tmp_path / "config.json")
    assert kept.steps < 100_000
    assert train(kept, tmp_path, data=tiny_data(), resume=True).step == kept.steps
