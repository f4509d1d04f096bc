import json
import os
import subprocess
import sys

import click
import pytest
from PIL import Image

from atrous import __version__, cli
from atrous.errors import AtrousError
from atrous.weights import zoo
from tests.fake_engine import BrightestChannel


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line in this process: exit code, standard output, standard error."""
    monkeypatch.setattr(
        "atrous.predict.predictor.open_engine", lambda _model, **_: BrightestChannel()
    )

    def run(*arguments):
        code = 0
        try:
            cli.main([str(a) for a in arguments])
        except SystemExit as error:
            code = error.code or 0
        captured = capsys.readouterr()
        return int(code), captured.out, captured.err

    return run


@pytest.fixture
def photo(tmp_path):
    Image.new("RGB", (30, 20), "red").save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def test_predict_prints_a_table_and_writes_three_files(run, photo, tmp_path):
    code, out, err = run("predict", photo, "--model", "m", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "20 x 30" in out
    assert "red 100.0 %" in out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "photo.json",
        "photo.labels.png",
        "photo.overlay.jpg",
    ]


@pytest.mark.parametrize(("text", "value"), [("1500MB", 1_500_000_000), ("0.5g", 500_000_000)])
def test_memory_is_an_amount_with_a_unit(text, value, run, photo, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("atrous.predict.predictor.tiles.fits", lambda *a: seen.append(a[2]) or True)
    run("predict", photo, "--model", "m", "--out", tmp_path / "out", "--memory", text)
    assert seen == [value]


def test_memory_that_is_none_is_refused(run, photo):
    code, _, err = run("predict", photo, "--model", "m", "--memory", "lots")
    assert code == 2
    assert "'lots' is no amount such as 2GB" in err


def test_json_is_a_line_per_picture_and_nothing_else(run, photo, tmp_path):
    code, out, _ = run("predict", photo, photo, "--model", "m", "--out", tmp_path / "out", "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    keys = ["areas", "confidence", "input", "labels", "overlay", "precision", "size"]
    assert [sorted(r) for r in records] == [keys]
    assert records[0]["areas"] == {"red": 1.0}


def test_P01_some_failed_inputs_exit_3_and_the_others_are_done(run, photo, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    code, out, err = run(
        "predict", broken, photo, tmp_path / "none.png", "--model", "m", "--out", tmp_path / "out"
    )
    assert code == 3
    assert "broken.png: " in err
    assert "none.png: no such file" in err
    assert "Traceback" not in err
    assert "1 of 3 done" in out


def test_P02_an_interrupted_run_exits_130_without_a_traceback(run, photo, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(BrightestChannel, "coarse_logits", interrupt)
    code, _, err = run("predict", photo, "--model", "m", "--out", tmp_path / "out")
    assert code == 130
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_threads_reach_the_engine(run, photo, tmp_path, monkeypatch):
    asked = []

    def open_engine(_model, *, threads, precision, streams, device):
        asked.append(threads)
        return BrightestChannel()

    monkeypatch.setattr("atrous.predict.predictor.open_engine", open_engine)
    for options in ([], ["--threads", 1]):
        run("predict", photo, "--model", "m", "--out", tmp_path / "out", *options)
    assert asked == [None, 1]


def test_P08_missing_paths_exit_2(run, tmp_path):
    code, _, err = run("predict", tmp_path / "none.png", "--model", "m")
    assert code == 2
    assert "none.png: no such file or folder" in err


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["predcit", "x"], "Did you mean 'predict'?"),
        (["predict", "x", "--modle", "m"], "Did you mean '--model'?"),
    ],
)
def test_P06_misspelt_commands_and_options_get_the_nearest(run, arguments, suggestion):
    code, _, err = run(*arguments)
    assert code == 2
    assert suggestion in err


def test_errors_of_ours_exit_1_without_a_traceback(run, photo, monkeypatch):
    monkeypatch.setattr("atrous.predict.find.find_pictures", lambda *_, **__: 1 / 0)
    code, _, err = run("predict", photo, "--model", "m")
    assert code == 1
    assert "this is a bug in atrous" in err
    assert "Traceback" not in err
    with pytest.raises(ZeroDivisionError):
        cli.main(["predict", str(photo), "--model", "m", "--debug"])


def test_user_errors_exit_with_their_code(run, photo, monkeypatch):
    def fail(_model, **_):
        raise AtrousError("E-X", "it broke", exit_code=5)

    monkeypatch.setattr("atrous.predict.predictor.open_engine", fail)
    code, _, err = run("predict", photo, "--model", "m")
    assert (code, err) == (5, "error: it broke [E-X]\n")


def test_models_prints_costs(run):
    code, out, _ = run("models", "--size", 33, 33, "--json")
    tables = json.loads(out)
    assert code == 0
    assert {row["backbone"] for row in tables["networks"]} >= {
        "xception65",
        "resnet101",
        "mobilenet_v2",
    }
    code, out, _ = run("models", "--size", 33, 33)
    assert "mobilenet_v2" in out
    published = {row["name"]: row for row in tables["published"]}
    assert set(published) == set(zoo.names())
    assert "78.79% Cityscapes val, output stride 16; 80.42%" in out
    for row in tables["published"]:  # nothing is claimed without the page that shows it
        assert row["measured"] == "not run" or "docs/results.md" in row["measured"]
    assert any(row["measured"] != "not run" for row in tables["published"])


def commands(group=cli.atrous, words=()):
    """Yields the words of each command, groups searched, and the command."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


