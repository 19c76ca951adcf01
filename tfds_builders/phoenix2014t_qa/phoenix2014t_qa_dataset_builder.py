"""PHOENIX-2014T-QA: German weather forecasts in sign language, each clip with a question."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from tfds_builders.parallel import available_cpus, ordered_map
from tfds_builders.phoenix2014t_qa import annotations, frames

# TFDS holds all examples of a shard in memory until the shard is written: about 110 MB
CLIPS_PER_SHARD = 64

Example = tuple[str, dict[str, Any]]


class Builder(tfds.core.ShardBasedBuilder):
    """Reads the official release and the question files; `info.metadata` keeps what was odd.

    Args:
      resize: `256` (square), `short:256` (short side) or `none`, see `frames.Resize`.
      num_workers: processes that re-encode frames; 0 is one a core.
      **kwargs: as for every `tfds.core.DatasetBuilder`.

    Preparing raises `MissingInputError` and `AnnotationError`, see `annotations`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{annotations.RELEASE_SOURCE}. {annotations.QUESTION_SOURCE}."

    def __init__(self, *, resize: str = "256", num_workers: int = 0, **kwargs: Any) -> None:
        self._resize = frames.Resize.parse(resize)
        self._num_workers = num_workers or available_cpus()
        kwargs.setdefault("file_format", "array_record")
        super().__init__(**kwargs)

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
            homepage="https://www-i6.informatik.rwth-aachen.de/~koller/RWTH-PHOENIX-2014-T/",
            metadata=tfds.core.MetadataDict({"odd": {}}),
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Callable[[], Iterator[Example]]]]:
        layout = annotations.find_layout(Path(dl_manager.manual_dir))
        splits = {split: annotations.read_annotations(layout, split) for split in annotations.SPLITS}
        folders = [layout.frames(split) / clip.name for split, (clips, _) in splits.items() for clip in clips]
        read = functools.partial(frames.read_clip, resize=self._resize)
        # splits and their shards are written one after the other, so all of them share one stream of clips
        stream = ordered_map(read, folders, self._num_workers)
        progress = tqdm(desc="preparing", total=len(folders), unit="clip")
        shards = {}
        for split, (clips, odd) in splits.items():
            self.info.metadata["odd"][split] = odd
            examples = self._examples(layout.frames(split), clips, stream, progress, odd)
            num_shards = math.ceil(len(clips) / CLIPS_PER_SHARD)
            shard = functools.partial(itertools.islice, examples, CLIPS_PER_SHARD)
            rest = functools.partial(iter, examples)
            shards[split] = [shard] * (num_shards - 1) + [rest]
        return shards

    def _examples(
        self,
        folder: Path,
        clips: list[annotations.Annotation],
        stream: Iterator[frames.ClipFrames],
        progress: tqdm,
        odd: dict[str, list[str]],
    ) -> Iterator[Example]:
        """The examples of one split in order; adds to `odd` what is odd about the frames."""
        num_examples = 0
        for clip, clip_frames in zip(clips, stream):
            progress.update()
            if clip_frames.num_unreadable:
                odd.setdefault("frames unreadable, dropped", []).append(clip.name)
            if clip_frames.num_absent:
                odd.setdefault("frames absent between others", []).append(clip.name)
            if not clip_frames.video:
                odd.setdefault("no frames, left out", []).append(clip.name)
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
            raise annotations.MissingInputError(
                f"none of the {len(clips)} clips of {folder} has frames: expected "
                f"{folder / clips[0].name}/images0001.png and so on. {annotations.RELEASE_SOURCE}"
            )
