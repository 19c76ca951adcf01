"""The files of CSL-Daily-QA: where they lie, and how their rows read.

CSL-Daily describes its clips in `sentence_label/csl2020ct_v2.pkl` (a pickled dictionary; its `info` lists one
dictionary a clip) or in `video_map.txt`, `index|name|length|gloss|char|word|postag`, and divides them in
`split_1.txt`, `name|split`. The question files of GBT-code have one row a clip,
`index|name|length|gloss|char|word|question|`, where the last bar may be missing, and `|Overlap!` may follow
where the question is the sentence itself.
"""

import functools
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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

FRAMES = "sentence/frames_512x512"
LABELS = "sentence_label"
QUESTIONS = "questions"
SPLIT_FILE, SPLIT_HEADER = "split_1.txt", "name|split"
MAP_FILE, MAP_HEADER = "video_map.txt", "index|name|length|gloss|char|word|postag"
PICKLE_FILE = "csl2020ct_v2.pkl"
QUESTION_FORM = "index|name|length|gloss|char|word|question|"
OVERLAP = "Overlap!"

_FRAMES_FOLDERS = (FRAMES, "sentence_frames-512x512/frames_512x512", "sentence_frames-512x512")
_GBT_FOLDER = "DatasetFile/dialogue_csldaily"
RELEASE_SOURCE = (
    "CSL-Daily is released on request: http://home.ustc.edu.cn/~zhouh156/dataset/csl-daily/ "
    f"(expected: {FRAMES}/, {LABELS}/{SPLIT_FILE}, and {LABELS}/{PICKLE_FILE} or {LABELS}/{MAP_FILE})"
)
QUESTION_SOURCE = (
    f"The question files are those of {_GBT_FOLDER} in https://github.com/glq-1992/GBT-code: put train.txt, "
    f"dev.txt and test.txt into {QUESTIONS}/, or the whole checkout beside the release; train.txt is not in "
    "the public repository: ask its authors"
)
_FULL_WIDTH = str.maketrans(",?!:;()", "，？！：；（）")


class SplitRow(NamedTuple):
    """A row of the split file."""

    name: str
    split: str


@dataclass(frozen=True)
class Layout:
    """Where the files of the release and of the questions lie."""

    release: Path
    questions: Path

    def frames(self) -> Path:
        """The folder that holds a folder of frames for each clip."""
        places = [self.release / folder for folder in _FRAMES_FOLDERS]
        return next(filter(Path.is_dir, places), places[0])

    def split_file(self) -> Path:
        return self.release / LABELS / SPLIT_FILE

    def corpus_file(self) -> Path:
        """The pickle, which also knows the signers, or the map."""
        places = [self.release / LABELS / name for name in (PICKLE_FILE, MAP_FILE)]
        return next(filter(Path.is_file, places), places[0])

    def question_file(self, split: str) -> Path:
        """With or without marked overlaps."""
        plain, marked = self.questions / f"{split}.txt", self.questions / f"{split}_overlap.txt"
        return marked if marked.is_file() else plain


def find_layout(manual_dir: Path, *, text_only: bool = False) -> Layout:
    """The files below `manual_dir`, which is the release's root or holds it; with `text_only` no frames.

    Raises:
      MissingInputError: files or folders that the dataset needs are not there; all of them are named.
    """
    releases = [manual_dir, *sorted(manual_dir.glob("*/"))]
    release = next((folder for folder in releases if (folder / LABELS).is_dir()), manual_dir)
    layout = Layout(release, find_questions(manual_dir, release, _GBT_FOLDER))
    missing = [
        f"there is no file {file}. {RELEASE_SOURCE}"
        for file in (layout.split_file(), layout.corpus_file())
        if not file.is_file()
    ]
    if not text_only and not layout.frames().is_dir():
        missing.append(f"there is no folder {layout.frames()}. {RELEASE_SOURCE}")
    missing += [
        f"there is no file {layout.question_file(split)}. {QUESTION_SOURCE}"
        for split in SPLITS
        if not layout.question_file(split).is_file()
    ]
    if missing:
        raise MissingInputError("\n".join(missing))
    return layout


def unify(text: str) -> str:
    """A Chinese text without spaces, its letters and digits half width, its marks full width.

    The files write the same sentence with spaces between characters, between words or without any.
    """
    return "".join(unicodedata.normalize("NFKC", text).split()).translate(_FULL_WIDTH)


def read_split(path: Path, problems: list[str]) -> dict[str, str]:
    """The split of each clip; see `read_rows`."""
    rows = read_rows(path, _parse_split, problems, header=SPLIT_HEADER)
    return {row.name: row.split for row in rows.values()}


