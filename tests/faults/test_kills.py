import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _torment(kills: int) -> None:
    """In a process of its own: it forks, which one with threads should not."""
    command = [sys.executable, "-m", "tests.faults.kills", "--kills", str(kills)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=3600)


def test_T02_kills_at_random_moments_lose_nothing() -> None:
    _torment(3)


@pytest.mark.slow
def test_T02_two_hundred_kills_lose_nothing() -> None:
    _torment(200)
