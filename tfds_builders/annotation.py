"""Annotated clips, and readers of the files that hold their texts.

A reader skips each row that it cannot use and adds a line with its file and line number to a list of
problems, so that all problems are reported together. Preparing is refused unless that list is empty.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sslssaw_jax.data.clips import check_name
from sslssaw_jax.data.pickled_arrays import read_plain_pickle
from sslssaw_jax.errors import UserError

SPLITS = ("train", "dev", "test")
_PROBLEMS_SHOWN = 10
_MAX_BYTES = 2**29  # of an annotation file, unpacked
LONGEST_TEXT = 10_000  # characters

Row = TypeVar("Row", bound=tuple)
Item = TypeVar("Item")


class AnnotationError(UserError):
    """An error about unusable annotations; each of `args` is one problem."""

    def __str__(self) -> str:
        shown = [str(problem) for problem in self.args[:_PROBLEMS_SHOWN]]
        if len(self.args) > _PROBLEMS_SHOWN:
            shown.append(f"and {len(self.args) - _PROBLEMS_SHOWN:,} more; --check lists all")
        return "\n".join(shown)


class MissingInputError(UserError):
    """An error that names each missing file and its source."""


class Sentence(NamedTuple):
    """A row of a corpus file."""

    name: str
    target: str
    gloss: str
    signer: str
    num_frames: int = 0  # 0: not in the file


class Question(NamedTuple):
    """A row of a question file; an absent field is empty."""

    name: str
    target: str
    question: str
    gloss: str
    overlap: bool = False  # the file marks the question as equal to the target
    num_frames: int = 0  # 0: not in the file


class SplitFiles(NamedTuple):
    """The files of a split."""

    questions: Path
    corpus: Path
    frames: Path  # holds a folder of frames for each clip


@dataclass(frozen=True)
class Annotation:
    """A clip with its texts; glosses are separated by single spaces."""

    name: str
    video: Any  # for the builder's `clip_reader`: if not rendered, a folder, a file or a `Segment`
    question: str
    target: str
    gloss: str
    signer: str
    overlap: bool = False  # the annotations mark the question as equal to the target
    num_frames: int = 0  # from the annotations; 0 if they do not say


@dataclass
class Annotations:
    """The clips of a split in order, with problems and oddities."""

    clips: list[Annotation] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # clips left out, which are not among `clips`
    odd: dict[str, list[str]] = field(default_factory=dict)  # the clips that show each oddity
    unreadable: list[Path] = field(default_factory=list)  # files of frames
    problems: list[str] = field(default_factory=list)  # preparing is refused if there are any

    def note(self, oddity: str, name: str) -> None:
        """Note an oddity of a clip."""
        self.odd.setdefault(oddity, []).append(name)

    def leave_out(self, reason: str, name: str) -> None:
        """Note why a clip is missing."""
        self.missing.append(name)
        self.note(f"{reason}, left out", name)


def read_rows(
    path: Path, parse: Callable[[str], Row], problems: list[str], *, header: str = ""
) -> dict[str, Row]:
    """Parse the lines of a UTF-8 file without outer spaces; see `parse_rows`.

    Blank lines and lines that begin with `header` are skipped.
    """
    text = path.read_bytes().decode("utf-8-sig", errors="replace")  # `parse_rows` reports what was replaced
    lines = (
        (f"{path}, line {number}", line.strip())
        for number, line in enumerate(text.split("\n"), start=1)  # splitlines() also splits at U+2028
        if line.strip() and not (header and line.startswith(header))
    )
    return parse_rows(lines, parse, problems)


def read_pickled_rows(
    path: Path,
    find_entries: Callable[[Any], Iterable[Any]],
    parse: Callable[[Any], Row],
    problems: list[str],
) -> dict[str, Row]:
    """Parse the entries of a pickle, gzipped or not; see `parse_rows`.

    `find_entries` returns the entries in the pickled object, or raises a ValueError.
    """
    try:
        entries = list(find_entries(read_plain_pickle(path, _MAX_BYTES)))
    except ValueError as error:
        problems.append(f"{path}: {error}")
        return {}
    places = (f"{path}, entry {number}" for number in range(1, len(entries) + 1))
    return parse_rows(zip(places, entries), parse, problems)


def parse_rows(
    items: Iterable[tuple[str, Item]], parse: Callable[[Item], Row], problems: list[str]
) -> dict[str, Row]:
    """Return the usable rows of a file, in order, by clip name.

    Args:
        items: The items to parse, each with its place in words.
        parse: Returns a row whose first field is the clip's name, or raises a ValueError.
        problems: Receives a line for each item that `parse` refuses, whose text is damaged, whose name cannot
            be a file name, or whose clip already has a row.
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


