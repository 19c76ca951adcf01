"""The text files of PHOENIX-2014T-QA: where they lie, and how their rows read.

The release of PHOENIX-2014T has one corpus file a split, `name|video|start|end|speaker|orth|translation`.
The question files of GBT-code have one row a clip, `split/NAME TEXT%QUESTION%GLOSS`; the forms
`name%text%question%gloss` and rows that lack their last fields are in the wild too.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tfds_builders.annotation import Annotation, AnnotationError, Annotations, MissingInputError, lines

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
    for number, line in lines(path):
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
    for number, line in lines(path):
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


def read_annotations(layout: Layout, split: str) -> Annotations:
    """The clips of a split in the order of its question file.

    The corpus file decides where both files have a text. A clip without a question row is left out:
    the dataset is the one of the questions.

    Raises:
      AnnotationError: a row cannot be read, or no row is left.
    """
    corpus = read_corpus(layout.corpus_file(split))
    questions = read_questions(layout.question_file(split), split)
    found = Annotations()
    for row in questions:
        known = corpus.get(row.name)
        target = known.translation if known else row.target
        if not target:
            found.note("no sentence, left out", row.name)
            continue
        if not known:
            found.note("not in the corpus file, kept with the question file's texts", row.name)
        elif row.target and row.target != target:
            found.note("sentence differs from the corpus file's, which is kept", row.name)
        if not row.question:
            found.note("empty question, kept", row.name)
        gloss = " ".join((known.orth if known else row.gloss).split())
        signer = known.speaker if known else ""
        video = layout.frames(split) / row.name
        found.clips.append(Annotation(row.name, video, row.question, target, gloss, signer))
    without_question = corpus.keys() - {row.name for row in questions}
    if without_question:
        found.odd["no row in the question file, left out"] = sorted(without_question)
    if not found.clips:
        raise AnnotationError(f"{layout.question_file(split)} holds no usable row")
    return found
