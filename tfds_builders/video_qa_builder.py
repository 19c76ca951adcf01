"""The TFDS builder of all datasets that are read from files: annotated clips in, JPEG frames out."""

import abc
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2
from tqdm import tqdm

from tfds_builders import encode_frames as frames
from tfds_builders.annotation import Annotation, AnnotationError, Annotations, MissingInputError
from tfds_builders.parallel import available_cpus, ordered_map

# TFDS holds all examples of a shard in memory until the shard is written: about 110 MB
CLIPS_PER_SHARD = 64
_NO_FRAMES = "no frames, left out"

KeyedExample = tuple[str, dict[str, Any]]


class _StableWriter(tfds.core.ExampleWriter):
    """Writes the same bytes for the same examples: a process's own order of their fields is undone."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        ordered = (
            (key, tf_example_pb2.Example.FromString(data).SerializeToString(deterministic=True))
            for key, data in examples
        )
        return super().write(path, ordered)


class VideoQaBuilder(tfds.core.ShardBasedBuilder):
    """A subclass says where the clips are; `info.metadata` keeps what was odd about them.

    Args:
      resize: `256` (square), `short:256` (short side), `crop:256` (middle square) or `none`, see
        `frames.Resize`.
      fps: frames a second of video files; folders of frames are taken as they are.
      num_workers: processes that re-encode frames; 0 is one a core.
      text_only: read no video; every clip has 0 frames, for models of the question alone.
      **kwargs: as for every `tfds.core.DatasetBuilder`.

    Preparing raises `MissingInputError` and `AnnotationError`, a wrong option `ValueError`.
    """

    HOMEPAGE = ""

    def __init__(
        self,
        *,
        resize: str = "256",
        fps: float = 25.0,
        num_workers: int = 0,
        text_only: bool = False,
        **kwargs: Any,
    ) -> None:
        if not 1 <= fps <= 1000:
            raise ValueError(f"fps is {fps}; it lies between 1 and 1000")
        self._read_clip = functools.partial(frames.read_clip, resize=frames.Resize.parse(resize), fps=fps)
        self._num_workers = num_workers or available_cpus()
        self.text_only = text_only
        kwargs.setdefault("file_format", "array_record")
        super().__init__(**kwargs)

    @abc.abstractmethod
    def read_annotations(self, manual_dir: Path) -> dict[str, Annotations]:
        """The clips of each split, and the problems of reading them."""

    def check(self, manual_dir: Path) -> tuple[list[str], list[str]]:
        """Reads all that preparing reads, and writes nothing.

        Returns:
          the problems, for which preparing would be refused, and what would be left out, dropped or odd.
        """
        try:
            splits = self.read_annotations(manual_dir)
        except (AnnotationError, MissingInputError) as error:
            return list(error.args), []
        problems = [problem for split in splits.values() for problem in split.problems]
        odd = [
            f"{name}, {clip}: {oddity}"
            for name, split in splits.items()
            for oddity, clips in split.odd.items()
            for clip in clips
        ]
        stream, progress = self._stream(splits, "checking")
        for split in splits.values():
            size = None
            for clip, clip_frames in zip(split.clips, stream):
                progress.update()
                odd += [f"{clip.video}: {oddity}" for oddity in clip_frames.odd]
                if frames.UNREADABLE in clip_frames.odd:
                    odd += [f"{file}: no image" for file in frames.unreadable_frames(clip.video)]
                if not clip_frames.video and not self.text_only:
                    odd.append(f"{clip.video}: {_NO_FRAMES}")
                try:
                    size = _size_of_frames(clip, clip_frames.video, size)
                except AnnotationError as error:
                    problems += error.args
        return problems, odd

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
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
            ),
            homepage=self.HOMEPAGE,
            metadata=tfds.core.MetadataDict({"odd": {}}),
        )

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return _StableWriter(self.info.file_format)

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Callable[[], Iterator[KeyedExample]]]]:
        splits = self.read_annotations(Path(dl_manager.manual_dir))
        problems = [problem for split in splits.values() for problem in split.problems]
        if problems:
            raise AnnotationError(*problems)
        # splits and their shards are written one after the other, so all of them share one stream of clips
        stream, progress = self._stream(splits, "preparing")
        shards = {}
        for name, split in splits.items():
            self.info.metadata["odd"][name] = split.odd
            examples = self._examples(name, split, stream, progress)
            num_shards = math.ceil(len(split.clips) / CLIPS_PER_SHARD)
            shard = functools.partial(itertools.islice, examples, CLIPS_PER_SHARD)
            rest = functools.partial(iter, examples)
            shards[name] = [shard] * (num_shards - 1) + [rest]
        return shards

    def _stream(
        self, splits: Mapping[str, Annotations], what: str
    ) -> tuple[Iterator[frames.ClipFrames], tqdm]:
        """The frames of all clips, split after split, and a bar for them."""
        videos = [clip.video for split in splits.values() for clip in split.clips]
        progress = tqdm(desc=what, total=len(videos), unit="clip")
        if self.text_only:
            return itertools.repeat(frames.ClipFrames([], [])), progress
        return ordered_map(self._read_clip, videos, self._num_workers), progress

    def _examples(
        self, name: str, split: Annotations, stream: Iterator[frames.ClipFrames], progress: tqdm
    ) -> Iterator[KeyedExample]:
        """The examples of one split in order; notes what is odd about the frames."""
        size = None
        for clip, clip_frames in zip(split.clips, stream):
            progress.update()
            for oddity in clip_frames.odd:
                split.note(oddity, clip.name)
            if not clip_frames.video and not self.text_only:
                split.note(_NO_FRAMES, clip.name)
                continue
            size = _size_of_frames(clip, clip_frames.video, size)
            yield (
                clip.name,
                {
                    "id": clip.name,
                    "video": clip_frames.video,
                    "num_frames": len(clip_frames.video),
                    "question": clip.question,
                    "target": clip.target,
                    "gloss": clip.gloss,
                    "signer": clip.signer,
                    "overlap": clip.overlap,
                },
            )
        if size is None and not self.text_only:
            raise MissingInputError(
                f"none of the {len(split.clips)} clips of {name} has frames; the first "
                f"should be in {split.clips[0].video}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )


def _size_of_frames(
    clip: Annotation, video: Sequence[bytes], size: tuple[int, int] | None
) -> tuple[int, int] | None:
    """Height and width of a split's frames, which are those of its first; AnnotationError where they vary.

    Training packs the frames of all clips into one array.
    """
    for number, frame in enumerate(video, start=1):
        found = frames.image_size(frame) or (0, 0)
        size = size or found
        if found != size:
            raise AnnotationError(
                f"{clip.video}: frame {number} has {found[0]} x {found[1]} pixels, the frames before have "
                f"{size[0]} x {size[1]}: choose a square, such as --resize=256"
            )
    return size
