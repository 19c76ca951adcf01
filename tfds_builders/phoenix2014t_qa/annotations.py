"""The files of PHOENIX-2014T-QA: where they lie, and how their rows read.

The release of PHOENIX-2014T has one corpus file a split, `name|video|start|end|speaker|orth|translation`; in
its place there may be the parent project's gzipped pickle `labels.<split>`, a dictionary of dictionaries.
The question files of GBT-code have one row a clip, `split/NAME TEXT%QUESTION%GLOSS`; the forms
`name%text%question%gloss` and rows that lack their last fields are in the wild too.
"""

import functools
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfds_builders.annotation import (
    SPLITS,
    AnnotationError,
    Annotations,
    MissingInputError,
    Question,
    Sentence,
    find_questions,
    join,
    parse_rows,
    read_pickle,
    read_rows,
)

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


@dataclass(frozen=True)
class Layout:
    """Where the files of the release and of the questions lie."""

    release: Path
    questions: Path

    def frames(self, split: str) -> Path:
        """The folder that holds a folder of frames for each clip, whatever the frames' size."""
        official = self.release / FRAMES / split
        others = sorted(self.release.glob(f"features/fullFrame-*px/{split}"))
        return official if official.is_dir() or not others else others[0]

    def corpus_file(self, split: str) -> Path:
        """The release's own, or the parent project's labels where only they are there."""
        official = self.release / ANNOTATIONS / f"PHOENIX-2014-T.{split}.corpus.csv"
        labels = [folder / f"labels.{split}" for folder in (official.parent, self.release)]
        return next(filter(Path.is_file, (official, *labels)), official)

    def question_file(self, split: str) -> Path:
        return self.questions / f"{split}.txt"


def find_layout(manual_dir: Path, *, text_only: bool = False) -> Layout:
    """The files below `manual_dir`, which is the release's root or holds it.

    With `text_only` the question files are enough, which hold the sentences too.

    Raises:
      MissingInputError: files or folders that the dataset needs are not there; all of them are named.
    """
    releases = [manual_dir / folder for folder in _RELEASE_FOLDERS]
    release = next((folder for folder in releases if (folder / "annotations").is_dir()), manual_dir)
    layout = Layout(release, find_questions(manual_dir, release, _GBT_FOLDER))
    missing = []
    for split in SPLITS:
        if not text_only and not layout.corpus_file(split).is_file():
            missing.append(f"there is no file {layout.corpus_file(split)}. {RELEASE_SOURCE}")
        if not layout.question_file(split).is_file():
            missing.append(f"there is no file {layout.question_file(split)}. {QUESTION_SOURCE}")
        if not text_only and not layout.frames(split).is_dir():
            missing.append(f"there is no folder {layout.frames(split)}. {RELEASE_SOURCE}")
    if missing:
        raise MissingInputError("\n".join(missing))
    return layout


def read_corpus(path: Path, problems: list[str]) -> dict[str, Sentence]:
    """The sentences of a corpus file or of the parent project's labels by clip name; see `read_rows`."""
    if path.name.startswith("labels."):
        return parse_rows(_labels(path, problems), _parse_label, problems)
    return read_rows(path, _parse_sentence, problems, header=CORPUS_HEADER)


def read_questions(path: Path, split: str, problems: list[str]) -> dict[str, Question]:
    """The rows of a question file by clip name, in order, whichever form they have; see `read_rows`."""
    parse = functools.partial(_parse_question, split=split)
    return read_rows(path, parse, problems, header="name%text%")


def read_annotations(layout: Layout, split: str) -> Annotations:
    """The clips of a split in the order of its question file; see `join`."""
    found = Annotations()
    corpus_file = layout.corpus_file(split)
    corpus = read_corpus(corpus_file, found.problems) if corpus_file.is_file() else {}
    questions = read_questions(layout.question_file(split), split, found.problems)
    join(questions, corpus, layout.frames(split), found)
    without_question = corpus.keys() - questions.keys()
    if without_question:
        found.odd["no row in the question file, left out"] = sorted(without_question)
    if not found.clips and not found.problems:
        found.problems.append(f"{layout.question_file(split)} holds no usable row")
    return found


def _parse_sentence(line: str) -> Sentence:
    """Of a corpus file; quotes mean nothing in it."""
    fields = [field.strip() for field in line.split("|")]
    if len(fields) != CORPUS_HEADER.count("|") + 1:
        raise ValueError(f"expected {CORPUS_HEADER}, found {len(fields)} fields: {line[:80]!r}")
    name, _, _, _, speaker, orth, translation = fields
    return Sentence(name, translation, orth, speaker)


def _labels(path: Path, problems: list[str]) -> Iterator[tuple[str, Any]]:
    try:
        labels = read_pickle(path, gzip.decompress(path.read_bytes()))
        if not isinstance(labels, dict):
            raise AnnotationError(f"{path}: expected a dictionary of clips, found a {type(labels).__name__}")
        for number, label in enumerate(labels.values(), start=1):
            yield f"{path}, entry {number}", label
    except AnnotationError as error:
        problems += error.args
    except (OSError, EOFError, zlib.error) as error:
        problems.append(f"{path}: no gzipped file: {error}")


def _parse_label(label: Any) -> Sentence:
    match label:
        case {"name": str(name), "text": str(text), "gloss": str(gloss)}:
            return Sentence(name.rpartition("/")[2], text.strip(), gloss.strip(), "")
    raise ValueError("expected a dictionary with the texts name, text and gloss")


def _parse_question(line: str, split: str) -> Question:
    head, *fields = (field.strip() for field in line.split("%"))
    prefix, slash, rest = head.partition("/")
    if slash and prefix != split:
        raise ValueError(f"a row of {prefix[:80]!r} in the file of {split!r}")
    name, space, target = (rest if slash else head).partition(" ")
    if not space and (len(fields) == 3 or not slash):  # name%text%question%gloss
        target, *fields = fields or [""]
    if not name or len(fields) > 2:
        raise ValueError(f"expected split/NAME TEXT%QUESTION%GLOSS, found {line[:80]!r}")
    question, gloss = (*fields, "", "")[:2]
    return Question(name, target.strip(), question, gloss)
