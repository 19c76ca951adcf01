"""PHOENIX-2014T-QA as a rehearsal corpus: real names, texts, glosses and frame counts."""

from pathlib import Path
from typing import NamedTuple

from tfds_builders.annotation import SPLITS, AnnotationError, MissingInputError, Sentence, read_rows
from tfds_builders.phoenix2014t_qa import annotations
from tfds_builders.rehearsal.corpus import Clip, Corpus, draw_num_frames

SIZE = (260, 210)  # height, width
UNKNOWN_SIGNER = "Signer01"


class _Count(NamedTuple):
    name: str
    num_frames: int


def plan(annotations_dir: Path, limit: int | None) -> Corpus:
    """The corpus of the question files in a folder.

    Args:
      annotations_dir: holds `{train,dev,test}.txt`, and perhaps `PHOENIX-2014-T.{split}.corpus.{csv,txt}`
        (signers) and `num_frames.{split}.csv`.
      limit: at most this many rows of each split.

    Raises:
      MissingInputError: a question file is not there.
      AnnotationError: rows cannot be read.
    """
    clips: list[Clip] = []
    texts: dict[Path, str] = {}
    problems: list[str] = []
    layout = annotations.Layout(Path(), Path(annotations.QUESTIONS))
    for split in SPLITS:
        question_file = annotations_dir / f"{split}.txt"
        if not question_file.is_file():
            raise MissingInputError(f"there is no file {question_file}. {annotations.QUESTION_SOURCE}")
        rows = list(annotations.read_questions(question_file, split, problems).values())[:limit]
        corpus_files = [
            annotations_dir / f"PHOENIX-2014-T.{split}.corpus.{suffix}" for suffix in ("csv", "txt")
        ]
        corpus_file = next(filter(Path.is_file, corpus_files), None)
        corpus = annotations.read_corpus(corpus_file, problems) if corpus_file else {}
        counts = _read_counts(annotations_dir / f"num_frames.{split}.csv", problems)
        lines = [annotations.CORPUS_HEADER]
        for row in rows:
            known = corpus.get(row.name, Sentence(row.name, row.target, row.gloss, UNKNOWN_SIGNER))
            lines.append(f"{row.name}|{row.name}/*.png|-1|-1|{known.signer}|{known.gloss}|{known.target}")
            glosses = known.gloss.split()
            num_frames = counts.get(row.name) or draw_num_frames(row.name, len(glosses))
            clips.append(Clip(layout.frames(split) / row.name, glosses, num_frames, known.signer))
        texts[layout.corpus_file(split)] = "\n".join(lines) + "\n"
        # the real ones lack the final newline too
        texts[layout.question_file(split)] = "\n".join(
            f"{split}/{row.name} {row.target}%{row.question}%{row.gloss}" for row in rows
        )
    if problems:
        raise AnnotationError(*problems)
    return Corpus(clips, "images{number:04d}.png", texts, SIZE)


def _read_counts(path: Path, problems: list[str]) -> dict[str, int]:
    """Frame counts by clip name, `name,num_frames`; none where the file is not there."""
    if not path.is_file():
        return {}
    return dict(read_rows(path, _parse_count, problems, header="name,num_frames").values())


def _parse_count(line: str) -> _Count:
    name, _, count = line.rpartition(",")
    if not count.isdecimal() or not int(count):
        raise ValueError(f"expected name,num_frames, found {line[:80]!r}")
    return _Count(name, int(count))
