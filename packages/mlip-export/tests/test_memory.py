"""Freed memory that is kept costs no page faults the next time."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch, mlip_export

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
print(mlip_export.keep_freed_memory())
faults()
print(first, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's setting")
def test_freed_memory_is_kept():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    kept, counts = done.stdout.splitlines()
    if kept != "True":
        pytest.skip("the C library is not glibc")
    before, after = map(int, counts.split())
    assert before > 5_000 and after < before / 10
