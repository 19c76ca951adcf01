"""What every dataset of clips with questions is read into, and the errors of reading one."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


class AnnotationError(ValueError):
    """A row cannot be read; the message names the file and the line."""


class MissingInputError(FileNotFoundError):
    """A file of the dataset is not there; the message names it and where it comes from."""


@dataclass(frozen=True)
class Annotation:
    """One clip: where its video lies, and its texts without outer spaces, glosses between single ones."""

    name: str
    video: Path  # a folder of frames or a video file
    question: str
    target: str
    gloss: str
    signer: str


@dataclass
class Annotations:
    """The clips of a split in order, and for each kind of oddity the names of the clips that show it."""

    clips: list[Annotation] = field(default_factory=list)
    odd: dict[str, list[str]] = field(default_factory=dict)

    def note(self, oddity: str, name: str) -> None:
        self.odd.setdefault(oddity, []).append(name)


def read_text(path: Path) -> str:
    """A UTF-8 file, its line ends as they are.

    Raises:
      AnnotationError: the file is not UTF-8.
    """
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise AnnotationError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file that are not blank, outer spaces removed, with their numbers from 1.

    Raises:
      AnnotationError: the file is not UTF-8.
    """
    for number, raw_line in enumerate(
        read_text(path).split("\n"), start=1
    ):  # splitlines() also splits at U+2028
        if raw_line.strip():
            yield number, raw_line.strip()
