"""Clips of one split of a prepared dataset, by index."""

import copy
import errno
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self, get_type_hints

import numpy as np

from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.data.dataset import Dataset, DatasetError
from sslssaw_jax.data.frames import decode_frame, decode_frames
from sslssaw_jax.workdir import read_jsonl

_PREPARE_AGAIN = "prepare the dataset again with --overwrite"
_IMPORTING = threading.Lock()  # TFDS imports itself lazily: two threads that trigger it could block for ever
_LONGEST_NAME = 200  # bytes: file names have at most 255, and prefixes and suffixes are added


class RecordError(DatasetError):
    """An error that names a clip whose stored record cannot be read."""


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


@cache
def record_features() -> Any:
    """Return the features of a record, as TFDS describes them."""
    import tensorflow_datasets as tfds

    text = tfds.features.Text()
    return tfds.features.FeaturesDict(
        {
            "id": text,
            "video": tfds.features.Sequence(tfds.features.Image(encoding_format="jpeg")),
            "num_frames": tfds.features.Scalar(np.int32),
            "question": text,
            "target": text,
            "gloss": text,
            "signer": text,
            "overlap": tfds.features.Scalar(np.bool_),
        }
    )


@cache
def _keep_jpeg() -> Any:
    """Return a decoder that leaves frames encoded; TFDS's own fails on sequences."""
    import tensorflow_datasets as tfds

    class KeepJpeg(tfds.decode.SkipDecoding):
        def decode_batch_example_np(self, serialized_example: Any) -> Any:
            return serialized_example

    return KeepJpeg()


def whole_clips(num_clips: int, data: DataConfig, seed: int) -> list[int]:
    """Return the places of train's clips that have more than text."""
    order = np.random.default_rng(seed).permutation(num_clips)
    return sorted(order[: data.num_whole(num_clips)].tolist())


def check_name(name: str) -> None:
    """Refuse a clip's name that could not name a file.

    Raises:
        ValueError: The name is empty, too long, begins with a dot, or has a slash or unprintable characters.
    """
    plain = name.isprintable() and not name.startswith(".") and not {"/", "\\"} & set(name)
    if not name or not plain or len(name.encode()) > _LONGEST_NAME:
        raise ValueError(
            f"{name[:80]!r} cannot be the name of a clip: use at most {_LONGEST_NAME} bytes without slashes "
            "and control characters, and no leading dot"
        )


def _clip_info(row: dict[str, Any]) -> ClipInfo:
    """Return a clip of `clips.<split>.jsonl`.

    Raises:
        TypeError, ValueError: A field is absent, unknown or of another kind, or the id cannot name a file.
    """
    clip = ClipInfo(**row)
    for name, kind in get_type_hints(ClipInfo).items():
        if type(getattr(clip, name)) is not kind:
            raise TypeError(f"{name} of {str(clip.id)[:80]!r} is not of type {kind.__name__}")
    check_name(clip.id)
    if not 0 <= clip.num_frames < 2**31:
        raise ValueError(f"num_frames of {clip.id} is {clip.num_frames}")
    return clip


def read_record(data: bytes) -> dict[str, Any]:
    """Return the fields of a serialized record, its frames as JPEG.

    Raises:
        ValueError: The record is damaged.
    """
    try:
        with _IMPORTING:
            features, decoder = record_features(), _keep_jpeg()
        record = features.deserialize_example_np(data, decoders={"video": decoder})
        return {key: value.decode() if isinstance(value, bytes) else value for key, value in record.items()}
    except Exception as error:  # damaged bytes fail in any way
        raise ValueError(f"it is damaged: {error}") from error


@contextmanager
def opening_records(folder: Path) -> Iterator[None]:
    """Let this process open all the files of records of a dataset.

    Each stays open once it is read, and the usual limit of 1024 open files is soft.

    Raises:
        DatasetError: The system allows too few open files.
    """
    limit = ""
    with suppress(ImportError, OSError, ValueError):  # Windows has no limits, and macOS may refuse its own
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = f" ({soft})"
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            limit = f" ({hard})"
    try:
        yield
    except (OSError, RuntimeError) as error:  # array_record's is a RuntimeError
        if os.strerror(errno.EMFILE) not in str(error):
            raise
        raise DatasetError(
            f"{folder} has more files of records than this process may have open{limit}: raise the limit "
            "with `ulimit -n`, or ask your administrator to"
        ) from error


