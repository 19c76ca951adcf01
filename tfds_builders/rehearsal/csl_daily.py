"""CSL-Daily-QA as a rehearsal corpus: real names, splits, texts, glosses and frame counts."""

from pathlib import Path

from tfds_builders.annotation import SPLITS, AnnotationError, MissingInputError, Question
from tfds_builders.csl_daily_qa import annotations
from tfds_builders.rehearsal.corpus import Clip, Corpus, draw_num_frames

SIZE = (512, 512)  # height, width
NOT_ANNOTATED = "S000005_P0004_T00"  # a quirk of the release, whose other clips all are


def plan(annotations_dir: Path, limit: int | None) -> Corpus:
    """The corpus of the question files in a folder.

    The questions of the train split are not public. Without them the train clips get the sentences and
    questions of dev, over and over.

    Args:
      annotations_dir: holds `{dev,test}.txt`, `split_1.txt` and perhaps `train.txt`.
      limit: at most this many clips of each split.

    Raises:
      MissingInputError: a file is not there.
      AnnotationError: rows cannot be read.
    """
    layout = annotations.Layout(Path(), Path(annotations.QUESTIONS))
    problems: list[str] = []
    splits = annotations.read_split(_existing(annotations_dir / annotations.SPLIT_FILE), problems)
    rows: dict[str, list[Question]] = {}
    notes = []
    for split in reversed(SPLITS):  # train may need dev
        file = annotations_dir / f"{split}.txt"
        if split == "train" and not file.is_file():
            names = [name for name, given in splits.items() if given == split and name != NOT_ANNOTATED]
            rows[split] = [
                row._replace(name=name)
                for name, row in zip(names, rows["dev"] * (1 + len(names) // max(len(rows["dev"]), 1)))
            ]
            notes.append(
                f"there is no {file}: the train clips have the sentences and questions of dev, so scores on "
                "dev mean nothing"
            )
        else:
            questions = annotations.read_questions(_existing(file), split, splits, problems)
            rows[split] = list(questions.values())
    if problems:
        raise AnnotationError(*problems)
    everything = [(split, row) for split in SPLITS for row in rows[split][:limit]]
    in_map = [annotations.MAP_HEADER]
    in_split = [annotations.SPLIT_HEADER, f"{NOT_ANNOTATED}|train"]
    in_questions: dict[str, list[str]] = {split: [] for split in SPLITS}
    clips = []
    for number, (split, row) in enumerate(everything):
        num_frames = row.num_frames or draw_num_frames(row.name, len(row.gloss.split()))
        known = f"{number:06d}|{row.name}|{num_frames}|{row.gloss}|{' '.join(row.target)}|"
        in_map.append(f"{known}|")
        in_split.append(f"{row.name}|{split}")
        in_questions[split].append(f"{known}|{row.question}|{annotations.OVERLAP * row.overlap}")
        signer = annotations.signer(row.name)
        clips.append(Clip(layout.frames() / row.name, row.gloss.split(), num_frames, signer))
    texts = {layout.question_file(split): "\n".join(lines) for split, lines in in_questions.items()}
    texts[layout.split_file()] = "\n".join(in_split)
    texts[layout.release / annotations.LABELS / annotations.MAP_FILE] = "\n".join(in_map)
    return Corpus(clips, "{number:06d}.jpg", texts, SIZE, notes)


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise MissingInputError(f"there is no file {file}. {annotations.QUESTION_SOURCE}")
    return file
