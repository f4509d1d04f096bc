import subprocess
import sys

import pytest

MEASURE = """
import resource, sys
import torch
from atrous.training.cpu.malloc import keep_freed_memory, return_freed_memory
if sys.argv[1] != "plain":
    assert return_freed_memory()
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


HOLES = """
import re, sys
from pathlib import Path
import torch
from atrous.training.cpu.malloc import return_freed_memory
if sys.argv[1] == "return":
    assert return_freed_memory()
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
del (first := [torch.ones(2**18)])[:]  # from the first block freed, glibc keeps those as large
before = resident()
pairs = [(torch.ones(2**18), torch.ones(2**13)) for _ in range(128)]  # of 1 MB and of 32 KB
kept = [small for _, small in pairs]  # which keep the end of the heap where it is
pairs.clear()
print(resident() - before)
"""


def page_faults(how: str) -> int:
    return measured(MEASURE, how)


def measured(script: str, how: str) -> int:
    command = [sys.executable, "-c", script, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_memory_that_was_freed_is_used_again():
    assert page_faults("keep") < 1000
    assert page_faults("plain") > 1000  # the setting is what does it


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_memory_that_was_freed_before_training_goes_back():
    assert measured(HOLES, "return") < 10_000  # kB
    assert measured(HOLES, "plain") > 100_000  # the setting is what does it
