import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from atrous.cli.data import data
from atrous.errors import AtrousError, ExitCode
from tests.data.trees import blocks, folders, picture, save, voc, write


def run(*arguments: object) -> Result:
    return CliRunner().invoke(data, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    folders(tmp_path / "data")
    return tmp_path / "data"


def test_healthy_data_exits_zero(healthy: Path) -> None:
    result = run("check", healthy)
    assert result.exit_code == ExitCode.OK
    assert "8 pictures" in result.stdout
    assert "ready to train on" in result.stdout
    assert "8 of 8 pictures" in result.stderr


def test_data_that_would_train_wrong_exits_four(healthy: Path) -> None:
    save(healthy / "masks/val/picture1.png", np.full((72, 96), 200, np.uint8))
    result = run("check", healthy)
    assert result.exit_code == ExitCode.DATA == 4
    assert "200 (6912 px)" in result.stdout
    assert "picture1.png" in result.stdout


def test_json_is_all_of_stdout(healthy: Path) -> None:
    result = run("check", healthy, "--json")
    answer = json.loads(result.stdout)
    assert answer["ok"] is True
    assert answer["classes"] == ["name0", "name1", "name2"]
    assert answer["splits"]["train"]["samples"] == 4
    assert sum(answer["splits"]["train"]["class_share"].values()) == pytest.approx(1)
    assert answer["proposals"]["crop_size"] == 129
    assert {f["level"] for f in answer["findings"]} == {"note"}


def test_json_of_sick_data_says_so(healthy: Path) -> None:
    save(healthy / "masks/val/picture1.png", np.full((72, 96), 200, np.uint8))
    result = run("check", healthy, "--json")
    assert result.exit_code == ExitCode.DATA
    answer = json.loads(result.stdout)
    assert answer["ok"] is False
    assert answer["findings"][0]["code"] == "E-DATA-LABEL"


def test_reports_are_written_only_where_asked(healthy: Path, tmp_path: Path) -> None:
    run("check", healthy)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]
    run("check", healthy, "--out", tmp_path / "report")
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == [
        "data_report.csv",
        "data_report.html",
    ]


def test_report_within_the_data_is_refused(healthy: Path) -> None:
    with pytest.raises(AtrousError, match="E-OUT-IN-DATA"):
        run("check", healthy, "--out", healthy / "report")


def test_D21_read_only_data_is_checked_and_unchanged(healthy: Path, tmp_path: Path) -> None:
    everything = sorted(healthy.rglob("*"))
    states = {path: path.stat().st_mtime_ns for path in everything}
    for path in (healthy, *everything):
        path.chmod(stat.S_IRUSR | (stat.S_IXUSR if path.is_dir() else 0))
    try:
        assert run("check", healthy, "--out", tmp_path / "out").exit_code == ExitCode.OK
        assert run("show", healthy, "--out", tmp_path / "sheet.png").exit_code == ExitCode.OK
    finally:
        for path in (healthy, *everything):
            path.chmod(stat.S_IRWXU)
    assert sorted(healthy.rglob("*")) == everything
    assert {path: path.stat().st_mtime_ns for path in everything} == states


def test_D12_allow_unlabelled_goes_on(healthy: Path) -> None:
    (healthy / "masks/val/picture1.png").unlink()
    assert run("check", healthy).exit_code == ExitCode.DATA
    assert run("check", healthy, "--allow-unlabelled").exit_code == ExitCode.OK


def test_D07_force_reads_jpeg_masks(healthy: Path) -> None:
    (healthy / "masks/val/picture1.png").unlink()
    save(healthy / "masks/val/picture1.jpg", np.ones((72, 96), np.uint8))
    assert run("check", healthy).exit_code == ExitCode.DATA
    assert run("check", healthy, "--force").exit_code == ExitCode.OK


def test_D17_strict_makes_leaks_errors(healthy: Path) -> None:
    copy = (healthy / "images/train/picture0.jpg").read_bytes()
    write(healthy / "images/val/picture1.jpg", copy)
    assert run("check", healthy).exit_code == ExitCode.OK
    assert run("check", healthy, "--strict").exit_code == ExitCode.DATA


def test_only_the_splits_asked_for_are_checked(tmp_path: Path) -> None:
    voc(tmp_path, {"train": 2, "val": 1, "trainval": 3})
    assert set(json.loads(run("check", tmp_path, "--json").stdout)["splits"]) == {"train", "val"}
    one = json.loads(run("check", tmp_path, "--split", "trainval", "--json").stdout)
    assert one["splits"]["trainval"]["samples"] == 3


def test_show_draws_a_sheet(healthy: Path, tmp_path: Path) -> None:
    result = run("show", healthy, "--out", tmp_path / "sheet.png", "--count", "3")
    assert "3 of 4 samples of val" in result.stdout
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width == 4 * 328 + 8


def test_show_draws_what_augmentation_makes_of_samples(healthy: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    sheets = [tmp_path / "one.png", tmp_path / "two.png"]
    for sheet in sheets:
        run("show", healthy, "--augment", "--crop-size", "65", "--count", "2", "--out", sheet)
    one, two = (np.asarray(Image.open(sheet)) for sheet in sheets)
    np.testing.assert_array_equal(one, two)  # a function of the seed


def test_help_shows_examples() -> None:
    for command in ("check", "show"):
        assert "Examples:" in run(command, "--help").stdout


def test_check_and_show_need_no_torch(healthy: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None\n"
        "from atrous.cli.data import data\n"
        f"data(['show', {str(healthy)!r}, '--out', {str(tmp_path / 's.png')!r}], "
        "standalone_mode=False)\n"
        f"data(['check', {str(healthy)!r}, '--workers', '2'], standalone_mode=False)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "ready to train on" in result.stdout


def test_an_interrupt_of_check_prints_no_traceback_of_a_process(tmp_path: Path) -> None:
    folders(tmp_path, count=400)
    process = subprocess.Popen(
        [sys.executable, "-m", "atrous.cli", "data", "check", str(tmp_path), "--jobs", "2"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # Shells make commands behind & ignore this signal, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and len(children.read_text().split()) < 2:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert b"Traceback" not in output


def test_shared_camvid_is_ready_to_train_on(shared: Path) -> None:
    root = shared / "data" / "camvid"
    answer = json.loads(run("check", root, "--split", "val", "--json").stdout)
    assert answer["ok"] is True
    assert answer["splits"]["val"]["samples"] == 101


def test_pictures_are_not_needed_to_be_square(tmp_path: Path) -> None:
    save(tmp_path / "images/val/a.jpg", picture(size=(65, 400)))
    save(tmp_path / "masks/val/a.png", blocks(2, size=(65, 400)))
    assert run("check", tmp_path).exit_code == ExitCode.OK


def test_names_name_masks_of_two_values(tmp_path: Path) -> None:
    for split in ("train", "val"):
        save(tmp_path / "images" / split / "a.jpg", picture(len(split)))
        save(tmp_path / "masks" / split / "a.png", blocks(2) * np.uint8(255))
    answer = json.loads(run("check", tmp_path, "--names", "road", "--json").stdout)
    assert answer["classes"] == ["background", "road"]
    assert answer["ok"] is True
