"""Progress of work on a dataset: bars that leave redirected output readable."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS_A_LINE = 30  # of progress if no terminal shows a bar


def progress_bar(items: Iterable[Any] | None, what: str, **options: Any) -> tqdm:
    """Return a bar over clips, drawn rarely unless a terminal shows it."""
    seconds = 0.1 if sys.stderr.isatty() else SECONDS_A_LINE
    # after `maxinterval`, a thread of tqdm's draws the bar in any case
    return tqdm(items, what, unit="clip", mininterval=seconds, maxinterval=max(10, seconds), **options)
