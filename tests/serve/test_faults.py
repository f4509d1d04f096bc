"""What a server must survive: bad bodies, slow and absent clients, dead workers (S01 to S20).

The model is a fake one; see `tests.serve.fake_worker`. Signals, start-up and real models are in
`test_process.py`.
"""

import io
import json
import os
import pickle
import random
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.serve.server import Server
from tests.serve import fake_worker
from tests.serve.clients import (
    ask,
    encoded,
    labels_of,
    load,
    noise,
    ordered,
    raw,
    read_all,
)

Start = Callable[..., Server]


def until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def resident(pids: list[int]) -> int:
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in pids)


def workers_of(server: Server) -> list[int]:
    return [worker.process.pid for pool in server.pools.values() for worker in pool.workers]


def fuzzed(index: int) -> tuple[str, bytes]:
    """Returns a query and a body: noise, a picture with flipped bytes, or half of one."""
    rng = random.Random(index)
    kind = rng.choice(("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"))
    body = bytearray(encoded(noise(rng.randint(1, 40), rng.randint(1, 40), index), kind))
    what = rng.randrange(4)
    if what == 0:
        body = bytearray(rng.randbytes(rng.randint(1, 2000)))
    elif what == 1:
        body = body[: rng.randrange(1, len(body))]
    else:
        for _ in range(rng.randint(1, 20)):
            body[rng.randrange(min(len(body), rng.choice((64, 1 << 20))))] = rng.randrange(256)
    query = rng.choice(
        ("", "?format=json", "?format=overlay", "?format=rle&classes=red", "?max_side=9", "?x=1")
    )
    return query, bytes(body)


def fuzz(server: Server, count: int) -> set[int]:
    def send(index: int) -> int:
        query, body = fuzzed(index)
        return ask(server, f"/v1/segment{query}", body).status

    with ThreadPoolExecutor(4) as executor:
        return set(executor.map(send, range(count)))


def test_S01_a_body_that_is_no_picture_is_refused_with_code_message_and_hint(
    server: Server,
) -> None:
    for body, status, code in (
        (b"<html>no picture</html>", 415, "E-IMAGE-FORMAT"),
        (b"\x00" * 100, 415, "E-IMAGE-FORMAT"),
        (b"", 422, "E-BODY-EMPTY"),
        (encoded(noise())[:200], 422, "E-IMAGE-BROKEN"),
    ):
        answer = ask(server, body=body, headers={"Content-Type": "image/png"})
        assert (answer.status, answer.json["code"]) == (status, code)
        assert set(answer.json) == {"code", "message", "hint"}


def test_S01_fuzzed_bodies_never_fail_the_server(server: Server) -> None:
    before = workers_of(server)
    assert fuzz(server, 300) <= {200, 413, 415, 422}
    assert workers_of(server) == before


@pytest.mark.slow
def test_S01_ten_thousand_fuzzed_bodies_let_nothing_grow(fresh: Start) -> None:
    server = fresh()
    fuzz(server, 4000)
    before = workers_of(server)
    memory = resident(before)
    assert fuzz(server, 10_000) <= {200, 413, 415, 422}
    assert workers_of(server) == before
    assert resident(before) < 1.05 * memory


def test_S02_a_declared_body_over_the_limit_is_refused_before_it_is_read(server: Server) -> None:
    head = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000001\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head)  # and not a byte of the body
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"E-BODY-BYTES" in answer


def test_S02_a_chunked_body_is_refused_where_it_passes_the_limit(start: Start) -> None:
    server = start(max_bytes=100_000)
    head = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"2000\r\n" + bytes(0x2000) + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head + 13 * chunk)  # 106,496 bytes, and no end
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert ask(server, body=encoded(noise())).status == 200


def bomb(kind: str, side: int = 60_000) -> bytes:
    """Returns a picture whose header says 3,600 megapixels."""
    if kind == "PNG":
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
        chunks = [
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in parts
        ]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    small = bytearray(encoded(Image.new("RGB", (8, 8)), kind))
    if kind == "JPEG":
        at = small.index(b"\xff\xc0") + 5
        small[at : at + 4] = struct.pack(">HH", side, side)
    elif kind == "GIF":
        small[6:10] = struct.pack("<HH", side, side)
    elif kind == "BMP":
        small[18:26] = struct.pack("<ii", side, side)
    elif kind == "PPM":
        return b"P6\n# a comment\n60000 60000\n255\n" + bytes(100)
    return bytes(small)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "PPM"])
