"""A command as a child process that stops when this process is asked to."""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from sslssaw_jax.training.signals import SIGNALS, Stopped


def run_child(command: Sequence[str], log: Path) -> int:
    """Run a command with its output in a log; return its status.

    Each SIGTERM or SIGINT is passed on to the child, which has its own session: Ctrl-C in a terminal would
    otherwise reach the child twice, and the second signal kills.

    Raises:
        Stopped: A signal came, and the child has ended.
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
            child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
            if received:  # before there was a child to pass it on to
                child.send_signal(received[0])
            status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise Stopped(f"stopped by {signal.Signals(received[0]).name}: start again to go on")
    return status
