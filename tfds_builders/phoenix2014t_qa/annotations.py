"""The files of PHOENIX-2014T-QA: where they are, and how to read their rows.

The release of PHOENIX-2014T has one corpus file per split, `name|video|start|end|speaker|orth|translation`.
The parent project's gzipped pickle `labels.<split>`, a dictionary of dictionaries, may replace it. The
question files of GBT-code have one row per clip, `split/NAME TEXT%QUESTION%GLOSS`; some copies have the
form `name%text%question%gloss`, or rows that lack their last fields.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

from tfds_builders.annotation import (
    SPLITS,
    Annotations,
    Question,
    Sentence,
    SplitFiles,
    find_questions,
    first_existing,
    merge_annotations,
    read_labels,
    read_rows,
    require,
    split_fields,
)

FRAMES = "features/fullFrame-210x260px"
ANNOTATIONS = "annotations/manual"
QUESTIONS = "questions"
CORPUS_FILE = "PHOENIX-2014-T.{split}.corpus.csv"
CORPUS_HEADER = "name|video|start|end|speaker|orth|translation"

_RELEASE_FOLDERS = (".", "PHOENIX-2014-T", "PHOENIX-2014-T-release-v3/PHOENIX-2014-T")
_GBT_FOLDER = "DatasetFile/dialogue_pheonix"
RELEASE_SOURCE = (
    "PHOENIX-2014T is released by RWTH Aachen: "
    "https://www-i6.informatik.rwth-aachen.de/~koller/RWTH-PHOENIX-2014-T/"
)
QUESTION_SOURCE = (
    f"The question files are in {_GBT_FOLDER} of https://github.com/glq-1992/GBT-code: "
    f"put train.txt, dev.txt and test.txt into {QUESTIONS}/, or the whole checkout next to the release"
)


def find_files(manual_dir: Path, *, text_only: bool = False) -> dict[str, SplitFiles]:
    """Find the files of each split in or below a folder.

    Args:
        manual_dir: The release's root, or the folder that holds it.
        text_only: Whether the question files, which also hold the sentences, are enough.

    Raises:
        MissingInputError: Required files or folders are not there; all of them are named.
    """
    releases = [manual_dir / folder for folder in _RELEASE_FOLDERS]
    release = next((folder for folder in releases if (folder / "annotations").is_dir()), manual_dir)
    questions = find_questions(manual_dir, release, _GBT_FOLDER)
    splits = {}
    for split in SPLITS:
        official = release / ANNOTATIONS / CORPUS_FILE.format(split=split)
        labels = [folder / f"labels.{split}" for folder in (official.parent, release)]  # the parent project's
        resized = sorted(release.glob(f"features/fullFrame-*px/{split}"))
        splits[split] = SplitFiles(
            questions=questions / f"{split}.txt",
            corpus=first_existing([official, *labels]),
            frames=first_existing([release / FRAMES / split, *resized]),
        )
    files = {found.questions: QUESTION_SOURCE for found in splits.values()}
    if text_only:
        require(files)
    else:
        files |= {found.corpus: RELEASE_SOURCE for found in splits.values()}
        require(files, {found.frames: RELEASE_SOURCE for found in splits.values()})
    return splits


def read_corpus(path: Path, problems: list[str]) -> dict[str, Sentence]:
    """Read a corpus file or the parent project's labels by `parse_rows`."""
    if path.name.startswith("labels."):
        return read_labels(path, problems)
    return read_rows(path, _parse_sentence, problems, header=CORPUS_HEADER)


def read_questions(path: Path, split: str, problems: list[str]) -> dict[str, Question]:
    """Read a question file of any form by `parse_rows`."""
    parse = functools.partial(_parse_question, split=split)
    return read_rows(path, parse, problems, header="name%text%")


def read_annotations(splits: Mapping[str, SplitFiles]) -> dict[str, Annotations]:
    """Read the clips of each split by `merge_annotations`."""
    annotations = {}
    for split, files in splits.items():
        annotations[split] = found = Annotations()
        corpus = read_corpus(files.corpus, found.problems) if files.corpus.is_file() else {}
        questions = read_questions(files.questions, split, found.problems)
        merge_annotations(files, questions, corpus, found)
        for name in sorted(corpus.keys() - questions.keys()):
            found.leave_out("no row in the question file", name)
    return annotations


def _parse_sentence(line: str) -> Sentence:
    """Parse a row of a corpus file, where quotes are letters."""
    name, _, _, _, speaker, orth, translation = split_fields(line, CORPUS_HEADER)
    return Sentence(name, translation, orth, speaker)


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
