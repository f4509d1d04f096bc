"""Pictures from addresses: http and https alone, and never more or longer than the limits."""

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.cli import main
from atrous.errors import AtrousError, ExitCode
from atrous.images import web
from atrous.predict.many import segment_many
from atrous.predict.predictor import Predictor
from tests.fake_engine import BrightestChannel
from tests.weights.server import Server, cut, redirect, send, stall, status, web_page


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def server():
    servers = []

    def start(*answers):
        servers.append(Server(picture(), *answers))
        return servers[-1]

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


def slow(handler, content):
    """Sends a byte now and then, each before a client would lose its patience."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    for byte in content:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.02)


def endless(handler, content):
    """Says nothing of a length, and sends without an end."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 4096)


def test_a_picture_is_fetched_and_the_name_is_the_last_part_of_the_address(server, tmp_path):
    host = server().url.rsplit("/", 1)[0]
    address = f"{host}/a/my%20photo.png?key=secret"
    (record,) = segment_many([address], Predictor(BrightestChannel()), tmp_path)
    assert record["input"] == f"{host}/a/my%20photo.png"
    assert record["areas"] == {"red": 1.0}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "my photo.json", "my photo.labels.png", "my photo.overlay.jpg"
    ]  # fmt: skip
    assert not any(b"secret" in p.read_bytes() for p in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b.jpg", "b.jpg"),
        ("/a/b.jpg?w=9#x", "b.jpg"),
        ("/..%2f..%2fetc%2fpasswd", "passwd"),
        ("/%2e%2e", "host"),
        ("/a%5cb.png", "b.png"),
        ("/a/.hidden.png", "hidden.png"),
        ("/a%00b%0a.png", "a_b_.png"),
        ("/", "host"),
        ("/" + "x" * 300 + ".png", "x" * 196 + ".png"),
    ],
)
def test_names_of_addresses_never_leave_the_folder(path, name):
    assert web.file_name(f"https://host{path}") == name


def test_finished_work_is_kept_and_a_changed_picture_is_done_again(server, tmp_path):
    there, engine = server(), BrightestChannel()
    for calls in (1, 1):
        segment_many([there.url], Predictor(engine), tmp_path)
        assert engine.calls == calls
    stream = io.BytesIO()
    Image.new("RGB", (9, 7), "blue").save(stream, "PNG")
    there.content = stream.getvalue()
    (record,) = segment_many([there.url], Predictor(engine), tmp_path)
    assert record["areas"] == {"blue": 1.0}


def test_the_same_name_of_another_address_is_another_picture(server, tmp_path):
    for there in (server(), server()):
        if not list(tmp_path.iterdir()):
            segment_many([there.url], Predictor(BrightestChannel()), tmp_path)
            continue
        with pytest.raises(AtrousError) as caught:
            segment_many([there.url], Predictor(BrightestChannel()), tmp_path)
        assert caught.value.code == "E-OUT-TAKEN"


BAD = {
    "404": ([status(404)], "E-DOWNLOAD-REFUSED"),
    "500": ([status(500)], "E-DOWNLOAD-REFUSED"),
    "web page": ([web_page], "E-IMAGE-FORMAT"),
    "nothing": ([lambda handler, content: send(handler, 200, b"")], "E-IMAGE-FORMAT"),
    "cut": ([cut(0.5)], "E-DOWNLOAD-FAILED"),
    "no scheme of ours": ([redirect("file:///etc/passwd")], "E-DOWNLOAD-REFUSED"),
    "ftp": ([redirect("ftp://127.0.0.1/a.png")], "E-DOWNLOAD-FAILED"),
    "too many redirects": ([redirect(f"/{n}.png") for n in range(9)], "E-DOWNLOAD-REFUSED"),
    "a circle": ([redirect("/a.png"), redirect("/b.png")] * 9, "E-DOWNLOAD-REFUSED"),
    "silence": ([stall(1.5)], "E-DOWNLOAD-TIME"),
    "slow": ([slow], "E-DOWNLOAD-TIME"),
    "large": ([lambda handler, content: send(handler, 200, b"x", length=10**9)],
              "E-DOWNLOAD-SIZE"),
    "endless": ([endless], "E-DOWNLOAD-SIZE"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_a_server_does_wrong_is_said(kind, server, tmp_path, monkeypatch):
    answers, code = BAD[kind]
    monkeypatch.setattr(web, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(web, "SECONDS", 0.5)
    monkeypatch.setattr(web, "_SILENCE", 1.0)
    (record,) = segment_many([server(*answers).url], Predictor(BrightestChannel()), tmp_path)
    assert record["code"] == code
    assert list(tmp_path.iterdir()) == []


def test_a_few_redirects_are_followed(server, tmp_path):
    answers = [redirect(f"/{n}.png") for n in range(4)]
    (record,) = segment_many([server(*answers).url], Predictor(BrightestChannel()), tmp_path)
    assert record["areas"] == {"red": 1.0}


@pytest.mark.parametrize(
    "address", ["ftp://h/a.png", "file:///etc/a.png", "data://a", "https://", "http://u:p@h/a.png"]
)
def test_other_addresses_are_refused_before_the_first_picture(address, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["predict", address, "--out", str(tmp_path)])
    assert caught.value.code == ExitCode.USAGE
    assert "E-DOWNLOAD-URL" in capsys.readouterr().err


def test_offline_forbids_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv("ATROUS_OFFLINE", "1")
    there = server()
    (record,) = segment_many([there.url], Predictor(BrightestChannel()), tmp_path)
    assert record["code"] == "E-DOWNLOAD-OFFLINE"
    assert there.requests == []


def test_the_command_takes_an_address_as_it_is(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("atrous.predict.predictor.open_engine", lambda *_, **__: BrightestChannel())
    there = server()
    main(["predict", there.url, "--out", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["input"] == there.url
    with Image.open(next(tmp_path.glob("*.labels.png"))) as labels:
        assert not np.asarray(labels).any()
    assert [Path(path).name for path, _ in there.requests] == ["weights.tar.gz"]


def test_the_server_and_a_predictor_never_fetch(server):
    there = server()
    with pytest.raises(AtrousError) as caught:
        Predictor(BrightestChannel())(there.url)
    assert caught.value.code == "E-FILE-MISSING"
    assert there.requests == []
