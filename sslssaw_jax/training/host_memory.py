"""How a training gets the memory of its processor.

This module imports nothing that takes time, since it comes before the threads of other modules.
"""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of mallopt(3)
KEPT = 2**31 - 1  # bytes that may lie free at the heap's end


def keep_freed_memory() -> None:
    """Keep freed memory for the next step instead of giving it back.

    A step allocates and frees hundreds of megabytes, as does the loader for each batch. By default glibc
    gives them back to the kernel, which hands them out again page by page, zeroed: on CPUs that was a fifth
    of a step (`benchmarks/results/demo_time.md`). Now all threads share one heap, which does not shrink.
    Call this before the first thread starts, which would get a heap of its own that later threads share.
    Another C library stays as it is.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEPT)):
            libc.mallopt(option, value)
