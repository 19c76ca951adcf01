"""PHOENIX-2014T-QA as a rehearsal corpus: real names, texts, glosses and frame counts."""

from pathlib import Path

from tfds_builders.annotation import SPLITS, AnnotationError, Sentence, first_existing, read_rows, require
from tfds_builders.phoenix2014t_qa import annotations
from tfds_builders.rehearsal.corpus import Clip, Corpus, draw_num_frames

SIZE = (260, 210)  # height, width
UNKNOWN_SIGNER = "Signer01"


def plan(annotations_dir: Path, limit: int | None, every: int) -> Corpus:
    """Return the corpus of the question files in a folder.

    Args:
        annotations_dir: The folder of `{train,dev,test}.txt`, and perhaps of `num_frames.{split}.csv` and
            `PHOENIX-2014-T.{split}.corpus.{csv,txt}`, which name the signers.
        limit: Maximum number of clips in each split.
        every: 4 renders every fourth of the frames.

    Raises:
        MissingInputError: A question file is not there.
        AnnotationError: Rows cannot be read.
    """
    files = {split: annotations_dir / f"{split}.txt" for split in SPLITS}
    require(dict.fromkeys(files.values(), annotations.QUESTION_SOURCE))
    clips: list[Clip] = []
    texts: dict[Path, str] = {}
    problems: list[str] = []
    for split, question_file in files.items():
        rows = list(annotations.read_questions(question_file, split, problems).values())[:limit]
        official = annotations_dir / annotations.CORPUS_FILE.format(split=split)
        corpus_file = first_existing([official, official.with_suffix(".txt")])
        corpus = annotations.read_corpus(corpus_file, problems) if corpus_file.is_file() else {}
        count_file = annotations_dir / f"num_frames.{split}.csv"
        counts = _read_counts(count_file, problems) if count_file.is_file() else {}
        lines = [annotations.CORPUS_HEADER]
        for row in rows:
            known = corpus.get(row.name, Sentence(row.name, row.target, row.gloss, UNKNOWN_SIGNER))
            lines.append(f"{row.name}|{row.name}/*.png|-1|-1|{known.signer}|{known.gloss}|{known.target}")
            glosses = known.gloss.split()
            num_frames = counts.get(row.name) or draw_num_frames(row.name, len(glosses))
            folder = Path(annotations.FRAMES, split, row.name)
            clips.append(Clip(folder, glosses, num_frames, known.signer, every))
        texts[Path(annotations.ANNOTATIONS, official.name)] = "\n".join(lines) + "\n"
        # like the real question files, without a newline at the end
        texts[Path(annotations.QUESTIONS, question_file.name)] = "\n".join(
            f"{split}/{row.name} {row.target}%{row.question}%{row.gloss}" for row in rows
        )
    if problems:
        raise AnnotationError(*problems)
    return Corpus(clips, "images{number:04d}.png", texts, SIZE)


def _read_counts(path: Path, problems: list[str]) -> dict[str, int]:
    """Read frame counts by clip name from lines `name,num_frames`."""
    return dict(read_rows(path, _parse_count, problems, header="name,num_frames").values())


def _parse_count(line: str) -> tuple[str, int]:
    name, _, count = line.rpartition(",")
    if not count.isdecimal() or not int(count):
        raise ValueError(f"expected name,num_frames, found {line[:80]!r}")
    return name, int(count)