@pytest.mark.parametrize("words", ["", "data", *(words for words, _ in commands())])
def test_help_shows_what_the_command_does(run, words):
    code, out, _ = run(*words.split(), "--help")
    assert code == 0
    assert "Usage: atrous" in out
    assert ("Examples:" in out) == (words not in ("", "data"))


# Options are a promise: adding one is a decision that shows here.
OPTIONS = """
bench: json precision samples size threads
convert: atrous-rates backbone classes head json map multi-grid out output-stride overwrite sha256
data check: allow-unlabelled force jobs json names out split strict workers
data next: count json model threads
data show: augment count crop-size out seed split
evaluate: classes compare data flip jobs json output-stride pad-to report scales split trimap
    window
export: budget calibration fp16 int8 json labels out size
models: classes json size
page: json model out
predict: address annotate coco cutout device engine every index jobs json keep-exif label-frames
    memory model no-legend no-overlay on-error out overwrite polygons precision probability shard
    stabilise threads tolerance unknown
submit: flip json names out output-stride pad-to scales to window
serve: allow-host deadline downloadable host insecure max-bytes max-pixels memory model port
    precision queue threads token-file workers
train: accumulation atrous-rates average-decay backbone base-lr batch batch-norm
    batch-norm-momentum batch-size bias-multiplier cache-megabytes class-balance class-weights
    clip-norm crop-size data decay-steps decoder decoder-separable decoder-strides depth-multiplier
    deterministic device dropped-to-background dry-run epochs evaluate-every extend first-fit flip
    freeze-backbone gradient-checkpointing graft head head-multiplier image-pooling losses minutes
    multi-grid names optimizer out output-stride override photometric precision reduced-channels
    refine relu-after-depthwise resume samples save-every scale-range schedule seed separable stem
    steps task tensorboard timeout train-split val-split weight-decay weights workers
"""


def test_the_set_of_options_is_pinned():
    found = {
        words: sorted(o[2:] for p in command.params for o in p.opts if o.startswith("--"))
        for words, command in commands()
    }
    pinned = (line.split(":") for line in OPTIONS.replace("\n    ", " ").strip().splitlines())
    assert found == {name: words.split() for name, words in pinned}


def atrous(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "atrous.cli", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize("words", ["train scenes --out run", "models", "evaluate m --data d"])
def test_P07_commands_of_the_training_half_name_what_to_install(words):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from atrous.cli import main; main({words.split()!r})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert result.returncode == 2
    assert b"pip install 'atrous[train]'" in result.stderr


def test_version_and_P09_a_terminal_without_utf8():
    result = atrous("--version", LANG="C", LC_ALL="C", PYTHONUTF8="0")
    assert result.stdout.decode().split() == ["atrous,", "version", __version__]
    result = atrous("predict", "naïve.jpg", "--model", "m", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert result.returncode == 2
    assert b"Traceback" not in result.stderr


def test_P09_a_narrow_terminal_is_no_traceback(run, photo, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    assert run("predict", "--help")[0] == 0
    code, out, err = run("predict", photo, "--model", "m", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "1 of 1 done" in out


def test_P09_a_closed_pipe_is_no_traceback():
    command = f"{sys.executable} -m atrous.cli --help | true"
    result = subprocess.run(command, shell=True, capture_output=True, timeout=120)
    assert b"Traceback" not in result.stderr
    assert b"Exception" not in result.stderr