class ClipSource:
    """A split's clips by index, safe to share between threads.

    Opening a source reads texts and frame counts, but no video. A source of features has `feature_sets`, and
    a source of frames may have `keypoints`: a source of features for the same clips.

    Raises:
        DatasetError: The dataset has no such split; or, when a clip is read, its record is gone or broken.
    """

    feature_sets: Sequence[Any] = ()
    _chosen: Sequence[int] | None = None  # for training; None: all clips
    keypoints: "ClipSource | None" = None

    def __init__(self, dataset: Dataset, split: str) -> None:
        self.dataset, self.split = dataset, split
        rows = dataset.clips_file(split)
        if not rows.is_file():
            known = ", ".join(dataset.splits) or "none"
            hint = "" if "train" in dataset.splits else ", clips to translate: use --mode=translate"
            raise DatasetError(f"{dataset.folder} has no split {split!r}; it has {known}{hint}")
        try:
            self.clips = [_clip_info(row) for row in read_jsonl(rows)]
        except (ValueError, TypeError, RecursionError) as error:
            raise DatasetError(f"{rows} is damaged: {error}; {_PREPARE_AGAIN}") from error
        self._stored = self.clips
        self.num_frames = np.array([clip.num_frames for clip in self.clips], dtype=int)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip:
        folder = self.dataset.folder
        try:
            with opening_records(folder):
                record = read_record(self._records[index])
        except (OSError, RuntimeError, ValueError) as error:
            raise RecordError(
                f"record {index} of {self.split} in {folder} cannot be read, the clip {self.clips[index].id} "
                f"({error}): bring the folder back, or prepare the dataset again"
            ) from error
        video = list(record.pop("video"))
        stored = asdict(self._stored[index])
        if len(video) != stored["num_frames"] or any(stored[key] != record[key] for key in stored):
            raise DatasetError(
                f"clips.{self.split}.jsonl of {folder} does not describe its record {index}: {_PREPARE_AGAIN}"
            )
        return Clip(**asdict(self.clips[index]), video=video)

    def get_ready(self) -> None:
        """Do any long preparation before the first clip is read; here none."""

    def asking(self, questions: Sequence[str]) -> Self:
        """Return a source of the same clips with other questions."""
        other = copy.copy(self)
        pairs = zip(self.clips, questions, strict=True)
        other.clips = [replace(clip, question=question) for clip, question in pairs]
        return other

    def without_video(self) -> Self:
        """Return a source of the same clips with black frames."""
        other = copy.copy(self)
        other.read_frames = lambda index, kept, frames_NxHxWx3: frames_NxHxWx3.fill(0)  # type: ignore
        other.keypoints = self.keypoints and self.keypoints.without_video()
        return other

    def choosing(self, indices: Sequence[int]) -> Self:
        """Return a source that trains on the clips of these indices."""
        other = copy.copy(self)
        other._chosen = indices
        return other

    def of_epoch(self, max_frames: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return indices and lengths of the clips of an epoch, i[clips] each."""
        indices = np.arange(len(self)) if self._chosen is None else np.array(self._chosen, int)
        return indices, self.lengths(max_frames)[indices]

    def lengths(self, max_frames: int) -> np.ndarray:
        """Return each clip's frames in a batch, at most `max_frames`, i[clips]."""
        return np.minimum(self.num_frames, max_frames)

    def read_features(self, index: int, max_frames: int, rng: np.random.Generator | None) -> list[np.ndarray]:
        """Return a clip's rows of each feature set; frames have none."""
        return []

    def read_keypoints(self, index: int, kept: np.ndarray) -> np.ndarray:
        """Return the keypoints of a clip's `kept` frames, f16[F, C]."""
        assert self.keypoints is not None
        return self.keypoints.read_features(index, sys.maxsize, None)[0][kept]

    def read_frames(self, index: int, kept: np.ndarray, frames_NxHxWx3: np.ndarray) -> None:
        """Decode the `kept` frames of a clip into `frames_NxHxWx3`.

        Raises:
            FrameError: A frame is broken or of another size than `frames_NxHxWx3`.
        """
        clip = self[index]
        decode_frames(clip.id, clip.video, kept, frames_NxHxWx3)

    @cached_property
    def _records(self) -> Sequence[bytes]:
        """Return the serialized records, read without TFDS's own files."""
        with _IMPORTING:
            from array_record.python.array_record_data_source import ArrayRecordDataSource

        mark = f"-{self.split}.array_record-"
        return ArrayRecordDataSource(
            sorted(str(path) for path in self.dataset.folder.iterdir() if mark in path.name)
        )

    @cached_property
    def frame_size(self) -> tuple[int, int]:
        """Return the height and width of the frames in pixels."""
        return self.dataset.facts.frame_size


class ClipsInMemory(ClipSource):
    """A source of clips that are in memory already."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self.clips: list[ClipInfo] = list(clips)
        self.num_frames = np.array([clip.num_frames for clip in clips], dtype=int)
        self._clips = clips

    def __getitem__(self, index: int) -> Clip:
        return self._clips[index]

    @cached_property
    def frame_size(self) -> tuple[int, int]:
        """Return the height and width of the frames in pixels."""
        clip = self[0]
        height, width, _ = decode_frame(clip.id, clip.video, 0).shape
        return height, width


class TextSource(ClipSource):
    """A source for models without video: every clip has 0 frames."""

    frame_size = (1, 1)

    def __init__(self, dataset: Dataset, split: str) -> None:
        super().__init__(dataset, split)
        self.num_frames = np.zeros_like(self.num_frames)
