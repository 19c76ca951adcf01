"""The files of QSL-QA: where they are, and how to read their rows.

The question files of GBT-code have one row per clip, `FRAMESQGLOSSQQUESTIONQOTHERQSENTENCE`, separated by the
letter Q. FRAMES is the path of the folder of frames on its authors' machine, such as
`/disk1/dataset/Response_third_image_256/P005/R0864_P005_01`, and ends in the signer and the clip's name.
OTHER is a question that the sentence does not answer; in dev and test it is the letter `a`.
"""

from collections.abc import Mapping
from pathlib import Path

from tfds_builders.annotation import (
    SPLITS,
    Annotation,
    Annotations,
    Question,
    find_questions,
    first_existing,
    read_rows,
    require,
)
from tfds_builders.csl_daily_qa.annotations import signer, unify

FRAMES = "Response_third_image_256"
QUESTIONS = "questions"
QUESTION_FILE = "{split}_slt_2p.txt"
QUESTION_FORM = "FRAMESQGLOSSQQUESTIONQOTHERQSENTENCE"

_GBT_FOLDER = "DatasetFile/dialogue_tju_QA_eg_signer_slt"
RELEASE_SOURCE = (
    f"The frames of QSL are not public: ask the authors of https://github.com/glq-1992/GBT-code (expected: "
    f"{FRAMES}/SIGNER/CLIP/)"
)
QUESTION_SOURCE = (
    f"The question files are in {_GBT_FOLDER} of https://github.com/glq-1992/GBT-code: put "
    f"{', '.join(QUESTION_FILE.format(split=split) for split in SPLITS)} into {QUESTIONS}/, or the whole "
    "checkout next to the frames"
)


def find_files(manual_dir: Path, *, text_only: bool = False) -> tuple[dict[str, Path], Path]:
    """Find the question file of each split, and the folder of frames.

    Args:
        manual_dir: The folder that holds both, or the folder of the question files.
        text_only: Whether frames are not required.

    Raises:
        MissingInputError: Required files or folders are not there; all of them are named.
    """
    folder = find_questions(manual_dir, manual_dir, _GBT_FOLDER, QUESTION_FILE.format(split="test"))
    files = {split: folder / QUESTION_FILE.format(split=split) for split in SPLITS}
    frames = first_existing([manual_dir / FRAMES, *sorted(manual_dir.glob(f"*/{FRAMES}"))])
    require(dict.fromkeys(files.values(), QUESTION_SOURCE), {} if text_only else {frames: RELEASE_SOURCE})
    return files, frames


def read_questions(path: Path, problems: list[str]) -> dict[str, Question]:
    """Read a question file by `parse_rows`."""
    return read_rows(path, _parse_question, problems)


def read_annotations(files: Mapping[str, Path], frames: Path) -> dict[str, Annotations]:
    """Read the clips of each split in the order of the rows."""
    annotations = {split: Annotations() for split in files}
    for split, found in annotations.items():
        for row in read_questions(files[split], found.problems).values():
            by = signer(row.name)
            video = frames / by / row.name
            found.clips.append(Annotation(row.name, video, row.question, row.target, row.gloss, by))
        if not found.clips and not found.problems:
            found.problems.append(f"{files[split]} holds no usable row")
    return annotations


def _parse_question(line: str) -> Question:
    fields = [field.strip() for field in line.split("Q")]
    if len(fields) != 5:
        raise ValueError(f"expected {QUESTION_FORM}, found {line[:80]!r}")
    folder, gloss, question, _, sentence = fields
    name = folder.rpartition("/")[2]
    if not (signer(name) and sentence):
        raise ValueError(f"no clip such as R0864_P005_01, or no sentence, in {line[:80]!r}")
    return Question(name, unify(sentence), unify(question), gloss)
