import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from atrous.engines.machine import cache_folder
from atrous.errors import AtrousError, ExitCode
from atrous.weights import transfer, zoo
from atrous.weights.download import fetch, parse_digest
from tests.weights import server as act

CONTENT = hashlib.shake_128(b"weights").digest(300_000)
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, no pauses, a short time limit, and no proxy between us and loopback."""
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "cache"))
    for name in ("ATROUS_OFFLINE", "ATROUS_WEIGHTS_URL", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "_PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(transfer, "_TIMEOUT", 0.3)
    return tmp_path / "cache"


@pytest.fixture
def serve():
    servers = []

    def start(*answers, content=CONTENT):
        servers.append(act.Server(content, *answers))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def files(cache):
    """Everything in the cache but locks."""
    return sorted(p.name for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock")


def refusal(url, digest=DIGEST, **options):
    with pytest.raises(AtrousError) as caught:
        fetch(url, digest, **options)
    return caught.value


def test_a_file_is_fetched_once_and_then_comes_from_the_cache(serve, cache):
    server = serve()
    path = fetch(server.url, DIGEST)
    assert path.read_bytes() == CONTENT
    assert fetch(server.url, DIGEST) == path
    assert len(server.requests) == 1
    assert files(cache) == ["weights.tar.gz"]


@pytest.mark.parametrize("shares", [(0.6,), (0.0, 0.6, 0.1)])
def test_W03_a_download_cut_short_is_resumed(serve, cache, shares):
    server = serve(*(act.cut(share) for share in shares))
    assert fetch(server.url, DIGEST, size=len(CONTENT)).read_bytes() == CONTENT
    ranges = [asked for _, asked in server.requests]
    assert ranges[0] is None
    assert ranges[-1] is not None
    assert files(cache) == ["weights.tar.gz"]


def test_W03_the_part_of_a_download_given_up_is_kept_and_resumed_later(serve, cache):
    server = serve(*(act.cut(0.3) for _ in range(4)))
    error = refusal(server.url)
    assert error.code == "E-DOWNLOAD-FAILED"
    assert files(cache) == ["weights.tar.gz.part"]  # never a short file under the final name
    have = (next(cache.rglob("*.part"))).stat().st_size
    assert fetch(server.url, DIGEST).read_bytes() == CONTENT
    assert server.requests[-1][1] == f"bytes={have}-"


def test_W03_a_server_that_cannot_resume_sends_everything_again(serve):
    server = serve(act.cut(0.999), act.no_ranges)
    assert fetch(server.url, DIGEST).read_bytes() == CONTENT


def test_W03_a_part_of_another_file_is_thrown_away(serve, cache):
    server = serve()
    target = cache / DIGEST.removeprefix("sha256:")[:16] / "weights.tar.gz.part"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"something else")
    assert fetch(server.url, DIGEST).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == ["bytes=14-", None]


def test_W03_a_whole_part_needs_only_a_question(serve, cache):
    server = serve()
    target = cache / DIGEST.removeprefix("sha256:")[:16] / "weights.tar.gz.part"
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT)
    assert fetch(server.url, DIGEST).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [f"bytes={len(CONTENT)}-"]


def test_W04_right_size_wrong_bytes(serve, cache):
    server = serve(content=CONTENT[:-1] + b"x")
    error = refusal(server.url, size=len(CONTENT))
    assert error.code == "E-DOWNLOAD-HASH"
    found = hashlib.sha256(server.content).hexdigest()
    assert found in str(error)
    assert DIGEST.removeprefix("sha256:") in str(error)
    assert server.url in str(error)
    assert files(cache) == []


def test_W04_a_file_of_the_cache_that_was_damaged_is_not_used(serve):
    server = serve()
    path = fetch(server.url, DIGEST)
    path.write_bytes(b"damaged")
    error = refusal(server.url)
    assert error.code == "E-DOWNLOAD-HASH"
    assert str(path) in error.fix


def test_W05_a_web_page_is_not_weights(serve, cache):
    server = serve(act.web_page)
    error = refusal(server.url)
    assert error.code == "E-DOWNLOAD-HTML"
    assert str(next(cache.iterdir()) / "weights.tar.gz") in error.fix  # where to put it by hand
    assert server.url in str(error)
    assert files(cache) == []


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_W05_a_refusal_is_not_asked_twice(serve, code):
    server = serve(act.status(code))
    error = refusal(server.url)
    assert error.code == "E-DOWNLOAD-REFUSED"
    assert str(code) in str(error)
    assert error.exit_code == ExitCode.RESOURCES
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_W05_a_server_in_trouble_is_asked_again(serve, code):
    server = serve(act.status(code), act.status(code))
    assert fetch(server.url, DIGEST).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_W05_a_server_that_stays_in_trouble_is_given_up(serve, cache):
    server = serve(*(act.status(503) for _ in range(9)))
    error = refusal(server.url)
    assert "given up after 4 tries: the server answered 503" in str(error)
    assert f"put it at {cache}" in error.fix
    assert len(server.requests) == 4


@pytest.mark.parametrize(("asked", "pause"), [("7", 7), ("9000", 60), ("soon", 0.01)])
def test_W05_the_pause_a_server_asks_for_is_kept_within_reason(serve, monkeypatch, asked, pause):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    fetch(serve(act.status(429, Retry_After=asked)).url, DIGEST)
    assert pauses == [pause]


@pytest.mark.parametrize("after", [0, 100_000])
def test_W05_a_server_that_hangs_is_left_and_asked_again(serve, after):
    server = serve(act.stall(2, after))
    started = time.monotonic()
    assert fetch(server.url, DIGEST).read_bytes() == CONTENT
    assert time.monotonic() - started < 2
    assert server.requests[-1][1] == (f"bytes={after}-" if after else None)


def test_W05_a_server_that_promises_too_much_is_believed_by_the_hash(serve):
    server = serve(act.lie(len(CONTENT) + 1000))
    assert fetch(server.url, DIGEST).read_bytes() == CONTENT
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_W05_a_server_that_promises_too_little_is_caught(serve, cache, size):
    error = refusal(serve(act.lie(1000)).url, size=size)
    assert error.code == ("E-DOWNLOAD-HASH" if size is None else "E-DOWNLOAD-SIZE")
    assert files(cache) == []


def test_W05_nobody_there(serve, cache):
    server = serve()
    url = server.url
    server.shutdown()
    server.server_close()
    error = refusal(url)
    assert error.code == "E-DOWNLOAD-FAILED"
    assert "refused" in str(error)


def test_a_redirect_is_followed(serve):
    assert fetch(serve(act.redirect(serve().url)).url, DIGEST).read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a.bin"])
def test_only_the_web_is_read_also_after_a_redirect(url, serve):
    assert refusal(url).code == "E-DOWNLOAD-URL"
    server = serve(act.redirect(url))
    assert refusal(server.url).code in ("E-DOWNLOAD-REFUSED", "E-DOWNLOAD-FAILED")
    assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://127.0.0.1/..", "http://a/%2e%2e%2f"])
def test_an_address_without_a_file_name_is_refused(url):
    assert refusal(url).code == "E-DOWNLOAD-URL"


def test_W06_without_network_the_cache_serves_and_no_socket_is_opened(serve, monkeypatch):
    server = serve()
    path = fetch(server.url, DIGEST)
    monkeypatch.setenv("ATROUS_OFFLINE", "1")

    def no_socket(*args, **kwargs):
        pytest.fail("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", no_socket)
    monkeypatch.setattr("socket.getaddrinfo", no_socket)
    assert fetch(server.url, DIGEST) == path
    error = refusal(server.url.replace("weights", "other"))
    assert error.code == "E-DOWNLOAD-OFFLINE"
    assert "put it at" in error.fix


@pytest.mark.parametrize("value", ["", "0"])
def test_W06_an_empty_or_zero_switch_does_not_mean_offline(serve, monkeypatch, value):
    monkeypatch.setenv("ATROUS_OFFLINE", value)
    assert fetch(serve().url, DIGEST).read_bytes() == CONTENT


FETCH = """
import logging, sys
logging.basicConfig(level=logging.WARNING)
from atrous.weights.download import fetch
print(fetch(sys.argv[1], sys.argv[2]))
"""


def fetch_elsewhere(url):
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, url, DIGEST],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def slowly(seconds):
    def answer(handler, content):
        time.sleep(seconds)
        act.whole(handler, content)

    return answer


def test_W07_eight_processes_download_once_and_the_others_wait(serve):
    server = serve(slowly(2))
    processes = [fetch_elsewhere(server.url) for _ in range(8)]
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert len({out for out, _ in answers}) == 1
    assert len(server.requests) == 1
    assert any("waiting for another process" in said for _, said in answers)


def test_W07_the_lock_of_a_process_that_died_holds_nobody_up(serve):
    server = serve(act.stall(30))
    process = fetch_elsewhere(server.url)
    while not server.requests:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    started = time.monotonic()
    assert fetch(server.url, DIGEST).read_bytes() == CONTENT
    assert time.monotonic() - started < 5


def test_W07_threads_of_one_process_download_once(serve):
    server = serve(slowly(0.2))
    threads = [threading.Thread(target=fetch, args=(server.url, DIGEST)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1


def test_W18_disk_too_small_is_said_before_anything_is_written(serve, cache, monkeypatch):
    kept = fetch(serve().url, DIGEST)
    usage = transfer.shutil.disk_usage(cache)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    other = CONTENT[::-1]
    error = refusal(serve(content=other).url, hashlib.sha256(other).hexdigest())
    assert error.code == "E-DISK-FULL"
    assert "needs 300000 more bytes, 1000 are free" in str(error)
    assert error.exit_code == ExitCode.RESOURCES
    assert files(cache) == ["weights.tar.gz"]
    assert kept.read_bytes() == CONTENT


FETCH_IN_LITTLE_SPACE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from atrous.errors import AtrousError
from atrous.weights.download import fetch
try:
    fetch(sys.argv[1], sys.argv[2])
except AtrousError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits there")
def test_W18_a_write_that_fails_removes_the_part_and_is_not_tried_again(serve, cache):
    server = serve()
    said = subprocess.run(
        [sys.executable, "-c", FETCH_IN_LITTLE_SPACE, server.url, DIGEST],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "E-DISK-FULL" in said
    assert "are free" in said
    assert files(cache) == []
    assert len(server.requests) == 1


def test_mirrors_are_asked_first_and_the_source_last(serve, monkeypatch, caplog):
    gone, empty, source = serve(act.status(404)), serve(content=b"wrong"), serve()
    mirrors = [server.url.rsplit("/", 1)[0] for server in (gone, empty)]
    monkeypatch.setenv("ATROUS_WEIGHTS_URL", f"{mirrors[0]}/some/folder/ {mirrors[1]}")
    with caplog.at_level(logging.WARNING):
        assert fetch(source.url, DIGEST).read_bytes() == CONTENT
    assert [path for path, _ in gone.requests] == ["/some/folder/weights.tar.gz"]
    assert len(empty.requests) == 1
    assert "E-DOWNLOAD-REFUSED" in caplog.text
    assert "E-DOWNLOAD-HASH" in caplog.text


def test_a_mirror_that_has_the_file_is_enough(serve, monkeypatch):
    mirror = serve()
    monkeypatch.setenv("ATROUS_WEIGHTS_URL", mirror.url.rsplit("/", 1)[0])
    assert fetch("http://nowhere.invalid/weights.tar.gz", DIGEST).read_bytes() == CONTENT


@pytest.mark.parametrize("digest", ["", "7ebf99e0", "sha256:" + "0" * 63, "md5:" + "0" * 32])
def test_nothing_is_fetched_without_a_full_hash(digest):
    assert refusal("http://nowhere.invalid/weights.bin", digest).code == "E-DOWNLOAD-NO-HASH"


def test_a_longer_hash_does_too(serve):
    digest = "sha384:" + hashlib.sha384(CONTENT).hexdigest()
    assert fetch(serve().url, digest).read_bytes() == CONTENT


def test_published_files_have_a_full_hash_or_none():
    for name in zoo.names():
        entry = zoo.entry(name)
        assert entry.digest is None or parse_digest(entry.digest)
        assert entry.url.startswith(("http://", "https://"))


def test_the_zoo_is_named_uniquely():
    assert len(zoo.names()) == len(zoo.ENTRIES)
    assert len({entry.url for entry in zoo.ENTRIES}) == len(zoo.ENTRIES)


def test_a_published_file_without_a_hash_needs_the_users_own():
    with pytest.raises(AtrousError, match="E-DOWNLOAD-NO-HASH") as caught:
        zoo.download("xception65_coco_voc_trainaug")
    assert caught.value.code == "E-DOWNLOAD-NO-HASH"
    assert "--sha256" in caught.value.fix


def test_a_misspelt_published_name_gets_the_nearest():
    with pytest.raises(AtrousError) as caught:
        zoo.download("xception65_coco_voc_trainaugg")
    assert caught.value.code == "E-UNKNOWN-NAME"
    assert "'xception65_coco_voc_trainaug'" in caught.value.fix


@pytest.mark.parametrize("name", [e.name for e in zoo.ENTRIES if e.url.endswith(".tflite")])
def test_hashes_of_published_files_at_hand_are_theirs(shared, name):
    entry = zoo.entry(name)
    file = shared / "weights" / entry.file
    assert entry.size == file.stat().st_size
    assert entry.digest == "sha256:" + transfer.file_digest(file)


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("ATROUS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/atrous"
