"""An ordered, bounded `map` over processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_WAITING_PER_WORKER = 4  # results and calls held at once: enough to keep a worker busy past a slow neighbour


def available_cpus() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # absent on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Iterator[Result]:
    """`function` of each item, in the items' order, from a pool of spawned processes.

    At most `4 * num_workers` results are held at once, however slowly they are taken.

    Args:
      function: a module-level function; its module is imported in each worker, so it had better be light.
      items: picklable.
      num_workers: number of processes.
    """
    # forked copies of a process with threads (JAX, OpenCV) can deadlock
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, initializer=_follow_parent)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == _WAITING_PER_WORKER * num_workers:
                yield waiting.popleft().result()
        pool.shutdown(wait=False)  # the workers leave with their last item, though the last result may wait
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """A worker leaves Ctrl-C to its parent, and does not outlive a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
