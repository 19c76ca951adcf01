"""The files of CSL-Daily-QA: where they are, and how to read their rows.

CSL-Daily describes its clips in `sentence_label/csl2020ct_v2.pkl` (a pickled dictionary whose `info` lists a
dictionary for each clip) or in `video_map.txt`, `index|name|length|gloss|char|word|postag`, and assigns them
to splits in `split_1.txt`, `name|split`; the parent project's `labels.{train,dev,test}` may replace
both. The question files of GBT-code have one row per clip, `index|name|length|gloss|char|word|question|`,
whose last bar may be missing; `|Overlap!` may follow if the question is the sentence itself.
"""

import functools
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tfds_builders.annotation import (
    LONGEST_TEXT,
    SPLITS,
    Annotations,
    Question,
    Sentence,
    SplitFiles,
    count_frames,
    find_questions,
    first_existing,
    merge_annotations,
    read_labels,
    read_pickled_rows,
    read_rows,
    require,
    split_fields,
)

FRAMES = "sentence/frames_512x512"
FPS = 30.0  # 22.8 hours for 20,653 clips; the release says 23.3
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
    f"The question files are in {_GBT_FOLDER} of https://github.com/glq-1992/GBT-code: put train.txt, "
    f"dev.txt and test.txt into {QUESTIONS}/, or the whole checkout next to the release; train.txt is not in "
    "the public repository: ask its authors"
)
_FULL_WIDTH = str.maketrans(",?!:;()", "，？！：；（）")


class SplitRow(NamedTuple):
    """A row of the split file."""

    name: str
    split: str


def find_files(manual_dir: Path, *, text_only: bool = False) -> dict[str, SplitFiles]:
    """Find the files of each split in or below a folder.

    Args:
        manual_dir: The release's root, or the folder that holds it.
        text_only: Whether frames are not required.

    Raises:
        MissingInputError: Required files or folders are not there; all of them are named.
    """
    releases = [manual_dir, *sorted(manual_dir.glob("*/"))]
    release = next((folder for folder in releases if (folder / LABELS).is_dir()), manual_dir)
    questions = find_questions(manual_dir, release, _GBT_FOLDER)
    frames = first_existing([release / folder for folder in _FRAMES_FOLDERS])
    corpus = first_existing([release / LABELS / name for name in (PICKLE_FILE, MAP_FILE)])
    labels = first_existing([release / LABELS / "labels.train", release / "labels.train"])
    parent_project = labels.is_file() and not corpus.is_file()
    splits = {}
    for split in SPLITS:
        marked = questions / f"{split}_overlap.txt"
        plain = questions / f"{split}.txt"
        known = labels.with_name(f"labels.{split}") if parent_project else corpus
        splits[split] = SplitFiles(marked if marked.is_file() else plain, known, frames)
    files = {found.corpus: RELEASE_SOURCE for found in splits.values()}
    if not parent_project:
        files[corpus.with_name(SPLIT_FILE)] = RELEASE_SOURCE
    files |= {splits[split].questions: QUESTION_SOURCE for split in ("dev", "test")}
    require(files, {} if text_only else {frames: RELEASE_SOURCE})
    return splits


def unify(text: str) -> str:
    """Return a Chinese text without spaces, its punctuation full width.

    The files write the same sentence with spaces between characters, between words or without any.
    Letters and digits become half width.
    """
    return "".join(unicodedata.normalize("NFKC", text).split()).translate(_FULL_WIDTH)


def read_split(path: Path, problems: list[str]) -> dict[str, str]:
    """Read the split of each clip by `parse_rows`."""
    return dict(read_rows(path, _parse_split, problems, header=SPLIT_HEADER).values())


def read_corpus(path: Path, problems: list[str]) -> dict[str, Sentence]:
    """Read the sentences of the pickle, the map or labels by `parse_rows`."""
    if path.name.startswith("labels."):
        rows = read_labels(path, problems)
        return {
            name: row._replace(target=unify(row.target), signer=signer(name)) for name, row in rows.items()
        }
    if path.name == PICKLE_FILE:
        return read_pickled_rows(path, _entries, _parse_entry, problems)
    return read_rows(path, _parse_sentence, problems, header="index|name|")


def read_questions(
    path: Path, split: str, splits: Mapping[str, str], problems: list[str]
) -> dict[str, Question]:
    """Read the question file of a split by `parse_rows`.

    A row for a clip that `splits` assigns to another split is a problem.
    """
    parse = functools.partial(_parse_question, split=split, splits=splits)
    return read_rows(path, parse, problems, header="index|name|")


