"""How training on a CPU gets its memory.

This module imports nothing that takes time, since it runs before other modules start threads.
"""

import ctypes
import platform
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of mallopt(3)
KEPT = 2**31 - 1  # bytes that may be free at the heap's end
ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/accel0")  # NVIDIA, in WSL; AMD; TPU


def keeps_memory() -> bool:
    """Return whether `keep_freed_memory` has an effect: with glibc, and without an accelerator."""
    return platform.libc_ver()[0] == "glibc" and not any(Path(name).exists() for name in ACCELERATORS)


def keep_freed_memory() -> None:
    """Keep memory that a training step on a CPU frees.

    By default glibc returns it to the kernel, which hands it out again page by page, zeroed: up to a fifth
    of a step (`benchmarks/results/demo_time.md`). Now all threads share one heap, which does not shrink.
    With an accelerator, no step runs on the CPU, and many threads that decode frames would wait for the heap.
    Call this before the first thread starts, which would get a heap of its own that later threads share.
    """
    if keeps_memory():
        libc = ctypes.CDLL(None)
        for option, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEPT)):
            libc.mallopt(option, value)
