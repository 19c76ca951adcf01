"""Clips of one split of a prepared dataset, by index."""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import tensorflow_datasets as tfds

from sslssaw_jax.data.dataset import Dataset, DatasetError
from sslssaw_jax.data.frames import decode_frame, decode_frames


@dataclass(frozen=True)
class ClipInfo:
    """A clip without its video."""

    id: str
    num_frames: int
    question: str
    target: str
    gloss: str  # space separated
    signer: str
    overlap: bool = False  # the annotations mark the question as the target


@dataclass(frozen=True, kw_only=True)
class Clip(ClipInfo):
    """A clip with its video."""

    video: list[bytes]  # one JPEG per frame


class _KeepJpeg(tfds.decode.SkipDecoding):
    """A decoder that leaves frames encoded; TFDS's own fails on sequences."""

    def decode_batch_example_np(self, serialized_example: Any) -> Any:
        return serialized_example


class ClipSource:
    """A split's clips by index, safe to share between threads.

    Opening a source reads texts and frame counts, and no video.

    Raises:
        DatasetError: The dataset has no such split; or, when a clip is read, its record is gone or broken.
    """

    def __init__(self, dataset: Dataset, split: str) -> None:
        self.dataset, self.split = dataset, split
        rows = dataset.clips_file(split)
        if not rows.is_file():
            known = ", ".join(dataset.splits) or "none"
            raise DatasetError(f"{dataset.folder} has no split {split!r}; it has {known}")
        with rows.open(encoding="utf-8") as lines:
            self.clips = [ClipInfo(**json.loads(line)) for line in lines]
        self.num_frames = np.array([clip.num_frames for clip in self.clips], dtype=int)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip:
        clip, folder = self.clips[index], self.dataset.folder
        try:
            record = self._records[index]
        except (OSError, RuntimeError) as error:
            raise DatasetError(
                f"record {index} of {self.split} in {folder} cannot be read ({error}): bring the folder "
                "back, or prepare the dataset again"
            ) from error
        video = list(record["video"])
        if (record["id"].decode(), len(video)) != (clip.id, clip.num_frames):
            raise DatasetError(
                f"clips.{self.split}.jsonl of {folder} does not describe its record {index}: "
                "prepare the dataset again with --overwrite"
            )
        return Clip(**asdict(clip), video=video)

    def asking(self, questions: Sequence[str]) -> Self:
        """Return a source of the same clips with other questions."""
        other = copy.copy(self)
        pairs = zip(self.clips, questions, strict=True)
        other.clips = [replace(clip, question=question) for clip, question in pairs]
        return other

    def read_frames(self, index: int, kept: np.ndarray, frames_NxHxWx3: np.ndarray) -> None:
        """Decode the `kept` frames of a clip into `frames_NxHxWx3`.

        Raises:
            FrameError: A frame is broken or of another size than `frames_NxHxWx3`.
        """
        clip = self[index]
        decode_frames(clip.id, clip.video, kept, frames_NxHxWx3)

    @cached_property
    def _records(self) -> Sequence[dict[str, Any]]:
        builder = tfds.builder_from_directory(self.dataset.folder)
        return builder.as_data_source(self.split, decoders={"video": _KeepJpeg()})

    @cached_property
    def frame_size(self) -> tuple[int, int]:
        """Return the height and width of the frames in pixels."""
        clip = self[0]
        height, width, _ = decode_frame(clip.id, clip.video, 0).shape
        return height, width


class ClipsInMemory(ClipSource):
    """A source of clips that are in memory already."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self.clips: list[ClipInfo] = list(clips)
        self.num_frames = np.array([clip.num_frames for clip in clips], dtype=int)
        self._clips = clips

    def __getitem__(self, index: int) -> Clip:
        return self._clips[index]


class TextSource(ClipSource):
    """A source for models without video: every clip has 0 frames."""

    frame_size = (1, 1)

    def __init__(self, dataset: Dataset, split: str) -> None:
        super().__init__(dataset, split)
        self.num_frames = np.zeros_like(self.num_frames)
