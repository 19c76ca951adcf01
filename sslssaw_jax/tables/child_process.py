"""A command as a child process that stops when this one is told to."""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from sslssaw_jax.training.signals import SIGNALS, Stopped


def run_child(command: Sequence[str], log: Path, cwd: Path) -> int:
    """The exit status of `command`, run in `cwd`; what it prints is appended to `log`.

    A SIGTERM or SIGINT is passed on to it, each time one comes. It runs in a session of its own: Ctrl-C in a
    terminal would reach it a second time, and the second kills.

    Raises:
        Stopped: such a signal came; the child has ended.
    """
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if child:
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        with log.open("ab") as output:
            child = subprocess.Popen(
                command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            if received:  # while it was being started
                child.send_signal(received[0])
            status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise Stopped(f"stopped by {signal.Signals(received[0]).name}: start again to go on")
    return status
