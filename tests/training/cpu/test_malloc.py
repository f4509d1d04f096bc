import subprocess
import sys

import pytest

# Prints the kilobytes that stay resident between small blocks, and the page faults of later
# allocations. Both in one process, because most of its time is the import of torch.
MEASURE = """
import re, resource, sys
from pathlib import Path
import torch
from atrous.training.cpu.malloc import keep_freed_memory, return_freed_memory
own = sys.argv[1] == "own"
if own:
    assert return_freed_memory()
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
del (first := [torch.ones(2**18)])[:]  # from the first block freed, glibc keeps those as large
before = resident()
pairs = [(torch.ones(2**18), torch.ones(2**13)) for _ in range(128)]  # of 1 MB and of 32 KB
kept = [small for _, small in pairs]  # which keep the end of the heap where it is
pairs.clear()
print(resident() - before)
if own:
    assert keep_freed_memory()
def faults():
    for _ in range(8):
        torch.ones(16 * 2**20)  # 64 MB: beyond what glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
faults()
before = faults()
print(faults() - before)
"""


def measured(settings: str) -> list[int]:
    command = [sys.executable, "-c", MEASURE, settings]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_goes_back_before_training_and_is_used_again_in_it():
    resident, faults = measured("own")
    assert resident < 10_000  # kB
    assert faults < 1000
    resident, faults = measured("plain")  # the settings are what does it
    assert resident > 100_000
    assert faults > 1000
