"""The TFDS builder of all datasets that are read from files: annotated clips in, JPEG frames out."""

import abc
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from tfds_builders import frames
from tfds_builders.annotation import Annotations, MissingInputError
from tfds_builders.parallel import available_cpus, ordered_map

# TFDS holds all examples of a shard in memory until the shard is written: about 110 MB
CLIPS_PER_SHARD = 64

Example = tuple[str, dict[str, Any]]


class VideoQaBuilder(tfds.core.ShardBasedBuilder):
    """A subclass says where the clips are; `info.metadata` keeps what was odd about them.

    Args:
      resize: `256` (square), `short:256` (short side), `crop:256` (middle square) or `none`, see
        `frames.Resize`.
      fps: frames a second of video files; folders of frames are taken as they are.
      num_workers: processes that re-encode frames; 0 is one a core.
      **kwargs: as for every `tfds.core.DatasetBuilder`.

    Preparing raises `MissingInputError` and `AnnotationError`, a wrong option `ValueError`.
    """

    HOMEPAGE = ""

    def __init__(
        self, *, resize: str = "256", fps: float = 25.0, num_workers: int = 0, **kwargs: Any
    ) -> None:
        if not 1 <= fps <= 1000:
            raise ValueError(f"fps is {fps}; it lies between 1 and 1000")
        self._read_clip = functools.partial(frames.read_clip, resize=frames.Resize.parse(resize), fps=fps)
        self._num_workers = num_workers or available_cpus()
        kwargs.setdefault("file_format", "array_record")
        super().__init__(**kwargs)

    @abc.abstractmethod
    def read_annotations(self, manual_dir: Path) -> dict[str, Annotations]:
        """The clips of each split."""

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
                }
            ),
            homepage=self.HOMEPAGE,
            metadata=tfds.core.MetadataDict({"odd": {}}),
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Callable[[], Iterator[Example]]]]:
        splits = self.read_annotations(Path(dl_manager.manual_dir))
        videos = [clip.video for split in splits.values() for clip in split.clips]
        # splits and their shards are written one after the other, so all of them share one stream of clips
        stream = ordered_map(self._read_clip, videos, self._num_workers)
        progress = tqdm(desc="preparing", total=len(videos), unit="clip")
        shards = {}
        for name, split in splits.items():
            self.info.metadata["odd"][name] = split.odd
            examples = self._examples(name, split, stream, progress)
            num_shards = math.ceil(len(split.clips) / CLIPS_PER_SHARD)
            shard = functools.partial(itertools.islice, examples, CLIPS_PER_SHARD)
            rest = functools.partial(iter, examples)
            shards[name] = [shard] * (num_shards - 1) + [rest]
        return shards

    def _examples(
        self, name: str, split: Annotations, stream: Iterator[frames.ClipFrames], progress: tqdm
    ) -> Iterator[Example]:
        """The examples of one split in order; notes what is odd about the frames."""
        num_examples = 0
        for clip, clip_frames in zip(split.clips, stream):
            progress.update()
            for oddity in clip_frames.odd:
                split.note(oddity, clip.name)
            if not clip_frames.video:
                split.note("no frames, left out", clip.name)
                continue
            num_examples += 1
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
                },
            )
        if not num_examples:
            raise MissingInputError(
                f"none of the {len(split.clips)} clips of {name} has frames; the first "
                f"should be in {split.clips[0].video}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
