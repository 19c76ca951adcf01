import io
from types import SimpleNamespace

import numpy as np
import pytest

from sslssaw_jax.training import progress
from sslssaw_jax.training.progress import show_progress


class Screen(io.StringIO):
    """A terminal or a file."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def show(monkeypatch: pytest.MonkeyPatch, seconds: list[float], terminal: bool = False) -> str:
    """Return what is shown while batches of ten clips take some seconds each."""
    now, screen = [0.0], Screen(terminal)
    monkeypatch.setattr(progress.sys, "stderr", screen)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    batches = [SimpleNamespace(valid=np.arange(12) < 10) for _ in seconds]
    shown = show_progress(batches, 10 * len(batches), "translating test")
    for batch, given, passed in zip(shown, batches, seconds):
        assert batch is given
        now[0] += passed
    return screen.getvalue()


def test_the_first_batch_which_jax_compiles_in_counts_for_no_time_left(monkeypatch):
    shown = show(monkeypatch, [300.0, 30.0, 30.0, 30.0])
    assert shown.splitlines() == [
        "translating test: 20/40 clips  ETA 0:01:00",
        "translating test: 30/40 clips  ETA 0:00:30",
        "translating test: 40/40 clips  ETA 0:00:00",
    ]


def test_without_a_terminal_short_work_shows_nothing_and_long_work_a_line_each_half_minute(monkeypatch):
    assert show(monkeypatch, [300.0] + 29 * [1.0]) == ""
    assert len(show(monkeypatch, [300.0] + 100 * [1.0]).splitlines()) == 3
    assert show(monkeypatch, []) == ""


def test_a_terminal_shows_a_bar(monkeypatch):
    shown = show(monkeypatch, [1.0, 1.0], terminal=True)
    assert "translating test" in shown and "10/20" in shown