def read_annotations(files: Mapping[str, SplitFiles]) -> dict[str, Annotations]:
    """Read the clips of each split by `merge_annotations`.

    A clip that the split file does not know (`S000007_P0003_T00`) belongs to the split of its question, or to
    train if that has no question file. A
    clip without a row in its question file is left out (`S000005_P0004_T00`, which is not annotated either).
    Without train's question file, which is not public, the clips of train have no question.
    """
    annotations = {split: Annotations() for split in files}
    splits, corpus = _read_release(files, annotations["train"].problems)
    asked = {
        split: read_questions(found.questions, split, splits, annotations[split].problems)
        for split, found in files.items()
        if found.questions.is_file()
    }
    others = {name for rows in asked.values() for name in rows}
    for split, found in annotations.items():
        names = [name for name, given in splits.items() if given == split and name in corpus]
        names += [name for name in corpus if split == "train" and name not in splits and name not in others]
        questions = asked[split] if split in asked else {name: Question(name, "", "", "") for name in names}
        merge_annotations(files[split], questions, corpus, found)
        for clip in found.clips:
            if clip.name not in splits:
                found.note(f"not in {SPLIT_FILE}, kept in {split}", clip.name)
            if clip.overlap and clip.question != clip.target:
                found.note(f"marked {OVERLAP}, though the question is not the sentence", clip.name)
        for name in (name for name, given in splits.items() if given == split and name not in questions):
            annotated = "" if name in corpus else "not annotated, and "
            found.leave_out(f"{annotated}no row in the question file", name)
    return annotations


def _read_release(
    files: Mapping[str, SplitFiles], problems: list[str]
) -> tuple[dict[str, str], dict[str, Sentence]]:
    """Return the split of each clip, and the sentences."""
    corpus_file = files["train"].corpus
    if not corpus_file.name.startswith("labels."):
        return read_split(corpus_file.with_name(SPLIT_FILE), problems), read_corpus(corpus_file, problems)
    parts = {split: read_corpus(found.corpus, problems) for split, found in files.items()}
    splits = {name: split for split, rows in parts.items() for name in rows}
    return splits, {name: row for rows in parts.values() for name, row in rows.items()}


def signer(name: str) -> str:
    """Return the signer in a clip's name, `P0004` of `S000020_P0004_T00`."""
    return name.split("_")[1] if name.count("_") == 2 else ""


def _parse_split(line: str) -> SplitRow:
    name, split = split_fields(line, SPLIT_HEADER)
    if split not in SPLITS:
        raise ValueError(f"expected {SPLIT_HEADER} with {', '.join(SPLITS)}, found {line[:80]!r}")
    return SplitRow(name, split)


def _parse_sentence(line: str) -> Sentence:
    """Parse a row of the map; only the clips' names hold signers."""
    _, name, length, gloss, characters, words, _ = split_fields(line, MAP_HEADER)
    num_frames = int(length) if length.isdecimal() else 0
    return Sentence(name, unify(characters or words), gloss, signer(name), num_frames)


def _entries(content: Any) -> Iterable[Any]:
    match content:
        case {"info": list(entries)}:
            return entries
    raise ValueError("expected a dictionary with a list `info`")


def _parse_entry(entry: Any) -> Sentence:
    match entry:
        case {"name": str(name), "label_gloss": glosses, "label_char": characters, **other}:
            text, gloss = unify(_join_parts(characters)), _join_parts(glosses)
            return Sentence(name, text, gloss, signer(name), count_frames(other))
    raise ValueError("expected a dictionary with name, label_gloss and label_char")


def _join_parts(value: Any) -> str:
    """Return a text that may be given as a list of parts."""
    if isinstance(value, str):
        return value.strip()
    are_texts = isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value)
    if are_texts and sum(map(len, value)) <= LONGEST_TEXT:  # the parts may be one text, repeated
        return " ".join(value)
    raise ValueError("label_gloss and label_char must be lists of texts, of a sentence's length")


def _parse_question(line: str, split: str, splits: Mapping[str, str]) -> Question:
    fields = [field.strip() for field in line.split("|")]
    marks = [mark for mark in fields[7:] if mark]
    if not 6 <= len(fields) <= 9 or marks not in ([], [OVERLAP]) or not fields[2].isdecimal():
        raise ValueError(f"expected {QUESTION_FORM}, found {line[:80]!r}")
    _, name, length, gloss, characters, words, question, *_ = (*fields, "")
    if splits.get(name, split) != split:
        raise ValueError(f"a row of {splits[name]!r} in the file of {split!r}: {name[:80]}")
    return Question(name, unify(characters or words), unify(question), gloss, bool(marks), int(length))
