"""What every dataset of clips with questions is read into, and how its files are read.

Readers go on past a row that they cannot use, so that all problems are told at once: they add each, named by
its file and line, to a list of problems, and preparing refuses while that list holds any.
"""

import io
import pickle
import pickletools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sslssaw_jax.errors import UserError

SPLITS = ("train", "dev", "test")
_PROBLEMS_SHOWN = 10
_LONGEST_NAME = 200  # bytes: a file name has 255 at most, and ours get prefixes and suffixes

Row = TypeVar("Row", bound=tuple)
Item = TypeVar("Item")


class AnnotationError(UserError):
    """Rows cannot be read; `args` are the problems, each naming its file and line."""

    def __str__(self) -> str:
        shown = [str(problem) for problem in self.args[:_PROBLEMS_SHOWN]]
        if len(self.args) > _PROBLEMS_SHOWN:
            shown.append(f"and {len(self.args) - _PROBLEMS_SHOWN:,} more; --check lists all")
        return "\n".join(shown)


class MissingInputError(UserError):
    """A file of the dataset is not there; the message names it and where it comes from."""


class Sentence(NamedTuple):
    """What the corpus itself says of a clip."""

    name: str
    target: str
    gloss: str
    signer: str


class Question(NamedTuple):
    """A row of a question file; a field that it lacks is empty."""

    name: str
    target: str
    question: str
    gloss: str
    overlap: bool = False  # the file marks that the question is the target
    num_frames: int = 0  # 0: the file does not say


@dataclass(frozen=True)
class Annotation:
    """One clip: where its video lies, and its texts without outer spaces, glosses between single ones."""

    name: str
    video: Path  # a folder of frames or a video file
    question: str
    target: str
    gloss: str
    signer: str
    overlap: bool = False  # marked: the question is the target


@dataclass
class Annotations:
    """The clips of a split in order, for each kind of oddity the clips that show it, and all problems."""

    clips: list[Annotation] = field(default_factory=list)
    odd: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def note(self, oddity: str, name: str) -> None:
        self.odd.setdefault(oddity, []).append(name)


def read_rows(
    path: Path, parse: Callable[[str], Row], problems: list[str], *, header: str = ""
) -> dict[str, Row]:
    """`parse_rows` of the lines of a UTF-8 file, outer spaces removed; blank ones are passed over.

    A line that begins with `header` is passed over, too.
    """
    text = path.read_bytes().decode("utf-8-sig", errors="replace")  # `parse_rows` tells what was replaced
    lines = (
        (f"{path}, line {number}", line.strip())
        for number, line in enumerate(text.split("\n"), start=1)  # splitlines() also splits at U+2028
        if line.strip() and not (header and line.startswith(header))
    )
    return parse_rows(lines, parse, problems)


def parse_rows(
    items: Iterable[tuple[str, Item]], parse: Callable[[Item], Row], problems: list[str]
) -> dict[str, Row]:
    """The rows of a file by their first field, the clip's name, in order.

    Args:
      items: what is to be parsed, with its place in words.
      parse: gives the row of an item, or a ValueError that says what is wrong with it.
      problems: gets a line for each item without a usable row: `parse` refused it, its text is damaged, its
        name cannot be that of a file, or its clip had a row already.
    """
    rows: dict[str, Row] = {}
    for place, item in items:
        try:
            row = parse(item)
            _check_text(row)
            check_name(row[0])
            if row[0] in rows:
                raise ValueError(f"a second row for the clip {row[0]}")
            rows[row[0]] = row
        except ValueError as error:
            problems.append(f"{place}: {error}")
    return rows


def check_name(name: str) -> None:
    """Refuses a clip's name that is no plain name of a file, and so might lead out of its folder.

    Raises:
      ValueError: it is empty or too long, begins with a dot, or holds a slash or what cannot be printed.
    """
    plain = name.isprintable() and not name.startswith(".") and not {"/", "\\"} & set(name)
    if not name or not plain or len(name.encode()) > _LONGEST_NAME:
        raise ValueError(f"{name[:80]!r} cannot be the name of a clip: it is none of a file")


def _check_text(row: tuple) -> None:
    text = "".join(value for value in row if isinstance(value, str))
    if "\0" in text or "\ufffd" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("not UTF-8, or damaged; save the file as UTF-8")


def join(
    questions: Mapping[str, Question], corpus: Mapping[str, Sentence], frames: Path, found: Annotations
) -> None:
    """Adds the clips of a split in the order of its questions: the dataset is the one of the questions.

    Args:
      questions: of the split.
      corpus: decides on the texts of the clips that it knows.
      frames: holds a folder of frames for each clip.
      found: gets the clips, and what is odd about them.
    """
    for row in questions.values():
        known = corpus.get(row.name)
        target, question = (known.target if known else row.target), row.question
        if known and not row.target and question == target:  # name%text%question: only the gloss is missing
            question = row.gloss
        if not target:
            found.note("no sentence, left out", row.name)
            continue
        if not known:
            found.note("not in the corpus file, kept with the question file's texts", row.name)
        elif row.target and row.target != target:
            found.note("sentence differs from the corpus file's, which is kept", row.name)
        if not question:
            found.note("empty question, kept", row.name)
        gloss = " ".join((known.gloss if known else row.gloss).split())
        signer = known.signer if known else ""
        found.clips.append(
            Annotation(row.name, frames / row.name, question, target, gloss, signer, row.overlap)
        )


def find_questions(manual_dir: Path, release: Path, checkout_folder: str) -> Path:
    """The folder of question files: `questions/`, or that of a GBT-code checkout beside the release."""
    places = [
        manual_dir / "questions",
        release / "questions",
        manual_dir / checkout_folder,
        *sorted(manual_dir.glob(f"*/{checkout_folder}")),
    ]
    if (manual_dir / "test.txt").is_file():  # that folder itself
        places.append(manual_dir)
    return next(filter(Path.is_dir, places), places[0])


def read_pickle(path: Path, data: bytes) -> Any:
    """What a pickle of plain data holds: dictionaries, lists, tuples, texts, numbers. It cannot run code.

    Args:
      path: is named in errors.
      data: the pickle.

    Raises:
      AnnotationError: the pickle is damaged, or names a class or function.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            # the unpickler makes room for as many objects as the largest number says
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= len(data):
                raise pickle.UnpicklingError("it is damaged")
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # damaged bytes can be any wrong call of any opcode
        raise AnnotationError(f"{path}: no pickle of plain data: {error}") from None


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every name, so that nothing can be called."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds an object of {module}.{name}, which could run code")
