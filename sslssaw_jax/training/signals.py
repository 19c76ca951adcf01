"""SIGTERM and SIGINT as requests to stop at a point where the run can resume.

This module imports nothing that takes time, so that signals are handled from the start of a program.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
REPEATED = 1.0
"""Seconds after a first signal in which another counts as the same.

A launcher's signal comes directly and from the parent, which passes it on.
"""


class Stopped(BaseException):
    """The end of a run that was asked to stop.

    Like `KeyboardInterrupt`, not an `Exception`: no library's `except Exception` may swallow it.

    Attributes:
        status: The exit status, as in a shell: 128 + the signal. It is not 0, since the next command of a
            script would then continue with an unfinished run.
    """

    def __init__(self, number: int, where: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}{where}: start again to continue")
        self.status = 128 + number


class StopRequest:
    """A listener for signals that ask the program to stop.

    The first signal ends the process immediately, unless it is deferred; a second signal kills it.
    A thread ends the process: an exception in the middle of tracing, or an interpreter that shuts down while
    XLA compiles, would crash. With several processes, JAX listens for SIGTERM itself, and all processes stop
    after the same step.

        stop = StopRequest()
        stop.listen()
        with stop.deferred():
            for step in ...:
                ...
                if stop.reached():
                    ...  # save
                    stop.now()

    Without `listen`, no signal makes a request, as a library needs it.
    """

    def __init__(self) -> None:
        self._number = 0  # of the signal received
        self._asked = 0
        self._asks_jax = self._training = self._deferred = False
        self._finish: Callable[[], object] = lambda: None  # called before the process ends

    def listen(self) -> None:
        """Handle signals until the program ends."""
        signals, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        for number in SIGNALS:
            signal.signal(number, self._receive)
        signal.set_wakeup_fd(self._wakeup.fileno())
        threading.Thread(target=self._watch, args=(signals,), daemon=True).start()

    def leave_to_jax(self) -> None:
        """Leave SIGTERM to JAX; a SIGINT during training becomes a SIGTERM."""
        self._asks_jax = True

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._asks_jax:  # otherwise processes would stop after different steps
            self._number = number

    def _watch(self, signals: socket.socket) -> None:
        """Handle signals, even while the main thread compiles."""
        number = next(byte for byte in iter(lambda: signals.recv(1)[0], None) if byte in SIGNALS)
        began = time.monotonic()
        ask_jax = self._asks_jax and self._training
        if ask_jax or self._deferred:
            # print is not reentrant, and the signal may have interrupted one
            name = signal.Signals(number).name
            os.write(2, f"\n{name}: stopping after this step; once more to stop immediately\n".encode())
        if ask_jax:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._number = number
            if not self._deferred:
                threading.Thread(target=self._end, daemon=True).start()
        while (number := signals.recv(1)[0]) not in SIGNALS or time.monotonic() < began + REPEATED:
            pass
        os._exit(128 + number)

    def _end(self) -> None:
        """End the process once everything is written."""
        try:
            self._finish()
            stopped = self._stopped()
            print(stopped, flush=True)
            os._exit(stopped.status)
        except Exception as error:  # such as a full disk; otherwise the run would go on
            os.write(2, f"error: {error}\n".encode())
        os._exit(1)

    def reached(self) -> bool:
        """Return whether to stop now; all processes must ask after every step."""
        from jax.experimental import multihost_utils

        # JAX stops at one number only, so numbers must neither restart with a stage nor skip any
        self._asked += 1
        return bool(self._number) or multihost_utils.reached_preemption_sync_point(self._asked)

    def now(self, where: str = "") -> None:
        """Raise `Stopped`."""
        raise self._stopped(where)

    def _stopped(self, where: str = "") -> Stopped:
        return Stopped(self._number or signal.SIGTERM, where)  # JAX reports only SIGTERM

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer a signal in this block to `reached` or the block's end."""
        self._training = self._deferred = True
        try:
            yield
        finally:
            self._training = self._deferred = False
        if self._number:
            self.now()

    @contextmanager
    def at_once(self, finish: Callable[[], object]) -> Iterator[None]:
        """Let a signal in this block end the process.

        Args:
            finish: Called before the process ends.

        Raises:
            Stopped: A signal came before.
        """
        before = self._deferred, self._finish
        self._deferred, self._finish = False, finish
        try:
            if self._number:
                self.now()
            yield
        finally:
            self._deferred, self._finish = before
