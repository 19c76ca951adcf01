"""The files of PHOENIX-2014T-QA: where they lie, and how their rows read.

The release of PHOENIX-2014T has one corpus file a split, `name|video|start|end|speaker|orth|translation`. The
parent project's gzipped pickle `labels.<split>`, a dictionary of dictionaries, may stand in its place. The
question files of GBT-code have one row a clip, `split/NAME TEXT%QUESTION%GLOSS`; some copies have the form
`name%text%question%gloss`, or rows that lack their last fields.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfds_builders.annotation import (
    SPLITS,
    Annotations,
    Question,
    Sentence,
    find_questions,
    first_existing,
    merge_annotations,
    read_pickled_rows,
    read_rows,
    require,
    split_fields,
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
    """The places of the release's and the questions' files."""

    release: Path
    questions: Path

    def frames(self, split: str) -> Path:
        """Return the folder of a split's clips, whatever the size of their frames."""
        others = sorted(self.release.glob(f"features/fullFrame-*px/{split}"))
        return first_existing([self.release / FRAMES / split, *others])

    def corpus_file(self, split: str) -> Path:
        """Return the release's corpus file, or the parent project's labels if only they are there."""
        folder = self.release / ANNOTATIONS
        official = folder / f"PHOENIX-2014-T.{split}.corpus.csv"
        return first_existing([official, folder / f"labels.{split}", self.release / f"labels.{split}"])

    def question_file(self, split: str) -> Path:
        """Return the question file of a split."""
        return self.questions / f"{split}.txt"


def find_layout(manual_dir: Path, *, text_only: bool = False) -> Layout:
    """Find the files in the release's root or the folder that holds it.

    Args:
        manual_dir: The folder.
        text_only: Require only the question files, which hold the sentences too.

    Raises:
        MissingInputError: Required files or folders are not there; all of them are named.
    """
    releases = [manual_dir / folder for folder in _RELEASE_FOLDERS]
    release = next((folder for folder in releases if (folder / "annotations").is_dir()), manual_dir)
    layout = Layout(release, find_questions(manual_dir, release, _GBT_FOLDER))
    files = {layout.question_file(split): QUESTION_SOURCE for split in SPLITS}
    folders = {}
    if not text_only:
        files |= {layout.corpus_file(split): RELEASE_SOURCE for split in SPLITS}
        folders = {layout.frames(split): RELEASE_SOURCE for split in SPLITS}
    require(files, folders)
    return layout


def read_corpus(path: Path, problems: list[str]) -> dict[str, Sentence]:
    """Read a corpus file or the parent project's labels by clip name; see `parse_rows`."""
    if path.name.startswith("labels."):
        return read_pickled_rows(path, _labels, _parse_label, problems)
    return read_rows(path, _parse_sentence, problems, header=CORPUS_HEADER)


def read_questions(path: Path, split: str, problems: list[str]) -> dict[str, Question]:
    """Read a question file of any form in order by clip name; see `parse_rows`."""
    parse = functools.partial(_parse_question, split=split)
    return read_rows(path, parse, problems, header="name%text%")


def read_annotations(layout: Layout, split: str) -> Annotations:
    """Read the clips of a split in the order of its question file; see `merge_annotations`."""
    found = Annotations()
    corpus_file, question_file = layout.corpus_file(split), layout.question_file(split)
    corpus = read_corpus(corpus_file, found.problems) if corpus_file.is_file() else {}
    questions = read_questions(question_file, split, found.problems)
    merge_annotations(questions, corpus, layout.frames(split), found, question_file)
    for name in sorted(corpus.keys() - questions.keys()):
        found.note("no row in the question file, left out", name)
    return found


def _parse_sentence(line: str) -> Sentence:
    """Parse a row of a corpus file, in which quotes are letters."""
    name, _, _, _, speaker, orth, translation = split_fields(line, CORPUS_HEADER)
    return Sentence(name, translation, orth, speaker)


def _labels(content: Any) -> Iterable[Any]:
    if not isinstance(content, dict):
        raise ValueError(f"expected a dictionary of clips, found a {type(content).__name__}")
    return content.values()


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
