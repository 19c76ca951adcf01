"""A rehearsal corpus: the files of a release with rendered frames in place of the licensed ones."""

import functools
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from tfds_builders import encode_frames as frames
from tfds_builders.avatar import render
from tfds_builders.avatar.signs import stable_seed
from tfds_builders.parallel import ordered_map


@dataclass(frozen=True)
class Clip:
    """One clip to render."""

    folder: Path  # relative to the corpus
    glosses: Sequence[str]
    num_frames: int
    signer: str


@dataclass(frozen=True)
class Corpus:
    """What a rehearsal corpus is made of."""

    clips: Sequence[Clip]
    frame_name: str  # of frame {number}, counted from 1; its suffix is the format
    texts: Mapping[Path, str]  # the annotation files by their place in the corpus
    size: tuple[int, int]  # height and width of the release's frames, in pixels
    notes: Sequence[str] = field(default_factory=tuple)  # in what it is not as the release


def draw_num_frames(name: str, num_glosses: int) -> int:
    """A frame count as PHOENIX-2014T has them: the line through its 8,257 clips, and the spread around it."""
    spread = np.random.default_rng(stable_seed("num_frames", name)).normal(1, 0.24)
    return max(16, round((19 + 12.5 * num_glosses) * spread))


def write_corpus(corpus: Corpus, out: Path, size: tuple[int, int], num_workers: int) -> None:
    """Renders the clips that are not there as wanted, and writes the annotations last.

    Args:
      corpus: what to write.
      out: the folder; preparing it is refused until it is whole.
      size: (height, width) of the frames in pixels.
      num_workers: processes.
    """
    for parent in {out / clip.folder.parent for clip in corpus.clips}:
        parent.mkdir(parents=True, exist_ok=True)
    draw = functools.partial(_render_clip, out=out, frame_name=corpus.frame_name, size=size)
    for _ in tqdm(ordered_map(draw, corpus.clips, num_workers), "rendering", len(corpus.clips), unit="clip"):
        continue
    for path, text in corpus.texts.items():
        _write(out / path, text)


def _render_clip(clip: Clip, out: Path, frame_name: str, size: tuple[int, int]) -> None:
    """Renders one clip into a folder that appears by one rename, unless it is there as wanted."""
    folder = out / clip.folder
    if folder.exists():
        files = frames.list_frames(folder)
        first = cv2.imread(str(files[0])) if files else None
        if len(files) == clip.num_frames and first is not None and first.shape[:2] == size:
            return
        shutil.rmtree(folder)
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    seed = stable_seed("rehearsal", folder.name)
    video = render(clip.glosses, clip.num_frames, signer=clip.signer, size=size, seed=seed)
    for number, frame in enumerate(video, start=1):
        bgr = np.ascontiguousarray(frame[..., ::-1])
        file = partial / frame_name.format(number=number)
        _, data = cv2.imencode(
            file.suffix, bgr
        )  # naming PNG's compression level, even the lowest, halves the speed
        file.write_bytes(data.tobytes())
    partial.rename(folder)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
