"""A bar in redirected output is a few lines, however long the work takes."""

import re

import pytest

from sslssaw_jax.data.progress import progress_bar


def test_redirected_progress_is_drawn_twice_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    for _ in progress_bar(range(100), "rendering"):
        now[0] += 5.0
    drawn = [int(number) for number in re.findall(r"rendering:[^\r]* (\d+)/100 \[", capsys.readouterr().err)]
    assert drawn == [0, *range(6, 100, 6), 100]
