"""Renders a rehearsal corpus: `python -m tfds_builders.rehearse phoenix2014t_qa --annotations=DIR --out=DIR`.

Names, sentences, questions, glosses and frame counts are the real ones, the frames are rendered, and the
files lie as in the official release, so that preparation and training can be rehearsed without the licence.
"""

import argparse
import functools
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from tfds_builders import frames
from tfds_builders.annotation import AnnotationError, MissingInputError
from tfds_builders.avatar import render
from tfds_builders.avatar.signs import stable_seed
from tfds_builders.parallel import available_cpus, ordered_map
from tfds_builders.phoenix2014t_qa import annotations
from tfds_builders.phoenix2014t_qa.annotations import CorpusRow, QuestionRow

UNKNOWN_SIGNER = "Signer01"


@dataclass(frozen=True)
class Clip:
    """One clip to render."""

    question: QuestionRow
    corpus: CorpusRow
    num_frames: int


def rehearse(
    annotations_dir: Path,
    out: Path,
    *,
    limit: int | None = None,
    size: tuple[int, int] = (260, 210),
    num_workers: int = 0,
) -> int:
    """Renders the clips of the question files in the layout of the release; clips already there are kept.

    Args:
      annotations_dir: holds `{train,dev,test}.txt`, and perhaps `PHOENIX-2014-T.{split}.corpus.{csv,txt}`
        (signers) and `num_frames.{split}.csv`.
      out: the folder to write; its annotations are written last, so preparing half a corpus is refused.
      limit: at most this many rows of each split.
      size: (height, width) of the frames in pixels.
      num_workers: processes; 0 is one a core.

    Returns:
      the number of clips.

    Raises:
      MissingInputError: a question file is not there.
      AnnotationError: a row cannot be read.
    """
    splits = {split: _read_clips(annotations_dir, split)[:limit] for split in annotations.SPLITS}
    clips = [(clip, out / annotations.FRAMES / split) for split, rows in splits.items() for clip in rows]
    for split in splits:
        (out / annotations.FRAMES / split).mkdir(parents=True, exist_ok=True)
    draw = functools.partial(_render_clip, size=size)
    rendered = ordered_map(draw, clips, num_workers or available_cpus())
    for _ in tqdm(rendered, "rendering", len(clips), unit="clip"):
        continue
    layout = annotations.Layout(out, out / annotations.QUESTIONS)
    for split, rows in splits.items():
        corpus = [annotations.CORPUS_HEADER, *("|".join(clip.corpus) for clip in rows)]
        _write(layout.corpus_file(split), "\n".join(corpus) + "\n")
        questions = (clip.question for clip in rows)
        lines = [f"{split}/{row.name} {row.target}%{row.question}%{row.gloss}" for row in questions]
        _write(layout.question_file(split), "\n".join(lines))  # the real ones lack the final newline too
    return len(clips)


def _read_clips(folder: Path, split: str) -> list[Clip]:
    question_file = folder / f"{split}.txt"
    if not question_file.is_file():
        raise MissingInputError(f"there is no file {question_file}. {annotations.QUESTION_SOURCE}")
    corpus_files = [folder / f"PHOENIX-2014-T.{split}.corpus.{suffix}" for suffix in ("csv", "txt")]
    corpus_file = next(filter(Path.is_file, corpus_files), None)
    corpus = annotations.read_corpus(corpus_file) if corpus_file else {}
    num_frames = _read_num_frames(folder / f"num_frames.{split}.csv")
    clips = []
    for row in annotations.read_questions(question_file, split):
        own_row = CorpusRow(row.name, f"{row.name}/*.png", "-1", "-1", UNKNOWN_SIGNER, row.gloss, row.target)
        corpus_row = corpus.get(row.name, own_row)
        count = num_frames.get(row.name) or _draw_num_frames(row.name, len(corpus_row.orth.split()))
        clips.append(Clip(row, corpus_row, count))
    return clips


def _read_num_frames(path: Path) -> dict[str, int]:
    """Frame counts by clip name, `name,num_frames`; none where the file is not there."""
    counts: dict[str, int] = {}
    if path.is_file():
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            name, _, count = line.strip().rpartition(",")
            if count == "num_frames" or not line.strip():
                continue
            if not name or not count.isdecimal() or not int(count):
                raise AnnotationError(f"{path}, line {number}: expected name,num_frames, found {line[:80]!r}")
            counts[name] = int(count)
    return counts


def _draw_num_frames(name: str, num_glosses: int) -> int:
    """A frame count as PHOENIX-2014T has them: the line through its 8,257 clips, and the spread around it."""
    spread = np.random.default_rng(stable_seed("num_frames", name)).normal(1, 0.24)
    return max(16, round((19 + 12.5 * num_glosses) * spread))


def _render_clip(clip_and_parent: tuple[Clip, Path], size: tuple[int, int]) -> None:
    """Renders one clip into a folder that appears by one rename, unless it is there as wanted."""
    clip, parent = clip_and_parent
    folder = parent / clip.corpus.name
    if folder.exists():
        files = frames.list_frames(folder)
        first = cv2.imread(str(files[0])) if files else None
        if len(files) == clip.num_frames and first is not None and first.shape[:2] == size:
            return
        shutil.rmtree(folder)
    partial = parent / f".partial-{clip.corpus.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    glosses = clip.corpus.orth.split()
    seed = stable_seed("rehearsal", clip.corpus.name)
    video = render(glosses, clip.num_frames, signer=clip.corpus.speaker, size=size, seed=seed)
    for number, frame in enumerate(video, start=1):
        bgr = np.ascontiguousarray(frame[..., ::-1])
        _, png = cv2.imencode(".png", bgr)  # naming a compression level, even the lowest, halves the speed
        (partial / f"images{number:04d}.png").write_bytes(png.tobytes())
    partial.rename(folder)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _size(text: str) -> tuple[int, int]:
    width, times, height = text.partition("x")
    if not (times and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected WIDTHxHEIGHT such as 210x260")
    return int(height), int(width)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tfds_builders.rehearse", description="Renders a corpus.")
    parser.add_argument("name", choices=("phoenix2014t_qa",))
    parser.add_argument("--annotations", type=Path, required=True, help="holds {train,dev,test}.txt")
    parser.add_argument("--out", type=Path, required=True, help="the corpus' folder")
    parser.add_argument("--limit", type=_count, help="at most this many rows of each split")
    parser.add_argument("--size", type=_size, default=(260, 210), help="width x height, default 210x260")
    parser.add_argument("--num_workers", type=int, default=0, help="processes; default: one a core")
    options = parser.parse_args(arguments)
    try:
        num_clips = rehearse(
            options.annotations,
            options.out,
            limit=options.limit,
            size=options.size,
            num_workers=options.num_workers,
        )
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit("interrupted; run the same command again to go on") from None
    print(
        f"{num_clips:,} clips in {options.out}; prepare them with:\n"
        f"python -m tfds_builders.prepare {options.name} --manual_dir={options.out}"
    )


if __name__ == "__main__":
    main()
