"""CSL-Daily-QA as a rehearsal corpus: real names, splits, texts and frame counts."""

from pathlib import Path

from tfds_builders.annotation import SPLITS, AnnotationError, Question, require
from tfds_builders.csl_daily_qa import annotations
from tfds_builders.rehearsal.corpus import Clip, Corpus, draw_num_frames

SIZE = (512, 512)  # height, width
NOT_ANNOTATED = "S000005_P0004_T00"  # the only such clip of the release


def plan(annotations_dir: Path, limit: int | None, every: int) -> Corpus:
    """Return the corpus of the question files in a folder.

    The questions of the train split are not public. Without them the train clips get the sentences and
    questions of dev, over and over.

    Args:
        annotations_dir: The folder of `{dev,test}.txt`, `split_1.txt` and perhaps `train.txt`.
        limit: Maximum number of clips in each split.
        every: 4 renders every fourth of the frames.

    Raises:
        MissingInputError: A file is not there.
        AnnotationError: Rows cannot be read.
    """
    files = {split: annotations_dir / f"{split}.txt" for split in SPLITS}
    split_file = annotations_dir / annotations.SPLIT_FILE
    require(dict.fromkeys((split_file, files["dev"], files["test"]), annotations.QUESTION_SOURCE))
    problems: list[str] = []
    splits = annotations.read_split(split_file, problems)
    rows = {
        split: list(annotations.read_questions(file, split, splits, problems).values())
        for split, file in files.items()
        if file.is_file()
    }
    if problems:
        raise AnnotationError(*problems)
    notes = []
    if "train" not in rows:
        names = [name for name, split in splits.items() if split == "train" and name != NOT_ANNOTATED]
        rows["train"] = [
            row._replace(name=name)
            for name, row in zip(names, rows["dev"] * (1 + len(names) // max(len(rows["dev"]), 1)))
        ]
        notes.append(
            f"there is no {files['train']}: the train clips have the sentences and questions of dev, so "
            "scores on dev mean nothing"
        )
    return _make_corpus([(split, row) for split in SPLITS for row in rows[split][:limit]], notes, every)


def _make_corpus(rows: list[tuple[str, Question]], notes: list[str], every: int) -> Corpus:
    in_map = [annotations.MAP_HEADER]
    in_split = [annotations.SPLIT_HEADER, f"{NOT_ANNOTATED}|train"]
    in_questions: dict[str, list[str]] = {split: [] for split in SPLITS}
    clips = []
    for number, (split, row) in enumerate(rows):
        num_frames = row.num_frames or draw_num_frames(row.name, len(row.gloss.split()))
        folder = Path(annotations.FRAMES, row.name)
        clip = Clip(folder, row.gloss.split(), num_frames, annotations.signer(row.name), every)
        clips.append(clip)
        known = f"{number:06d}|{row.name}|{clip.num_rendered}|{row.gloss}|{' '.join(row.target)}|"
        in_map.append(f"{known}|")
        in_split.append(f"{row.name}|{split}")
        in_questions[split].append(f"{known}|{row.question}|{annotations.OVERLAP * row.overlap}")
    lines = {Path(annotations.QUESTIONS, f"{split}.txt"): part for split, part in in_questions.items()}
    lines[Path(annotations.LABELS, annotations.SPLIT_FILE)] = in_split
    lines[Path(annotations.LABELS, annotations.MAP_FILE)] = in_map
    texts = {path: "\n".join(part) for path, part in lines.items()}
    return Corpus(clips, "{number:06d}.jpg", texts, SIZE, notes, annotations.FPS)
