"""The text files of PHOENIX-2014T-QA: where they lie, and how their rows read.

The release of PHOENIX-2014T has one corpus file a split, `name|video|start|end|speaker|orth|translation`.
The question files of GBT-code have one row a clip, `split/NAME TEXT%QUESTION%GLOSS`; the forms
`name%text%question%gloss` and rows that lack their last fields are in the wild too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SPLITS = ("train", "dev", "test")
FRAMES = "features/fullFrame-210x260px"
ANNOTATIONS = "annotations/manual"
QUESTIONS = "questions"
CORPUS_HEADER = "name|video|start|end|speaker|orth|translation"

_RELEASE_FOLDERS = (".", "PHOENIX-2014-T", "PHOENIX-2014-T-release-v3/PHOENIX-2014-T")
_GBT_FOLDER = "DatasetFile/dialogue_pheonix"
RELEASE_SOURCE = (
    "PHOENIX-2014T is released by RWTH Aachen: "
    "https://www-i6.informatik.rwth-aachen.de/~koller/RWTH-PHOENIX-2014-T/"
)
QUESTION_SOURCE = (
    f"The question files are those of {_GBT_FOLDER} in https://github.com/glq-1992/GBT-code: "
    f"put train.txt, dev.txt and test.txt into {QUESTIONS}/, or the whole checkout beside the release"
)


class AnnotationError(ValueError):
    """A row cannot be read; the message names the file and the line."""


class MissingInputError(FileNotFoundError):
    """A file of the dataset is not there; the message names it and where it comes from."""


class CorpusRow(NamedTuple):
    """A row of a corpus file."""

    name: str
    video: str
    start: str
    end: str
    speaker: str
    orth: str
    translation: str


class QuestionRow(NamedTuple):
    """A row of a question file; a field that it lacks is empty."""

    name: str
    target: str
    question: str
    gloss: str


@dataclass(frozen=True)
class Annotation:
    """The texts of one clip, outer spaces removed; glosses are separated by single spaces."""

    name: str
    question: str
    target: str
    gloss: str
    signer: str


@dataclass(frozen=True)
class Layout:
    """Where the files of the release and of the questions lie."""

    release: Path
    questions: Path

    def frames(self, split: str) -> Path:
        """The folder that holds a folder of frames for each clip."""
        return self.release / FRAMES / split

    def corpus_file(self, split: str) -> Path:
        return self.release / ANNOTATIONS / f"PHOENIX-2014-T.{split}.corpus.csv"

    def question_file(self, split: str) -> Path:
        return self.questions / f"{split}.txt"


def find_layout(manual_dir: Path) -> Layout:
    """The files below `manual_dir`, which is the release's root or holds it.

    Raises:
      MissingInputError: a file or folder that the dataset needs is not there.
    """
    releases = [manual_dir / folder for folder in _RELEASE_FOLDERS]
    release = next((folder for folder in releases if (folder / "annotations").is_dir()), manual_dir)
    questions = [
        manual_dir / QUESTIONS,
        release / QUESTIONS,
        manual_dir / _GBT_FOLDER,
        *sorted(manual_dir.glob(f"*/{_GBT_FOLDER}")),
    ]
    layout = Layout(release, next(filter(Path.is_dir, questions), questions[0]))
    for split in SPLITS:
        if not layout.corpus_file(split).is_file():
            raise MissingInputError(f"there is no file {layout.corpus_file(split)}. {RELEASE_SOURCE}")
        if not layout.question_file(split).is_file():
            raise MissingInputError(f"there is no file {layout.question_file(split)}. {QUESTION_SOURCE}")
        if not layout.frames(split).is_dir():
            raise MissingInputError(f"there is no folder {layout.frames(split)}. {RELEASE_SOURCE}")
    return layout


def read_corpus(path: Path) -> dict[str, CorpusRow]:
    """The rows of a corpus file by clip name, with or without its header; quotes mean nothing in it."""
    rows: dict[str, CorpusRow] = {}
    for number, line in _lines(path):
        if line == CORPUS_HEADER:
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != len(CorpusRow._fields) or not fields[0]:
            raise AnnotationError(
                f"{path}, line {number}: expected {CORPUS_HEADER}, found {len(fields)} fields: {line[:80]!r}"
            )
        if fields[0] in rows:
            raise AnnotationError(f"{path}, line {number}: a second row for the clip {fields[0]}")
        rows[fields[0]] = CorpusRow(*fields)
    return rows


def read_questions(path: Path, split: str) -> list[QuestionRow]:
    """The rows of a question file, in order, whichever form they have.

    Raises:
      AnnotationError: a row that has neither form, of another split, or of a clip that had a row already.
    """
    rows: dict[str, QuestionRow] = {}
    for number, line in _lines(path):
        if line == "name%text%question%gloss":
            continue
        head, *fields = (field.strip() for field in line.split("%"))
        prefix, slash, rest = head.partition("/")
        if slash and prefix != split:
            raise AnnotationError(f"{path}, line {number}: a row of {prefix!r} in the file of {split!r}")
        name, space, target = (rest if slash else head).partition(" ")
        if not space and (len(fields) == 3 or not slash):  # name%text%question%gloss
            target, *fields = fields or [""]
        if not name or len(fields) > 2:
            raise AnnotationError(
                f"{path}, line {number}: expected split/NAME TEXT%QUESTION%GLOSS, found {line[:80]!r}"
            )
        if name in rows:
            raise AnnotationError(f"{path}, line {number}: a second row for the clip {name}")
        question, gloss = (*fields, "", "")[:2]
        rows[name] = QuestionRow(name, target.strip(), question, gloss)
    return list(rows.values())


def read_annotations(layout: Layout, split: str) -> tuple[list[Annotation], dict[str, list[str]]]:
    """The clips of a split in the order of its question file, and what was odd about them.

    The corpus file decides where both files have a text. A clip without a question row is left out:
    the dataset is the one of the questions.

    Returns:
      the annotations, and for each kind of oddity the names of the clips that show it.

    Raises:
      AnnotationError: a row cannot be read, or no row is left.
    """
    corpus = read_corpus(layout.corpus_file(split))
    questions = read_questions(layout.question_file(split), split)
    annotations = []
    odd: dict[str, list[str]] = {}
    for row in questions:
        known = corpus.get(row.name)
        target = known.translation if known else row.target
        if not target:
            odd.setdefault("no sentence, left out", []).append(row.name)
            continue
        if not known:
            odd.setdefault("not in the corpus file, kept with the question file's texts", []).append(row.name)
        elif row.target and row.target != target:
            odd.setdefault("sentence differs from the corpus file's, which is kept", []).append(row.name)
        if not row.question:
            odd.setdefault("empty question, kept", []).append(row.name)
        gloss = " ".join((known.orth if known else row.gloss).split())
        signer = known.speaker if known else ""
        annotations.append(Annotation(row.name, row.question, target, gloss, signer))
    without_question = corpus.keys() - {row.name for row in questions}
    if without_question:
        odd["no row in the question file, left out"] = sorted(without_question)
    if not annotations:
        raise AnnotationError(f"{layout.question_file(split)} holds no usable row")
    return annotations, odd


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise AnnotationError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None
    for number, raw_line in enumerate(text.split("\n"), start=1):  # splitlines() also splits at U+2028
        if raw_line.strip():
            yield number, raw_line.strip()
