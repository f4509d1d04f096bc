import subprocess
import sys

import pytest

MEASURE = """
import resource, sys
import torch
from atrous.training.allocation import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    for _ in range(8):
        torch.ones(16 * 2**20)  # 64 MB: beyond what glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
faults()
before = faults()
print(faults() - before)
"""


def page_faults(how: str) -> int:
    command = [sys.executable, "-c", MEASURE, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_memory_that_was_freed_is_used_again():
    assert page_faults("keep") < 1000
    assert page_faults("plain") > 1000  # the setting is what does it
