"""avatar_qa: the embedded demo of question-based sign language translation, rendered, nothing to download."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from tfds_builders.avatar import render
from tfds_builders.avatar_qa import grammar

NUM_CLIPS = {"train": 1600, "dev": 100, "test": 100, "isolated": 1800}
CLIPS_PER_SHARD = 200
FRAME_SIZE = (48, 48)
SEED = 0
JPEG_OPTIONS = (
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    # Halved chroma would blur the hands of so small a picture.
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)


class Builder(tfds.core.ShardBasedBuilder):
    """Clips of a rendered signer with a question and a target each; see `README.md`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: Mapping[str, str] = {"1.0.0": "Initial release."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "video": tfds.features.Sequence(tfds.features.Image(encoding_format="jpeg")),
                    "num_frames": tfds.features.Scalar(dtype=np.int32),
                    "question": tfds.features.Text(),
                    "target": tfds.features.Text(),
                    "gloss": tfds.features.Text(doc="Glosses of the signs, separated by spaces."),
                    "signer": tfds.features.Text(),
                }
            ),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[tuple[str, dict]]]]]:
        del dl_manager  # nothing to download
        progress = tqdm(desc="rendering", total=sum(NUM_CLIPS.values()), unit="clip")
        return {
            split: [
                functools.partial(_examples, rows[start : start + CLIPS_PER_SHARD], progress)
                for start in range(0, len(rows), CLIPS_PER_SHARD)
            ]
            for split, rows in grammar.rows(NUM_CLIPS, SEED).items()
        }


def render_row(row: grammar.Row) -> np.ndarray:
    """The clip of a row, `uint8[row.num_frames, 48, 48, 3]`, RGB."""
    num_frames = grammar.ISOLATED_FRAMES if row.isolated else row.num_frames
    clip = render(
        row.sentence.glosses,
        num_frames,
        signer=row.signer,
        size=FRAME_SIZE,
        seed=row.seed,
        lexicon=grammar.LEXICON,
    )
    return clip[grammar.ISOLATED_SHOWN] if row.isolated else clip


def _examples(rows: Sequence[grammar.Row], progress: tqdm) -> Iterator[tuple[str, dict]]:
    for row in rows:
        progress.update()
        yield (
            row.id,
            {
                "id": row.id,
                "video": [_jpeg(frame) for frame in render_row(row)],
                "num_frames": row.num_frames,
                "question": row.sentence.question,
                "target": row.sentence.target,
                "gloss": " ".join(row.sentence.glosses),
                "signer": row.signer,
            },
        )


def _jpeg(frame: np.ndarray) -> bytes:
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), JPEG_OPTIONS)
    return encoded.tobytes()
