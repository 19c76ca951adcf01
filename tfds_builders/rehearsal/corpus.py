"""A rehearsal corpus: a release's files with rendered frames."""

import functools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sslssaw_jax.data.progress import progress_bar
from sslssaw_jax.data.video import list_frames
from sslssaw_jax.errors import UserError
from sslssaw_jax.workdir import write_text
from tfds_builders.avatar import JOINTS, joints, render
from tfds_builders.avatar.signs import stable_seed
from tfds_builders.parallel import ordered_map
from tfds_builders.pose_files import write_pose
from tfds_builders.rehearsal import POSES


@dataclass(frozen=True)
class Clip:
    """A clip to render."""

    folder: Path  # relative to the corpus
    glosses: Sequence[str]
    num_frames: int  # of the release
    signer: str
    every: int  # 4 renders every fourth of the frames

    @property
    def num_rendered(self) -> int:
        """Return the number of frames that are rendered."""
        return -(-self.num_frames // self.every)


@dataclass(frozen=True)
class Corpus:
    """The contents of a rehearsal corpus."""

    clips: Sequence[Clip]
    frame_name: str  # of frame {number}, counted from 1; its suffix is the format
    texts: Mapping[Path, str]  # the annotation files by their place in the corpus
    size: tuple[int, int]  # height and width of the release's frames in pixels
    notes: Sequence[str] = ()  # differences from the release
    fps: float = 25.0  # of the release


def draw_num_frames(name: str, num_glosses: int) -> int:
    """Draw a frame count by a regression over PHOENIX-2014T's 8,257 clips."""
    spread = np.random.default_rng(stable_seed("num_frames", name)).normal(1, 0.24)
    return max(16, round((19 + 12.5 * num_glosses) * spread))


def write_corpus(corpus: Corpus, out: Path, size: tuple[int, int], num_workers: int) -> None:
    """Render the clips that do not exist in this size.

    The annotations are written last: the folder cannot be prepared until its annotations are there.

    Raises:
        UserError: The folder holds files of a release, which would be replaced.
    """
    own = [out / clip.folder for clip in corpus.clips if not _poses(clip, out).exists()]
    own += [out / path for path in corpus.texts if not (out / POSES).exists()]
    if found := [path for path in own if path.exists()]:
        raise UserError(
            f"{found[0]} was not made by a rehearsal, and would be replaced: choose another --out, or delete "
            f"{out} if nothing in it is needed"
        )
    for parent in {out / clip.folder.parent for clip in corpus.clips}:
        parent.mkdir(parents=True, exist_ok=True)
    draw = functools.partial(_render_clip, out=out, frame_name=corpus.frame_name, size=size)
    drawn = ordered_map(draw, corpus.clips, num_workers)
    for _ in progress_bar(drawn, "rendering", total=len(corpus.clips)):
        continue
    for path, text in corpus.texts.items():
        write_text(out / path, text)


def _poses(clip: Clip, out: Path) -> Path:
    """Return the file of joints, written before the clip's frames."""
    return out / POSES / clip.folder.parent.name / f"{clip.folder.name}.pose"


def _render_clip(clip: Clip, out: Path, frame_name: str, size: tuple[int, int]) -> None:
    """Write a clip's joints; render the clip unless there."""
    folder = out / clip.folder
    seed = stable_seed("rehearsal", folder.name)
    take: dict[str, Any] = {"signer": clip.signer, "size": size, "seed": seed, "every": clip.every}
    poses = _poses(clip, out)
    poses.parent.mkdir(parents=True, exist_ok=True)
    found = poses.with_name(f".partial-{poses.name}")
    write_pose(found, JOINTS, joints(clip.glosses, clip.num_frames, **take), size)
    if poses.exists() and poses.read_bytes() != found.read_bytes():  # from other annotations
        shutil.rmtree(folder, ignore_errors=True)
    found.replace(poses)
    if folder.exists():
        files = list_frames(folder)
        first = cv2.imread(str(files[0])) if files else None
        if len(files) == clip.num_rendered and first is not None and first.shape[:2] == size:
            return
        shutil.rmtree(folder)
    # the folder appears by a single rename
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    video = render(clip.glosses, clip.num_frames, **take)
    for number, frame in enumerate(video, start=1):
        file = partial / frame_name.format(number=number)
        # without a compression level: setting one, even the lowest, halves the speed of PNG
        _, data = cv2.imencode(file.suffix, np.ascontiguousarray(frame[..., ::-1]))
        file.write_bytes(data.tobytes())
    partial.rename(folder)
