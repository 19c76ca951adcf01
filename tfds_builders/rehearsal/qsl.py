"""QSL-QA as a rehearsal corpus: real names, splits and texts; the frame counts are drawn."""

from pathlib import Path

from tfds_builders.annotation import SPLITS, AnnotationError, require
from tfds_builders.csl_daily_qa.annotations import signer
from tfds_builders.qsl_qa import annotations
from tfds_builders.rehearsal.corpus import Clip, Corpus, draw_num_frames

SIZE = (256, 256)  # height, width


def plan(annotations_dir: Path, limit: int | None, every: int) -> Corpus:
    """Return the corpus of the question files in a folder.

    Args:
        annotations_dir: The folder of `{train,dev,test}_slt_2p.txt`.
        limit: Maximum number of clips in each split.
        every: 4 renders every fourth of the frames.

    Raises:
        MissingInputError: A file is not there.
        AnnotationError: Rows cannot be read.
    """
    files = {split: annotations_dir / annotations.QUESTION_FILE.format(split=split) for split in SPLITS}
    require(dict.fromkeys(files.values(), annotations.QUESTION_SOURCE))
    problems: list[str] = []
    clips: list[Clip] = []
    texts: dict[Path, str] = {}
    for file in files.values():
        lines = []
        for row in list(annotations.read_questions(file, problems).values())[:limit]:
            folder = Path(annotations.FRAMES, signer(row.name), row.name)
            glosses = row.gloss.split()
            num_frames = draw_num_frames(row.name, len(glosses))
            clips.append(Clip(folder, glosses, num_frames, signer(row.name), every))
            lines.append(f"{folder}Q{row.gloss}Q{row.question}QaQ{row.target}")
        texts[Path(annotations.QUESTIONS, file.name)] = "\n".join(lines)
    if problems:
        raise AnnotationError(*problems)
    return Corpus(clips, "{number:06d}.jpg", texts, SIZE)
