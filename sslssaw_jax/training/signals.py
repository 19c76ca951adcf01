"""SIGTERM and SIGINT as requests to stop where the run can continue."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """The end of a run that was asked to stop.

    Like `KeyboardInterrupt`, not an `Exception`: no library's `except Exception` may swallow it.
    """


class StopRequest:
    """A context in which a signal asks the run to stop.

    The first signal raises `Stopped` at once, unless it is deferred; a second signal kills. With several
    processes, JAX listens for SIGTERM itself, and all processes stop after the same step.

        with StopRequest() as stop:
            with stop.deferred():
                for step in ...:
                    ...
                    if stop.reached(step):
                        ...  # save
                        stop.now()
    """

    def __init__(self) -> None:
        self._name = ""  # of the signal that came
        self._deferred = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if jax.process_count() == 1:
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._name = signal.Signals(number).name
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if not self._deferred:
            self.now()
        # print is not reentrant, and the signal may have interrupted one
        os.write(2, f"\n{self._name}: stopping after this step; once more to stop at once\n".encode())

    def reached(self, step: int) -> bool:
        """Return whether to stop after `step`; all processes must ask every step."""
        return bool(self._name) or multihost_utils.reached_preemption_sync_point(step)

    def now(self, where: str = "") -> None:
        """Raise `Stopped`."""
        raise Stopped(f"stopped by {self._name or 'SIGTERM'}{where}: start again to go on")

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Make a signal in this block set `reached` only."""
        before, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = before

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Make an earlier signal, or a signal in this block, raise `Stopped`."""
        before, self._deferred = self._deferred, False
        try:
            if self._name:
                self.now()
            yield
        finally:
            self._deferred = before
