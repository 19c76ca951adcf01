"""An ordered, bounded `map` over processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from sslssaw_jax.data.video import OptionError
from sslssaw_jax.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_WAITING_PER_WORKER = 4  # calls and results held at a time: they keep a worker busy while another is slow


class WorkerError(UserError):
    """An error of processes: one was killed from outside."""


def available_cpus() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # absent on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Iterator[Result]:
    """Yield `function` of each item in order, from spawned processes.

    At most `4 * num_workers` results are held at a time, however slowly they are taken.

    Args:
        function: A module-level function; each worker imports its module, which should be light.
        items: Picklable arguments of the function.
        num_workers: Number of processes; 0 is one per core.

    Raises:
        OptionError: `num_workers` is negative.
        WorkerError: A process was killed.
    """
    if num_workers < 0:
        raise OptionError(f"--num_workers={num_workers}: give a number of processes, or 0 for one per core")
    num_workers = num_workers or available_cpus()
    # forked copies of a process with threads (JAX, OpenCV) can deadlock
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, initializer=_follow_parent)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == _WAITING_PER_WORKER * num_workers:
                yield waiting.popleft().result()
        pool.shutdown(wait=False)  # workers exit after their last item, though results may still wait here
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise WorkerError(
            f"one of {num_workers} processes was killed, probably for lack of memory: use fewer --num_workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and exit if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
