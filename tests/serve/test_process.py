"""The command: how it starts, refuses to start, and ends (S09 to S11)."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engines.test_openvino import tiny
from tests.serve.clients import ask, encoded, load, noise

Run = Callable[..., Any]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    return tiny(tmp_path / "tiny.onnx")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "atrous.cli", "serve", *map(str, arguments)]


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts the command; returns its process and port once it is ready."""
    with ExitStack() as stack:

        def run(*arguments: object) -> Any:
            process = subprocess.Popen(
                command("--port", 0, *arguments), stderr=subprocess.PIPE, text=True
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if found := re.match(r"ready: .* at http://\S+:(\d+)", line):
                    return SimpleNamespace(process=process, port=int(found[1]))
            raise AssertionError("".join(lines))

        yield run


def failing(*arguments: object) -> str:
    """Runs the command; returns what it says when it ends with 2."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def stop_under_load(server: Any, number: signal.Signals) -> None:
    """Stops a server under eight clients; every request that was sent must be answered."""
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        server.process.send_signal(number)

    threading.Timer(0.4, stop).start()
    result = load(
        server, encoded(noise(120, 90)), clients=8, seconds=20, refused_is_fine=stopped.is_set
    )
    assert server.process.wait(30) == 0
    assert result.failures == []
    assert set(result.statuses) == {200}
    assert result.statuses[200] > 8


def test_S09_sigterm_under_load_loses_no_request_and_ends_with_0(run: Run, model: Path) -> None:
    stop_under_load(run("--model", model), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("repetition", range(20))
def test_S09_twenty_times(repetition: int, run: Run, model: Path) -> None:
    stop_under_load(run("--model", model), signal.SIGTERM)


def test_S09_a_kept_connection_is_told_and_a_half_sent_body_finished(run: Run, model: Path) -> None:
    server = run("--model", model)
    body = encoded(noise())
    kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    kept.request("GET", "/readyz")
    assert kept.getresponse().read() == b'{"ready": true}\n'
    half = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    head = f"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    half.sendall(head.encode() + body[:50])
    time.sleep(0.1)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    kept.request("GET", "/readyz")
    answer = kept.getresponse()
    assert (answer.status, answer.getheader("connection")) == (503, "close")
    assert json.loads(answer.read()) == {"ready": False}
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)
    with half:
        half.sendall(body[50:])
        assert half.recv(100).startswith(b"HTTP/1.1 200")
    kept.close()
    assert server.process.wait(20) == 0


def test_ctrl_c_ends_it_with_0_and_no_worker_stays(run: Run, model: Path) -> None:
    server = run("--model", model, "--workers", 2)
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    workers = children.read_text().split()
    assert len(workers) == 2  # direct children
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_workers_end_when_the_front_process_is_killed(run: Run, model: Path) -> None:
    server = run("--model", model, "--workers", 2)
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    workers = children.read_text().split()
    server.process.kill()  # the second worker may still be warming up
    server.process.wait()
    end = time.monotonic() + 30
    while any(_alive(pid) for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.05)


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_S10_a_missing_or_damaged_model_ends_it_before_it_listens(
    model: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(model.read_bytes()[:100])
    for path in (damaged, tmp_path / "missing.onnx"):
        port = free_port()
        process = subprocess.Popen(
            command("--model", path, "--port", port), stderr=subprocess.PIPE, text=True
        )
        listened = False
        while process.poll() is None:
            with socket.socket() as probe:
                listened = listened or probe.connect_ex(("127.0.0.1", port)) == 0
            time.sleep(0.005)
        said = process.communicate()[1]
        assert process.returncode == 2, said
        assert path.name in said
        assert "Traceback" not in said
        assert not listened


def test_S11_a_port_in_use_and_an_open_address_without_a_token_are_refused(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = failing("--model", model, "--port", taken.getsockname()[1])
        assert "E-SERVE-ADDRESS" in said
        assert "--port" in said
    said = failing("--model", model, "--host", "0.0.0.0")
    assert "--token-file" in said
    assert "--insecure" in said


def test_S11_a_token_that_can_be_guessed_or_is_missing_is_refused(tmp_path: Path) -> None:
    for text, what in (("short", "guessed"), ("", "no token"), ("two words of some length", "one")):
        (tmp_path / "token").write_text(text)
        assert what in failing("--host", "0.0.0.0", "--token-file", tmp_path / "token")
    assert "E-TOKEN-FILE" in failing("--token-file", tmp_path / "missing")


def test_a_built_in_model_is_ready_and_serves_its_file(run: Run) -> None:
    server = run("--model", "street", "--workers", 1, "--precision", "int8")
    (model,) = ask(server, "/v1/models").json
    assert (model["name"], model["precision"]) == ("street", "int8")
    file = ask(server, "/" + model["file"])
    assert len(file.body) == model["bytes"]
    again = ask(server, "/" + model["file"], headers={"If-None-Match": file.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert ask(server, body=encoded(noise(65, 97))).status == 200


def test_files_of_the_current_folder_are_not_imported(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "queue.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path / "elsewhere")
    code = "import sys; sys.path.pop(0); from atrous.cli import main; main()"
    monkeypatch.setattr(
        "tests.serve.test_process.command",
        lambda *arguments: [sys.executable, "-c", code, "serve", *map(str, arguments)],
    )
    assert ask(run("--model", model), body=encoded(noise())).status == 200


def test_a_worker_ends_when_the_front_process_left_an_answer_unread(model: Path) -> None:
    ours, theirs = socket.socketpair()
    options = json.dumps({"model": str(model), "threads": 1})
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "atrous.serve.worker", str(theirs.fileno()), options],
            pass_fds=(theirs.fileno(),),
            stderr=subprocess.PIPE,
        )
    with process:
        with ours:  # closing it now resets the connection
            while b'"ready"' not in ours.recv(1 << 16, socket.MSG_PEEK):
                time.sleep(0.01)
            time.sleep(0.5)
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()
        assert process.communicate()[1] == b""


def test_the_front_process_loads_nothing_that_decodes_or_computes() -> None:
    code = (
        "import sys, atrous.serve.server, atrous.cli.serve\n"
        "assert not {'PIL', 'openvino', 'torch', 'multipart'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
