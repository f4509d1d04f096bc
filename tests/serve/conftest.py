"""Servers for tests: with a fake model, which starts soon and does what pictures tell it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from atrous.serve.server import Server
from atrous.serve.settings import Settings
from tests.serve import fake_worker

INDEX = "<!doctype html><title>page</title>"


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in place of the page."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text(INDEX)
    (folder / "page.js").write_text("// page\n")
    (folder / ".hidden.js").write_text("secret")
    (folder / "notes.unknown").write_text("secret")
    return folder


@pytest.fixture(scope="session")
def start(page: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers with the fake model; the session's end stops them."""
    with ExitStack() as stack:

        def start(seconds: float = 0.0, **settings: Any) -> Server:
            values = {"models": ("fake",), "port": 0, "workers": 2, **settings}
            made = Server(Settings(**values), worker=fake_worker.command(seconds), page=page)
            return stack.enter_context(made)

        yield start


@pytest.fixture(scope="session")
def server(start: Callable[..., Server]) -> Server:
    """A server with usual limits, for tests that leave it as it was."""
    return start()


@pytest.fixture
def fresh(page: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers that end with the test."""
    with ExitStack() as stack:

        def start(seconds: float = 0.0, **settings: Any) -> Server:
            values = {"models": ("fake",), "port": 0, "workers": 2, **settings}
            made = Server(Settings(**values), worker=fake_worker.command(seconds), page=page)
            return stack.enter_context(made)

        yield start
