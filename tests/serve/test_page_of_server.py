"""The page as the real server gives it, under the server's own policy and token."""

from collections.abc import Iterator

import numpy as np
import pytest

import atrous
from atrous.serve.server import Server
from atrous.serve.settings import Settings
from tests.serve.browser import Visit, chromium, predictor
from tests.serve.clients import noise

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(Settings(models=("street",), port=0, workers=1, token=TOKEN)) as made:
        yield made


def test_the_page_segments_here_and_there_without_a_complaint(server: Server) -> None:
    image = np.kron(noise(9, 12), np.ones((8, 8, 1), np.uint8))
    expected = atrous.Predictor("street")(image).labels
    with chromium() as browser:
        visit = Visit(browser, server.url + "/").open()
        on_device = visit.segment(image)
        assert (on_device == predictor("street")(image).labels).mean() > 0.98
        assert not any("v1/segment" in address for address in visit.requests)
        assert visit.complaints == []
        visit.tab.click("#places label:nth-of-type(2)")
        visit.wait("document.getElementById('token-dialog').open")
        visit.tab.fill("#token", TOKEN)
        visit.tab.keyboard.press("Enter")
        np.testing.assert_array_equal(visit.labels(), expected)
        assert all(address.startswith((server.url, "blob:")) for address in visit.requests)
        visit.close()
