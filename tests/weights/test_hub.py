import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch

from atrous.errors import AtrousError
from atrous.loading import load
from atrous.weights import hub
from atrous.weights.store import save
from tests.networks import random_network

COMMIT = "1" * 40


class FakeHub(ThreadingHTTPServer):
    """Serves one file of one repository as the hub does, under the hash it claims."""

    daemon_threads = True

    def __init__(self, content, etag=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.etag = etag or hashlib.sha256(content).hexdigest()
        self.requests = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        self.server.requests.append((self.command, self.path))
        known = self.path.startswith("/org/name/resolve/") and "model.safetensors" in self.path
        body = self.server.content if known else b""
        self.send_response(200 if known else 404)
        if known:
            self.send_header("ETag", f'"{self.server.etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
        else:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def model():
    return random_network("mobilenet_v2", num_classes=3, depth_multiplier=0.1, decoder=False)


@pytest.fixture
def content(model, tmp_path):
    save(model, tmp_path / "model.safetensors")
    return (tmp_path / "model.safetensors").read_bytes()


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Starts fake hubs that the client talks to, with an empty cache of its own."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("ATROUS_OFFLINE", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    servers = []

    def start(content, **options):
        servers.append(FakeHub(content, **options))
        monkeypatch.setenv("HF_ENDPOINT", servers[-1].url)
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refusal(name):
    with pytest.raises(AtrousError) as caught:
        load(name)
    return caught.value


def test_a_model_comes_from_the_hub_and_then_from_the_cache(content, serve, monkeypatch):
    server = serve(content)
    assert load("hf:org/name@main").architecture.backbone == "mobilenet_v2"
    asked = [(method, path.replace(COMMIT, "main")) for method, path in server.requests]
    assert ("GET", "/org/name/resolve/main/model.safetensors") in asked
    server.requests.clear()
    monkeypatch.setenv("ATROUS_OFFLINE", "1")
    assert len(load("hf:org/name@main").classes) == 3
    assert server.requests == []


def test_W04_a_file_of_the_hub_with_another_hash_is_deleted(content, serve, tmp_path):
    wrong = content[:-1] + bytes([content[-1] ^ 1])
    serve(wrong, etag=hashlib.sha256(content).hexdigest())
    error = refusal("hf:org/name")
    assert error.code == "E-HUB-HASH"
    assert hashlib.sha256(wrong).hexdigest() in str(error)
    assert hashlib.sha256(content).hexdigest() in str(error)
    assert not list((tmp_path / "hub").rglob("blobs/*"))


def test_a_file_without_a_full_hash_is_refused(content, serve):
    serve(content, etag="2" * 40)
    assert refusal("hf:org/name").code == "E-HUB-HASH"


def test_W06_offline_without_a_copy_says_so(content, serve, monkeypatch):
    server = serve(content)
    monkeypatch.setenv("ATROUS_OFFLINE", "1")
    error = refusal("hf:org/name")
    assert error.code == "E-HUB-FAILED"
    assert "unset ATROUS_OFFLINE" in error.fix
    assert server.requests == []


def test_an_unknown_repository_is_an_error_of_ours(content, serve):
    serve(content)
    assert refusal("hf:org/other").code == "E-HUB-FAILED"


@pytest.mark.parametrize("text", ["hf:name", "hf:", "hf:../..", "hf:a/b/c", "hf:a/../b", "hf:/etc"])
def test_other_forms_of_names_are_refused(text):
    with pytest.raises(AtrousError, match="E-HUB-NAME"):
        hub.parse(text)


def test_a_model_is_pushed_as_one_file_that_loads(model, monkeypatch, tmp_path):
    calls = []

    class Api:
        def __init__(self, endpoint=None):
            pass

        def create_repo(self, name, **options):
            calls.append(("create", name, options))

        def upload_file(self, *, path_or_fileobj, path_in_repo, repo_id, commit_message):
            (tmp_path / path_in_repo).write_bytes(path_or_fileobj.read_bytes())
            calls.append(("upload", repo_id, path_in_repo))
            return SimpleNamespace(oid=COMMIT)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert hub.push_to_hub(model, "org/name", private=True) == COMMIT
    assert calls == [
        ("create", "org/name", {"private": True, "exist_ok": True}),
        ("upload", "org/name", "model.safetensors"),
    ]
    loaded = load(tmp_path / "model.safetensors")
    assert all(torch.equal(loaded.state_dict()[n], t) for n, t in model.state_dict().items())


def test_nothing_is_pushed_offline(model, monkeypatch):
    monkeypatch.setenv("ATROUS_OFFLINE", "1")
    with pytest.raises(AtrousError, match="E-HUB-FAILED"):
        hub.push_to_hub(model, "org/name")
