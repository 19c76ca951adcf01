"""SIGTERM and SIGINT as a request: the run ends where it can go on, not where it happens to be."""

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
    """The run was asked to stop, and did; the message says how to go on.

    As with `KeyboardInterrupt`, no library's `except Exception` may keep it.
    """


class StopRequest:
    """From entering on, a signal raises `Stopped` at once, unless that is deferred; a second one kills.

    With several processes JAX listens for SIGTERM itself, and all of them stop after the same step.

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
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if jax.process_count() == 1:
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._name = signal.Signals(number).name
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if not self._deferred:
            self.now()
        # the signal may have come in the middle of a print, which allows no other
        os.write(2, f"\n{self._name}: stopping after this step; once more to stop at once\n".encode())

    def reached(self, step: int) -> bool:
        """Whether the run is to stop after `step`, the same on all processes; asked once a step by all."""
        return bool(self._name) or multihost_utils.reached_preemption_sync_point(step)

    def now(self, where: str = "") -> None:
        """Raises `Stopped`."""
        raise Stopped(f"stopped by {self._name or 'SIGTERM'}{where}: start again to go on")

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """In here a signal only makes `reached` true."""
        before, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = before

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """In here a signal raises `Stopped` again, and so does one that came before."""
        before, self._deferred = self._deferred, False
        try:
            if self._name:
                self.now()
            yield
        finally:
            self._deferred = before