def test_S03_a_pixel_bomb_is_refused_from_its_header(kind: str, server: Server) -> None:
    workers = workers_of(server)
    memory = resident(workers)
    answers = [ask(server, body=bomb(kind)) for _ in range(5)]
    assert {(answer.status, answer.json["code"]) for answer in answers} == {(413, "E-IMAGE-PIXELS")}
    assert min(answer.seconds for answer in answers) < 0.05
    assert resident(workers) - memory < 5_000_000


def test_S03_a_bomb_that_only_the_decoder_recognises_is_refused_by_the_worker(
    start: Start,
) -> None:
    small = bytearray(encoded(Image.new("RGB", (8, 8)), "GIF"))
    at = small.index(b"\x2c") + 5  # the size of the frame, beyond that of the screen
    small[at : at + 4] = struct.pack("<HH", 60_000, 60_000)
    answer = ask(start(), body=bytes(small))
    assert (answer.status, answer.json["code"]) == (413, "E-IMAGE-PIXELS")


def half_sent(server: Server, count: int) -> list[socket.socket]:
    """Returns connections that have sent the headers and a little of a body."""
    head = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\nhalf"
    connections = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        connection.sendall(head)
        connections.append(connection)
    return connections


def test_S04_slow_bodies_and_headers_end_and_hold_up_nobody(fresh: Start) -> None:
    server = fresh(body_seconds=1.0, header_seconds=1.0, queue=1)
    slow = half_sent(server, 50)
    for sent in (b"", b"GET / HTTP/1.1\r\nHost: loc"):  # nothing, and half of the headers
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        connection.sendall(sent)
        slow.append(connection)
    begin = time.monotonic()
    for _ in range(5):
        assert ask(server, body=encoded(noise())).status == 200
    answers = []
    for connection in slow:
        with connection:
            answers.append(read_all(connection))
    assert time.monotonic() - begin < 10
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers[:50])
    assert answers[50:] == [b"", b""]


def test_S04_a_byte_now_and_then_does_not_prolong_a_body(fresh: Start) -> None:
    server = fresh(body_seconds=0.8)
    (connection,) = half_sent(server, 1)
    begin, answer = time.monotonic(), b""
    with connection:
        connection.settimeout(0.1)
        while not answer and time.monotonic() - begin < 10:
            connection.sendall(b"x")
            try:
                answer = connection.recv(1 << 16)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.slow
def test_S04_five_hundred_half_sent_bodies_leave_others_times_within_a_fifth(
    fresh: Start,
) -> None:
    server = fresh(0.02)
    body = encoded(noise(200, 200))
    alone = load(server, body, clients=1, requests=200)
    slow = half_sent(server, 500)
    beside = load(server, body, clients=1, requests=200)
    for connection in slow:
        connection.close()
    assert alone.failures == beside.failures == []
    assert beside.median() < 1.2 * alone.median()


