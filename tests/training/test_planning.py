"""What a run would take, and how many steps fit into a time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atrous.errors import AtrousError
from atrous.training import planning
from atrous.training.planning import Plan, free_in_groups, free_memory, plan, with_budget, within
from tests.tiny import tiny

MB = 2**20


def _group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_limits_of_control_groups_count(tmp_path: Path) -> None:
    """Version 2: the group's own limit and that of the group above it."""
    (tmp_path / "membership").write_text("0::/slice/box\n")
    mounted = tmp_path / "mounted"
    _group(
        mounted / "slice/box", memory__max=500 * MB, memory__current=200 * MB,
        memory__stat=f"anon 5\ninactive_file {50 * MB}",
    )  # fmt: skip
    _group(mounted / "slice", memory__max="max", memory__current=9, memory__stat="")
    _group(mounted, memory__max=400 * MB, memory__current=300 * MB, memory__stat="anon 5")
    free = list(free_in_groups(tmp_path / "membership", mounted))
    assert free == [350 * MB, 100 * MB]


def test_limits_of_control_groups_of_version_1_count(tmp_path: Path) -> None:
    (tmp_path / "membership").write_text("5:cpu,cpuacct:/other\n4:memory:/box\n")
    _group(
        tmp_path / "mounted/memory/box", memory__limit_in_bytes=500 * MB,
        memory__usage_in_bytes=100 * MB, memory__stat=f"total_inactive_file {30 * MB}",
    )  # fmt: skip
    assert list(free_in_groups(tmp_path / "membership", tmp_path / "mounted")) == [430 * MB]


def test_a_machine_without_control_groups_has_no_such_limit(tmp_path: Path) -> None:
    assert list(free_in_groups(tmp_path / "none", tmp_path)) == []
    (tmp_path / "membership").write_text("0::/box\n")
    assert list(free_in_groups(tmp_path / "membership", tmp_path)) == []


def test_the_smallest_limit_is_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "free_in_groups", lambda: iter([7 * MB]))
    assert free_memory("cpu") == 7 * MB


def test_memory_of_the_device_that_is_trained_on_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5, 9))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    assert free_memory("cuda") == free_memory("auto") == 5
    assert free_memory("cpu") > 5


def _plan(steps: int = 100, step: float | None = 2.0, evaluation: float = 10.0) -> Plan:
    config = tiny(steps=steps, evaluate_every=1)
    return Plan(config, (10, 3), 1, 1, 10, step, evaluation)


@pytest.mark.parametrize("minutes", [1, 3, 30])
@pytest.mark.parametrize("evaluation", [0.0, 1.0, 10.0])
def test_a_run_within_a_time_fits_and_uses_most_of_it(minutes: int, evaluation: float) -> None:
    planned = _plan(evaluation=evaluation)
    config = within(planned, 60 * minutes)
    spent = replace(planned, config=config).seconds
    assert spent is not None
    assert spent <= 60 * minutes
    assert spent > 0.5 * 60 * minutes
    assert config.steps / config.evaluate_every <= 10


def test_a_time_too_short_for_a_step_is_refused() -> None:
    for planned in (_plan(step=100.0), _plan(step=None)):
        with pytest.raises(AtrousError) as caught:
            within(planned, 60)
        assert caught.value.code in ("E-CONFIG", "E-MEMORY")


def test_epochs_are_counted_in_pictures() -> None:
    config = tiny(data="scenes", batch_size=10)
    pictures = plan(config).pictures[0]
    assert with_budget(config, epochs=2).steps == round(2 * pictures / 10)


@pytest.mark.parametrize("lengths", [{"epochs": 1, "minutes": 1}, {"epochs": 0}, {"minutes": -1}])
def test_one_length_above_zero_is_needed(lengths: dict[str, float]) -> None:
    with pytest.raises(AtrousError):
        with_budget(tiny(), **lengths)
