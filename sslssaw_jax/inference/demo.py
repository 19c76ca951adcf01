"""The small trained model that comes with the package, and clips to try it on."""

from pathlib import Path
from typing import NamedTuple

from sslssaw_jax.workdir import DamagedFileError, is_inside, read_jsonl

DEMO = Path(__file__).parent / "demo_model"  # `python -m benchmarks.ship_demo` makes it
EXAMPLES = "examples.jsonl"


class Example(NamedTuple):
    """A clip of the demo's test split, a question, and the sentence that answers it."""

    video: Path
    question: str
    text: str


def read_examples(folder: Path = DEMO) -> list[Example]:
    """Return the examples of a model folder.

    The demo's first two are the same clip with two questions.

    Raises:
        DamagedFileError: A line lacks a text, or its video is not a file in the folder.
    """
    examples = []
    for number, row in enumerate(read_jsonl(folder / EXAMPLES), 1):
        line = f"{folder / EXAMPLES}, line {number}"
        if lacking := [key for key in Example._fields if not isinstance(row.get(key), str)]:
            raise DamagedFileError(f"{line} has no text {', '.join(lacking)}")
        video = folder / row["video"]
        if not (video.is_file() and is_inside(folder, video)):
            raise DamagedFileError(f"{line}: {row['video']!r} is not a file in {folder}, or leads out of it")
        examples.append(Example(video, row["question"], row["text"]))
    return examples