def split_fields(line: str, form: str) -> list[str]:
    """Return the fields of a line in a form such as `name|split`.

    Raises:
        ValueError: The line has more or fewer fields.
    """
    fields = [field.strip() for field in line.split("|")]
    if len(fields) != form.count("|") + 1:
        raise ValueError(f"expected {form}, found {len(fields)} fields: {line[:80]!r}")
    return fields


def _check_text(row: tuple) -> None:
    texts = [value for value in row if isinstance(value, str)]
    if any(len(text) > LONGEST_TEXT for text in texts):
        raise ValueError(f"a text of more than {LONGEST_TEXT:,} characters")
    text = "".join(texts)
    if "\0" in text or "\ufffd" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("not UTF-8, or damaged; save the file as UTF-8")


def merge_annotations(
    files: SplitFiles, questions: Mapping[str, Question], corpus: Mapping[str, Sentence], found: Annotations
) -> None:
    """Add a split's clips in the order of its questions.

    The texts of the corpus file, if any, replace those of the question file.
    """
    for row in questions.values():
        known = corpus.get(row.name)
        target, question = (known.target if known else row.target), row.question
        if known and not row.target and question == target:  # name%text%question: only the gloss is missing
            question = row.gloss
        if not target:
            found.leave_out("no sentence", row.name)
            continue
        if corpus and not known:
            found.note("not in the corpus file, kept with the question file's texts", row.name)
        elif row.target and row.target != target:
            found.note("sentence differs from the corpus file's, which is kept", row.name)
        if not question:
            found.note("empty question, kept", row.name)
        gloss = " ".join((known.gloss if known else row.gloss).split())
        signer = known.signer if known else ""
        num_frames = (known.num_frames if known else 0) or row.num_frames
        video = files.frames / row.name
        found.clips.append(
            Annotation(row.name, video, question, target, gloss, signer, row.overlap, num_frames)
        )
    if not found.clips and not found.problems:
        found.problems.append(f"{files.questions} holds no usable row")


def find_questions(
    manual_dir: Path, release: Path, checkout_folder: str, test_file: str = "test.txt"
) -> Path:
    """Return the folder of question files: `questions/`, or a GBT-code checkout's."""
    places = [
        manual_dir / "questions",
        release / "questions",
        manual_dir / checkout_folder,
        *sorted(manual_dir.glob(f"*/{checkout_folder}")),
    ]
    if (manual_dir / test_file).is_file():  # the user named the checkout's own folder
        places.append(manual_dir)
    return first_existing(places)


def first_existing(paths: list[Path]) -> Path:
    """Return the first path that exists, otherwise the first path."""
    return next(filter(Path.exists, paths), paths[0])


def require(files: Mapping[Path, str], folders: Mapping[Path, str] | None = None) -> None:
    """Check that all files and folders are there.

    Args:
        files: The source of each file in words.
        folders: The source of each folder in words.

    Raises:
        MissingInputError: Some are not there; each is named with its source.
    """
    missing = [f"there is no file {path}. {source}" for path, source in files.items() if not path.is_file()]
    for path, source in (folders or {}).items():
        if not path.is_dir():
            missing.append(f"there is no folder {path}. {source}")
    if missing:
        raise MissingInputError("\n".join(missing))


def read_labels(path: Path, problems: list[str]) -> dict[str, Sentence]:
    """Read `labels.<split>` of the parent project by `parse_rows`."""
    return read_pickled_rows(path, _labels, _parse_label, problems)


def _labels(content: Any) -> Iterable[Any]:
    if not isinstance(content, dict):
        raise ValueError(f"expected a dictionary of clips, found a {type(content).__name__}")
    return content.values()


def _parse_label(label: Any) -> Sentence:
    match label:
        case {"name": str(name), "text": str(text), "gloss": str(gloss), **other}:
            return Sentence(name.rpartition("/")[2], text.strip(), gloss.strip(), "", count_frames(other))
    raise ValueError("expected a dictionary with the texts name, text and gloss")


def count_frames(entry: Mapping[Any, Any]) -> int:
    """Return the `length` in a clip's entry, otherwise 0."""
    length = entry.get("length")
    return length if isinstance(length, int) else 0