def test_S05_the_job_of_a_client_that_went_away_is_not_computed(
    fresh: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATROUS_TEST_MARK", str(tmp_path / "mark"))
    server = fresh(workers=1)
    pool = server.pools["fake"]
    head = "POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n"
    connections = []
    for order in (fake_worker.HALF_A_SECOND, fake_worker.MARKED, fake_worker.MARKED):
        body = ordered(order)
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        connection.sendall(head.format(len(body)).encode() + body)
        connections.append(connection)
        assert until(lambda: pool.working == len(connections), 5)
    for connection in connections[1:]:  # one waits in the worker, one in the queue
        connection.close()
    with connections[0] as first:
        assert first.recv(100).startswith(b"HTTP/1.1 200")
    assert ask(server, body=encoded(noise())).status == 200
    assert pool.working == 0
    assert not (tmp_path / "mark").exists()
    assert ask(server, body=ordered(fake_worker.MARKED)).status == 200
    assert (tmp_path / "mark").read_text() == "computed\n"


def test_S06_a_burst_is_answered_or_refused_at_once(fresh: Start) -> None:
    server = fresh(0.3, workers=1, queue=3)
    with ThreadPoolExecutor(16) as executor:
        answers = list(executor.map(lambda _: ask(server, body=encoded(noise())), range(16)))
    refused = [answer for answer in answers if answer.status == 503]
    assert {answer.status for answer in answers} == {200, 503}
    assert len(answers) - len(refused) in (4, 5)  # one is worked on; one may wait in the worker
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert min(answer.seconds for answer in refused) < 0.3


def test_S06_more_bytes_in_flight_than_allowed_are_refused(fresh: Start) -> None:
    server = fresh(bytes_in_flight=50_000)
    body = b"P6\n200 200\n255\n" + bytes(120_000)
    answer = ask(server, body=body)
    assert (answer.status, answer.json["code"]) == (503, "E-BUSY")
    assert ask(server, body=encoded(noise())).status == 200
    end = time.monotonic() + 5  # a client may have the answer before the server knows it
    while server.service.budget.held and time.monotonic() < end:
        time.sleep(0.01)
    assert server.service.budget.held == 0


def test_S07_what_passes_the_deadline_is_ended_and_what_waited_too_long_not_begun(
    fresh: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATROUS_TEST_MARK", str(tmp_path / "mark"))
    server = fresh(workers=1, deadline=0.7)
    with ThreadPoolExecutor(2) as executor:
        hanging = executor.submit(ask, server, body=ordered(fake_worker.HANG))
        assert until(lambda: server.pools["fake"].working == 1, 5)
        late = ask(server, body=ordered(fake_worker.MARKED))
        assert hanging.result().status == 504
    assert late.status in (504, 503)
    assert not (tmp_path / "mark").exists()
    assert until(lambda: ask(server, body=encoded(noise())).status == 200, 10)


def test_S07_a_picture_the_deadline_cannot_hold_is_refused_from_its_header(
    fresh: Start,
) -> None:
    server = fresh(0.2, workers=1, deadline=2.0)
    answer = ask(server, body=b"P6\n5000 5000\n255\n" + bytes(1000))
    assert (answer.status, answer.json["code"]) == (413, "E-SECONDS")
    reduced = ask(server, "/v1/segment?max_side=200", b"P6\n5000 5000\n255\n" + bytes(1000))
    assert (reduced.status, reduced.json["code"]) == (422, "E-IMAGE-BROKEN")  # it was looked at


def test_S08_a_dead_worker_costs_one_request_and_is_replaced(fresh: Start) -> None:
    server = fresh()
    pool = server.pools["fake"]
    answer = ask(server, body=ordered(fake_worker.CRASH))
    assert (answer.status, answer.json["code"]) == (503, "E-WORKER")
    assert ask(server, body=encoded(noise())).status == 200
    assert until(lambda: pool.ready == 2, 10)
    assert pool.restarts == 1


def test_S08_kill_9_under_load_affects_at_most_as_many_requests_as_workers(
    fresh: Start,
) -> None:
    server = fresh(0.01)
    victim = workers_of(server)[0]
    threading.Timer(0.5, os.kill, (victim, signal.SIGKILL)).start()
    result = load(server, encoded(noise()), clients=8, seconds=2.0)
    assert result.failures == []
    assert set(result.statuses) <= {200, 503}
    assert result.statuses[503] <= 2
    assert until(lambda: server.pools["fake"].ready == 2, 10)


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..\\..\\windows\\win.ini",
        "/C:/windows/win.ini",
        "//etc/passwd",
        "/page.js/../page.js",
        "/.hidden.js",
        "/notes.unknown",
        "/%00",
        "/v1/models/..%2f..%2fetc%2fpasswd/file",
        "/v1/models/fake/file",
    ],
)
def test_S12_only_the_pages_own_files_are_given_out(path: str, server: Server) -> None:
    answer = raw(
        server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 404"), answer
    assert b"secret" not in answer
    assert ask(server, "/page.js").headers["content-type"].startswith("text/javascript")


def test_S13_addresses_are_never_fetched(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.2)
        address = f"http://127.0.0.1:{trap.getsockname()[1]}/"
        query = ask(server, f"/v1/segment?url={address}", encoded(noise()))
        assert (query.status, query.json["code"]) == (422, "E-UNKNOWN-NAME")
        assert ask(server, body=address.encode()).status == 415
        with pytest.raises(TimeoutError):
            trap.accept()


def test_S14_other_names_and_pages_of_others_are_refused(server: Server) -> None:
    body = encoded(noise())
    for name in ("evil.example", "localhost.evil.example", ""):
        assert ask(server, body=body, headers={"Host": name}).json["code"] == "E-HOST"
    for name in ("localhost:1", "127.0.0.1", "[::1]:80", "192.168.0.7"):
        assert ask(server, body=body, headers={"Host": name}).status == 200
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},  # another program on this machine
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ):
        assert ask(server, body=body, headers=headers).json["code"] == "E-ORIGIN"
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert ask(server, body=body, headers=own).status == 200
    linked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(server, "/", headers=linked).status == 200


