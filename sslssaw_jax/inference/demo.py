"""The small trained model that comes with the package, and clips to try it on."""

from pathlib import Path
from typing import NamedTuple

from sslssaw_jax.workdir import read_jsonl

DEMO = Path(__file__).parent / "demo_model"  # `python -m benchmarks.ship_demo` makes it
EXAMPLES = "examples.jsonl"


class Example(NamedTuple):
    """A clip of the demo's test split, a question, and the sentence that answers it."""

    video: Path
    question: str
    text: str


def read_examples(folder: Path = DEMO) -> list[Example]:
    """Return the examples of a model folder.

    The demo's first two are one clip with two questions.
    """
    rows = read_jsonl(folder / EXAMPLES)
    return [Example(folder / row["video"], row["question"], row["text"]) for row in rows]
