"""Examples to try on the page: clips of the test split, each with two questions."""

from pathlib import Path
from typing import NamedTuple


class Example(NamedTuple):
    """A question to try, with the clip that answers it."""

    question: str
    video: Path
