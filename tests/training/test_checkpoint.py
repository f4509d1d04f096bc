import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from atrous.errors import AtrousError, ExitCode
from atrous.training import checkpoint
from atrous.training.checkpoint import Checkpoint, load, load_newest, save


def _checkpoint(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(5, 7, generator=generator)
    return Checkpoint(
        step,
        {"model": {"weight": weight, "count": torch.tensor(step)}, "optimizer": {"0": -weight}},
        {"epoch": step // 10, "best": 0.1 + step},
    )


def _equal(a: Checkpoint, b: Checkpoint) -> bool:
    return (
        a.step == b.step
        and a.state == b.state
        and all(
            torch.equal(a.tensors[file][name], b.tensors[file][name])
            for file in ("model", "optimizer")
            for name in a.tensors[file]
        )
    )


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = save(tmp_path, _checkpoint(7))
    assert path.name == "step-00000007"
    assert _equal(load(path), _checkpoint(7))
    assert (tmp_path / "last").read_text() == "step-00000007\n"


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "missing") is None


def test_the_newest_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, _checkpoint(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step-00000003", "step-00000004"]


def test_there_is_no_pickle(tmp_path: Path) -> None:
    path = save(tmp_path, _checkpoint(1))
    names = {p.name for p in path.iterdir()}
    assert names == {"model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"}


@pytest.mark.parametrize("file", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_T05_a_damaged_checkpoint_is_named_and_the_older_one_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, damage: str
) -> None:
    save(tmp_path, _checkpoint(1))
    victim = save(tmp_path, _checkpoint(2)) / file
    data = bytearray(victim.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 4
        victim.write_bytes(data)
    elif damage == "truncate":
        victim.write_bytes(data[:-1])
    else:
        victim.unlink()
    found = load_newest(tmp_path)
    assert found is not None
    assert _equal(found, _checkpoint(1))
    assert "step-00000002" in caplog.text


def test_T05_it_refuses_when_no_checkpoint_is_valid(tmp_path: Path) -> None:
    (save(tmp_path, _checkpoint(1)) / "manifest.json").unlink()
    with pytest.raises(AtrousError) as caught:
        load_newest(tmp_path)
    assert caught.value.code == "E-CHECKPOINT-NONE"


def test_a_newer_format_is_refused_rather_than_skipped(tmp_path: Path) -> None:
    manifest = save(tmp_path, _checkpoint(1)) / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(AtrousError) as caught:
        load_newest(tmp_path)
    assert caught.value.code == "E-CHECKPOINT-NEWER"


@pytest.mark.parametrize("call", ["fsync", "rename", "replace", "write", "mkdir"])
@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])
def test_T04_a_failure_of_any_call_leaves_a_valid_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, nth: int
) -> None:
    save(tmp_path, _checkpoint(1))
    calls = 0

    def failing(original):  # type: ignore[no-untyped-def]
        def wrapper(*args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            if calls == nth:
                raise OSError(errno.EIO, "injected")
            return original(*args, **kwargs)

        return wrapper

    with monkeypatch.context() as patch:
        if call == "fsync":
            patch.setattr(os, "fsync", failing(os.fsync))
        elif call == "write":
            patch.setattr(checkpoint, "_write", failing(checkpoint._write))
        else:
            patch.setattr(Path, call, failing(getattr(Path, call)))
        failure = None
        try:
            save(tmp_path, _checkpoint(2))
        except AtrousError as error:
            failure = error.code
    assert failure == ("E-CHECKPOINT-WRITE" if calls >= nth else None)
    found = load_newest(tmp_path)
    assert found is not None
    assert _equal(found, _checkpoint(1)) or _equal(found, _checkpoint(2))
    save(tmp_path, _checkpoint(3))  # and the next save works, and clears up
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_T03_a_full_disk_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, _checkpoint(1))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(AtrousError) as caught:
        save(tmp_path, _checkpoint(2))
    assert caught.value.code == "E-CHECKPOINT-WRITE"
    assert caught.value.exit_code == ExitCode.RESOURCES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step-00000001"]


def test_T03_a_disk_that_fills_while_writing_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, _checkpoint(1))

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", full)
        with pytest.raises(AtrousError) as caught:
            save(tmp_path, _checkpoint(2))
        assert caught.value.code == "E-CHECKPOINT-WRITE"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last", "step-00000001"]


def test_a_clock_that_jumps_back_does_not_hide_the_newest(tmp_path: Path) -> None:
    save(tmp_path, _checkpoint(1))
    newest = save(tmp_path, _checkpoint(2))
    for path in [newest, *newest.iterdir()]:
        os.utime(path, (0, 0))
    found = load_newest(tmp_path)
    assert found is not None
    assert found.step == 2


def test_T18_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AtrousError) as caught:
        save(tmp_path / "file", _checkpoint(1))
    assert caught.value.code == "E-CHECKPOINT-WRITE"
