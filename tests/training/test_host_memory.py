import subprocess
import sys

import pytest

from sslssaw_jax.training import host_memory

PROGRAM = """
import ctypes
import resource
import sys
import threading

from sslssaw_jax.training.host_memory import keep_freed_memory

PR_SET_THP_DISABLE = 41  # a system may back all memory with huge pages, which hide the faults
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
if sys.argv[1] == "keep":
    keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def allocate_and_free():
    for _ in range(5):
        b"x" * 2**26  # NumPy would ask for huge pages

def in_a_thread():
    thread = threading.Thread(target=allocate_and_free)
    thread.start()
    thread.join()

for use in (allocate_and_free, in_a_thread):
    use()
    before = faults()
    use()
    print(faults() - before)
"""


@pytest.mark.skipif(not host_memory.keeps_memory(), reason="needs glibc and no accelerator")
def test_freed_memory_is_used_again_by_all_threads():
    def faults(what: str) -> list[int]:
        command = [sys.executable, "-c", PROGRAM, what]
        return [*map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())]

    pages = 5 * 2**26 // 4096
    assert max(faults("keep")) < pages / 20
    assert min(faults("give back")) > pages / 2  # what the test would see otherwise


def test_beside_an_accelerator_memory_stays_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(host_memory, "ACCELERATORS", (str(tmp_path),))
    assert not host_memory.keeps_memory()
