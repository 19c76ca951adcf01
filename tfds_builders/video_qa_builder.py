"""The TFDS builder of all datasets: annotated clips in, JPEG frames out."""

import abc
import functools
import hashlib
import itertools
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from sslssaw_jax.data import video as frames
from sslssaw_jax.data.clips import record_features
from sslssaw_jax.data.dataset import Source, file_digest
from sslssaw_jax.data.progress import progress_bar
from sslssaw_jax.data.text import is_unusual
from sslssaw_jax.errors import listed
from tfds_builders.annotation import Annotation, AnnotationError, Annotations
from tfds_builders.parallel import ordered_map

# TFDS holds all examples of a shard in memory until the shard is written: about 110 MB
CLIPS_PER_SHARD = 64
UNUSUAL = "target has decomposed, invisible or compatibility characters, kept; scores compare its normal form"

KeyedExample = tuple[str, dict[str, Any]]


class _StableWriter(tfds.core.ExampleWriter):
    """A writer that sorts an example's fields, whose order varies by process."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        """Write the examples of a shard."""
        ordered = (
            (key, tf_example_pb2.Example.FromString(data).SerializeToString(deterministic=True))
            for key, data in examples
        )
        return super().write(path, ordered)


class VideoQaBuilder(tfds.core.ShardBasedBuilder):
    """A builder whose subclasses name the clips and their texts' language.

    `info.metadata` holds the clips' oddities. Preparing raises `MissingInputError` or `AnnotationError`.

    Args:
        resize: Size of stored frames, `256` (square), `short:256` (short side), `crop:256` (middle square) or
            `none`; empty chooses the builder's own.
        fps: Frames per second taken from video files, or the rate of a folder, from which all frames are
            taken; None chooses the builder's own.
        num_workers: Number of processes that re-encode frames; 0 is one per core.
        text_only: Whether to leave out the videos, for models without frames; all clips have 0 frames.
        max_missing: Share of a split's clips that may lack frames or texts; one clip always may.
        **kwargs: Arguments of `tfds.core.DatasetBuilder`.

    Raises:
        OptionError: `resize`, `fps` or `max_missing` is not allowed.
    """

    language = ""
    """mBART's code of the language of questions and targets."""

    default_resize = "256"
    default_fps = 25.0
    HOMEPAGE = ""
    points: tuple[str, ...] = ()
    """The names of the keypoints that are known for all clips."""

    def __init__(
        self,
        *,
        resize: str = "",
        fps: float | None = None,
        num_workers: int = 0,
        text_only: bool = False,
        max_missing: float = 0.01,
        **kwargs: Any,
    ) -> None:
        fps = self.default_fps if fps is None else fps
        if not 1 <= fps <= 1000:
            raise frames.OptionError(f"--fps={fps:g}: give a number from 1 to 1000")
        if not 0 <= max_missing <= 1:
            raise frames.OptionError(f"--max_missing={max_missing:g}: give a share from 0 to 1")
        self.resize, self.fps = resize or self.default_resize, fps
        self.frame_size = (0, 0)  # height and width, known after preparation
        self._num_workers, self.text_only, self._max_missing = num_workers, text_only, max_missing
        frames.Resize.parse(self.resize)  # refuses a wrong text before anything is written
        super().__init__(**{"file_format": "array_record", **kwargs})

    @abc.abstractmethod
    def read_annotations(self, manual_dir: Path) -> dict[str, Annotations]:
        """Return the annotated clips of each split, and all problems."""

    def table_files(self, manual_dir: Path) -> list[Path]:
        """Return the files of texts that `read_annotations` reads."""
        return []

    def clip_reader(self) -> Callable[[Any], frames.ClipFrames]:
        """Return the function that reads the `video` of an annotation."""
        return functools.partial(frames.read_video, resize=frames.Resize.parse(self.resize), fps=self.fps)

    def keypoints(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """Yield split, clip and keypoints `[T, 3 * points]` of all clips."""
        yield from ()

    def read_source(self, manual_dir: Path) -> Source:
        """Describe the files that preparing reads, without reading videos."""
        tables = {
            os.path.relpath(file, manual_dir): file_digest(file) for file in self.table_files(manual_dir)
        }
        digest = hashlib.sha256()
        for split in self.read_annotations(manual_dir).values() if not self.text_only else ():
            for clip in split.clips:
                path = _path(clip)
                digest.update(f"{os.path.relpath(path, manual_dir)} {_stamp(path)}\n".encode())
        return Source(manual_dir.resolve().name, tables, digest.hexdigest())

    def check(self, manual_dir: Path) -> dict[str, Annotations]:
        """Read everything that preparing reads; return all problems and oddities."""
        splits = self._read_annotations(manual_dir)
        stream = self._stream(splits, "checking")
        for name, split in splits.items():
            for _ in self._read_frames(name, split, stream):
                continue
        return splits

    def _read_annotations(self, manual_dir: Path) -> dict[str, Annotations]:
        """Return the annotations; a clip in two splits is a problem."""
        splits = self.read_annotations(manual_dir)
        for (earlier, first), (later, second) in itertools.combinations(splits.items(), 2):
            names = {clip.name for clip in first.clips}
            if shared := [clip.name for clip in second.clips if clip.name in names]:
                second.problems.append(
                    f"{len(shared):,} of the {len(second.clips):,} clips of {later} are in {earlier}, too: "
                    f"{listed(shared)}; keep each in one split"
                )
        return splits

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=record_features(),
            homepage=self.HOMEPAGE,
            metadata=tfds.core.MetadataDict({"odd": {}}),
        )

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return _StableWriter(self.info.file_format)

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Callable[[], Iterator[KeyedExample]]]]:
        generated = not self.MANUAL_DOWNLOAD_INSTRUCTIONS
        splits = self._read_annotations(Path() if generated else Path(dl_manager.manual_dir))
        problems = [problem for split in splits.values() for problem in split.problems]
        if not (generated or self.text_only):  # before hours of reading
            for name, split in splits.items():
                absent = [clip.name for clip in split.clips if not _path(clip).exists()]
                problems += self._missing_problem(name, split, absent)
        if problems:
            raise AnnotationError(*problems)
        # TFDS writes splits and their shards one after the other, so all of them share one stream of clips
        stream = self._stream(splits, "rendering" if generated else "preparing")
        shards = {}
        for name, split in splits.items():
            self.info.metadata["odd"][name] = split.odd
            examples = self._examples(name, split, stream)
            num_shards = math.ceil(len(split.clips) / CLIPS_PER_SHARD)
            shard = functools.partial(itertools.islice, examples, CLIPS_PER_SHARD)
            rest = functools.partial(iter, examples)
            shards[name] = [shard] * (num_shards - 1) + [rest]
        return shards

    def _stream(self, splits: Mapping[str, Annotations], what: str) -> Iterator[frames.ClipFrames]:
        """Yield the frames of all clips in order, and show progress."""
        videos = [clip.video for split in splits.values() for clip in split.clips]
        stream: Iterator[frames.ClipFrames]
        if self.text_only:
            stream = itertools.repeat(frames.ClipFrames([]), len(videos))
        else:
            stream = ordered_map(self.clip_reader(), videos, self._num_workers)
        with progress_bar(None, what, total=len(videos)) as progress:
            for clip_frames in stream:
                progress.update()
                yield clip_frames

    def _examples(
        self, name: str, split: Annotations, stream: Iterator[frames.ClipFrames]
    ) -> Iterator[KeyedExample]:
        """Yield the examples of a split in order.

        Raises:
            AnnotationError: The frames of the split cannot be used.
        """
        for clip, video in self._read_frames(name, split, stream):
            if split.problems:
                break
            example = {
                "id": clip.name,
                "video": video,
                "num_frames": len(video),
                "question": clip.question,
                "target": clip.target,
                "gloss": clip.gloss,
                "signer": clip.signer,
                "overlap": clip.overlap,
            }
            yield clip.name, example
        if split.problems:
            raise AnnotationError(*split.problems)

    def _read_frames(
        self, name: str, split: Annotations, stream: Iterator[frames.ClipFrames]
    ) -> Iterator[tuple[Annotation, list[bytes]]]:
        """Yield the usable clips with frames; note problems in the split."""
        without = []
        for clip, clip_frames in zip(split.clips, stream):
            split.unreadable += clip_frames.unreadable
            if not clip_frames.video and not self.text_only:
                split.note(f"{', '.join(clip_frames.odd) or 'no frames'}, left out", clip.name)
                without.append(clip.name)
                continue
            for oddity in clip_frames.odd:
                split.note(oddity, clip.name)
            if clip_frames.video and clip.num_frames not in (0, len(clip_frames.video)):
                kind = "fewer" if len(clip_frames.video) < clip.num_frames else "more"
                split.note(f"{kind} frames than the annotations say", clip.name)
            if is_unusual(clip.target):
                split.note(UNUSUAL, clip.name)
            for number, frame in enumerate(clip_frames.video, start=1):
                size = frames.image_size(frame) or (0, 0)
                # training packs the frames of all clips into one array
                self.frame_size = self.frame_size if any(self.frame_size) else size
                if size != self.frame_size:
                    split.problems.append(
                        f"{clip.video}: frame {number} has {_pixels(size)}, the earlier frames have "
                        f"{_pixels(self.frame_size)}: choose a square, such as --resize=256"
                    )
                    break
            yield clip, clip_frames.video
        split.problems += self._missing_problem(name, split, without)

    def _missing_problem(self, name: str, split: Annotations, without: Sequence[str]) -> list[str]:
        """Return a problem if too many clips of a split are missing.

        Args:
            name: The split's name.
            split: The split.
            without: The names of its clips that have no frames.
        """
        if split.clips and len(without) == len(split.clips):
            return [
                f"{name} has no clip with frames, of {len(split.clips):,}; the first should be in "
                f"{split.clips[0].video}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            ]
        missing, total = [*split.missing, *without], len(split.missing) + len(split.clips)
        if len(missing) <= max(1, self._max_missing * total):
            return []
        share, names = 100 * len(missing) / total, ", ".join(missing[:3])
        return [
            f"{len(missing):,} of the {total:,} clips of {name} are missing ({share:.3g} %): {names}, ...; "
            "--check gives the reasons, and --max_missing=1 continues without them"
        ]


def _path(clip: Annotation) -> Path:
    return clip.video.path if isinstance(clip.video, frames.Segment) else clip.video


def _stamp(video: Path) -> str:
    """Return size and time of a video or its frames."""
    try:
        found = video.stat()
    except FileNotFoundError:
        return "absent"
    if not stat.S_ISDIR(found.st_mode):
        return f"{found.st_size} {found.st_mtime_ns}"
    files = [file.stat() for file in frames.list_frames(video)]
    time = max((file.st_mtime_ns for file in files), default=found.st_mtime_ns)
    return f"{len(files)} frames {sum(file.st_size for file in files)} {time}"


def _pixels(size: tuple[int, int]) -> str:
    height, width = size
    return f"{height} x {width} pixels"
