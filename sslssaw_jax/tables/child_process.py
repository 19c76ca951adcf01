"""Commands as child processes that stop when this process is asked to."""

import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sslssaw_jax.training.signals import SIGNALS, Stopped

RunChild = Callable[[Sequence[str], Path], int]
"""Runs a command with its output in a log, and returns its status."""


@contextmanager
def child_processes() -> Iterator[RunChild]:
    """Yield a function that runs a command as a child process.

    Any thread may call the function. Each SIGTERM or SIGINT is passed on to all children. Each child has its
    own session: Ctrl-C in a terminal would otherwise reach a child twice, and the second signal kills. After
    a signal, a call raises `Stopped` when its child has ended.
    """
    received: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in [*children]:
            child.send_signal(number)

    def require_no_signal() -> None:
        if received:
            raise Stopped(received[0])

    def run(command: Sequence[str], log: Path) -> int:
        require_no_signal()
        with log.open("ab") as output:
            child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
            children.append(child)
            if received:  # before there was a child to pass it on to
                child.send_signal(received[0])
            status = child.wait()
            children.remove(child)
        require_no_signal()
        return status

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield run
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