def read_corpus(path: Path, problems: list[str]) -> dict[str, Sentence]:
    """The sentences of the pickle or the map by clip name; see `read_rows`."""
    if path.name == PICKLE_FILE:
        return parse_rows(_entries(path, problems), _parse_entry, problems)
    return read_rows(path, _parse_sentence, problems, header="index|name|")


def read_questions(
    path: Path, split: str, splits: Mapping[str, str], problems: list[str]
) -> dict[str, Question]:
    """The rows of a question file by clip name, in order; see `read_rows`.

    Args:
      path: of the file.
      split: of its rows.
      splits: the split of each clip; a row of another one is a problem.
      problems: gets a line for each row that cannot be used.
    """
    parse = functools.partial(_parse_question, split=split, splits=splits)
    return read_rows(path, parse, problems, header="index|name|")


def read_annotations(layout: Layout) -> dict[str, Annotations]:
    """The clips of each split in the order of its question file; see `join`.

    A clip with a question that the split file does not know (`S000007_P0003_T00`) is of the split of its
    question; one without a question is left out (`S000005_P0004_T00`, which is not annotated either).
    """
    found = {split: Annotations() for split in SPLITS}
    shared = found["train"].problems
    splits = read_split(layout.split_file(), shared)
    corpus = read_corpus(layout.corpus_file(), shared)
    for split, part in found.items():
        file = layout.question_file(split)
        questions = read_questions(file, split, splits, part.problems)
        join(questions, corpus, layout.frames(), part)
        for clip in part.clips:
            if clip.name not in splits:
                part.note(f"not in {SPLIT_FILE}, kept in the split of its question", clip.name)
            if clip.overlap and clip.question != clip.target:
                part.note(f"marked {OVERLAP}, though the question is not the sentence", clip.name)
        for name in (name for name, given in splits.items() if given == split and name not in questions):
            annotated = "" if name in corpus else "not annotated, and "
            part.note(f"{annotated}no row in the question file, left out", name)
        if not part.clips and not part.problems:
            part.problems.append(f"{file} holds no usable row")
    return found


def _parse_split(line: str) -> SplitRow:
    name, _, split = line.partition("|")
    if split not in SPLITS:
        raise ValueError(f"expected {SPLIT_HEADER} with {', '.join(SPLITS)}, found {line[:80]!r}")
    return SplitRow(name, split)


def _parse_sentence(line: str) -> Sentence:
    """Of the map, which names no signers: they are a part of the clips' names."""
    fields = [field.strip() for field in line.split("|")]
    if len(fields) != MAP_HEADER.count("|") + 1:
        raise ValueError(f"expected {MAP_HEADER}, found {len(fields)} fields: {line[:80]!r}")
    _, name, _, gloss, characters, words, _ = fields
    return Sentence(name, unify(characters or words), gloss, signer(name))


def _entries(path: Path, problems: list[str]) -> Iterator[tuple[str, Any]]:
    try:
        content = read_pickle(path, path.read_bytes())
        info = content.get("info") if isinstance(content, dict) else None
        if not isinstance(info, list):
            raise AnnotationError(f"{path}: expected a dictionary with a list `info`")
        for number, entry in enumerate(info, start=1):
            yield f"{path}, entry {number}", entry
    except AnnotationError as error:
        problems += error.args


def _parse_entry(entry: Any) -> Sentence:
    match entry:
        case {"name": str(name), "label_gloss": glosses, "label_char": characters}:
            return Sentence(name, unify(_text(characters)), _text(glosses), signer(name))
    raise ValueError("expected a dictionary with name, label_gloss and label_char")


def _text(value: Any) -> str:
    """A text that is given as one or as a list of its parts."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        return " ".join(value)
    raise ValueError("label_gloss and label_char must be lists of texts")


def signer(name: str) -> str:
    """`P0004` of `S000020_P0004_T00`: sentence, signer, take."""
    return name.split("_")[1] if name.count("_") == 2 else ""


def _parse_question(line: str, split: str, splits: Mapping[str, str]) -> Question:
    fields = [field.strip() for field in line.split("|")]
    marks = [mark for mark in fields[7:] if mark]
    if not 6 <= len(fields) <= 9 or marks not in ([], [OVERLAP]) or not fields[2].isdecimal():
        raise ValueError(f"expected {QUESTION_FORM}, found {line[:80]!r}")
    _, name, length, gloss, characters, words, question, *_ = (*fields, "")
    if splits.get(name, split) != split:
        raise ValueError(f"a row of {splits[name]!r} in the file of {split!r}: {name[:80]}")
    return Question(name, unify(characters or words), unify(question), gloss, bool(marks), int(length))