@pytest.mark.parametrize("path", ["/", "/page.js", "/livez", "/v1/models", "/nothing", "/metrics"])
def test_S14_every_answer_carries_the_policy_and_none_a_cookie(path: str, server: Server) -> None:
    headers = ask(server, path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe-inline" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert not {"set-cookie", "access-control-allow-origin", "server"} & set(headers)


def test_S14_without_the_token_only_probes_and_what_the_page_reads_answer(start: Start) -> None:
    server = start(token="correct horse battery".replace(" ", "-"))
    body = encoded(noise())
    for path in ("/", "/page.js", "/livez", "/openapi.json", "/v1/models", "/v2/health/ready"):
        assert ask(server, path).status == 200
    for path in ("/metrics", "/v2", "/v2/models/fake", "/v2/models/fake/infer"):
        assert ask(server, path).status == 401
    for header in ("", "Bearer", "Bearer wrong", "Basic correct-horse-battery", "Bearer é"):
        headers = {"Authorization": header.encode("latin-1").decode("latin-1")}
        answer = ask(server, body=body, headers=headers)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    right = {"Authorization": "Bearer correct-horse-battery"}
    assert ask(server, body=body, headers=right).status == 200
    assert ask(server, "/metrics", headers=right).status == 200


@pytest.mark.parametrize(
    "text", ["%3Cscript%3Ealert(1)%3C/script%3E", "a%0d%0aSet-Cookie:%20x=1", "%00%1b"]
)
@pytest.mark.parametrize("name", ["classes", "format", "model", "max_side", "x"])
def test_S15_what_a_client_wrote_comes_back_harmless(text: str, name: str, server: Server) -> None:
    key, value = (text, "1") if name == "x" else (name, text)
    answer = ask(server, f"/v1/segment?{key}={value}", encoded(noise()))
    assert answer.status == 422
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers
    assert answer.json["message"].isprintable()


def test_S16_requests_at_once_get_the_answers_of_requests_alone(server: Server) -> None:
    sizes = ((1, 1), (1, 300), (65, 97), (200, 30))
    formats = ("png", "json", "rle", "overlay", "cutout&classes=red")
    cases = [
        (f"/v1/segment?format={kind}", encoded(noise(*size, seed=seed)))
        for seed, size in enumerate(sizes)
        for kind in formats
    ]
    alone = [ask(server, *case).body for case in cases]
    with ThreadPoolExecutor(8) as executor:
        together = list(executor.map(lambda case: ask(server, *case), 3 * cases))
    assert {answer.status for answer in together} == {200}
    assert [answer.body for answer in together] == 3 * alone


@pytest.mark.slow
def test_S16_a_picture_of_33_megapixels_is_segmented(fresh: Start) -> None:
    image = np.zeros((5000, 6600, 3), np.uint8)
    image[:, 3300:, 2] = 255
    labels = labels_of(ask(fresh(), body=encoded(image)))
    np.testing.assert_array_equal(labels[:, :3297], 0)  # blue shines into the last cell before
    np.testing.assert_array_equal(labels[:, 3300:], 2)


def grown(server: Server, requests: int) -> tuple[float, int, int]:
    """Returns by how much memory, file descriptors and threads grew over so many requests."""
    body = encoded(noise(100, 150))

    def state() -> tuple[int, int, int]:
        return (
            resident([os.getpid(), *workers_of(server)]),
            sum(1 for _ in Path("/proc/self/fd").iterdir()),
            threading.active_count(),
        )

    load(server, body, clients=4, requests=max(200, requests // 5))
    time.sleep(0.1)
    memory, files, threads = state()
    result = load(server, body, clients=4, requests=requests)
    assert result.statuses == {200: requests}
    time.sleep(0.1)
    memory_after, files_after, threads_after = state()
    return memory_after / memory - 1, files_after - files, threads_after - threads


def test_S17_nothing_grows(server: Server) -> None:
    memory, files, threads = grown(server, 400)
    assert memory < 0.05
    assert files <= 0
    assert threads <= 0


@pytest.mark.slow
def test_S17_nothing_grows_over_ten_thousand_requests(fresh: Start) -> None:
    memory, files, threads = grown(fresh(), 10_000)
    assert memory < 0.05
    assert files <= 0
    assert threads <= 0


def test_S18_bad_pictures_do_not_affect_good_ones(server: Server) -> None:
    good = encoded(noise())
    bad = (good[:150], b"no picture", bomb("PNG"))
    expected = ask(server, body=good).body
    bodies = [bad[index // 3 % 3] if index % 3 == 0 else good for index in range(60)]
    with ThreadPoolExecutor(6) as executor:
        answers = list(executor.map(lambda body: ask(server, body=body), bodies))
    for body, answer in zip(bodies, answers, strict=True):
        assert (answer.body == expected) if body is good else answer.status in (413, 415, 422)


def test_S19_no_pickle_is_ever_read(server: Server, tmp_path: Path) -> None:
    class Exploit:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    stream = io.BytesIO()
    np.save(stream, np.array([Exploit()], dtype=object), allow_pickle=True)
    for body in (pickle.dumps(Exploit()), stream.getvalue()):
        assert ask(server, body=body).status == 415
        answer = ask(server, "/v2/models/fake/infer", body)
        assert (answer.status, answer.json["code"]) == (422, "E-INFERENCE")
    assert not (tmp_path / "executed").exists()


def test_S20_an_engine_that_lost_its_device_is_started_again(fresh: Start) -> None:
    server = fresh(workers=1)
    pool = server.pools["fake"]
    answer = ask(server, body=ordered(fake_worker.LOST_DEVICE))
    assert (answer.status, answer.json["code"]) == (503, "E-WORKER")
    assert ask(server, body=encoded(noise())).status == 200  # waits for the new one
    assert pool.restarts == 1


def test_a_bug_is_answered_as_one_and_tells_nothing_of_the_inside(
    fresh: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    server = fresh()
    answer = ask(server, body=ordered(fake_worker.BUG))
    assert (answer.status, answer.json["code"]) == (500, "E-BUG")
    assert b"Traceback" not in answer.body
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert ask(server, body=encoded(noise())).status == 200


def test_what_is_not_http_is_answered_in_the_form_of_all_errors(server: Server) -> None:
    answer = raw(server, b"\x16\x03\x01 no http\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["code"] == "E-HTTP"


def test_a_client_that_does_not_read_its_answer_is_cut_off(
    fresh: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atrous.serve.connections.WRITE_SECONDS", 0.5)
    server = fresh()
    body = encoded(noise(700, 700))  # the cut-out cannot be compressed: 1.9 MB
    head = "POST /v1/segment?format=cutout&classes=red HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(head.encode() + body)
        state = server._state
        assert until(lambda: len(state.connections) == 1, 5)
        assert until(lambda: server.service.budget.held > 1_000_000, 20)
        assert until(lambda: not state.connections, 20)
    assert until(lambda: server.service.budget.held == 0, 5)
