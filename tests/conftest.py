"""Fixtures every test may use."""

import os
import sys
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("ATROUS_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout (real pictures, weights, outputs).

    Tests that need it are skipped where it is absent, and fail where ATROUS_REQUIRE_SHARED is set.
    """
    if SHARED.is_dir():
        return SHARED
    message = f"needs reference data in {SHARED}"
    if os.environ.get("ATROUS_REQUIRE_SHARED"):
        pytest.fail(message)
    pytest.skip(message)


def pytest_configure(config: pytest.Config) -> None:
    # One thread a process: pytest-xdist supplies the parallelism.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Torch, once something has imported it, shares two cores with the other workers."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
