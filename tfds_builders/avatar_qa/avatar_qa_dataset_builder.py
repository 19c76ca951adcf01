"""avatar_qa: the embedded demo, whose clips are rendered instead of read."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from sslssaw_jax.data.video import ClipFrames, OptionError
from tfds_builders.annotation import Annotation, Annotations
from tfds_builders.avatar import JOINTS
from tfds_builders.avatar_qa import grammar
from tfds_builders.avatar_qa.clips import FRAME_SIZE, joints_of_row, render_clip
from tfds_builders.video_qa_builder import VideoQaBuilder

NUM_CLIPS = {"train": 1600, "dev": 100, "test": 100, "isolated": 1800}
SEED = 0


class Builder(VideoQaBuilder):
    """A builder that renders clips of 48 x 48 pixels at 25 frames per second.

    Raises:
        OptionError: Another size or rate is requested.
    """

    language = "en_XX"
    default_resize = f"crop:{FRAME_SIZE[0]}"  # makes such frames from other videos
    points = JOINTS
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if (self.resize, self.fps) != (self.default_resize, 25.0):
            raise OptionError("avatar_qa is rendered in one size and rate: leave out --resize and --fps")

    def read_annotations(self, manual_dir: Path) -> dict[str, Annotations]:
        """Generate the rows of all splits; nothing is read from the folder."""
        return {
            split: Annotations([_annotation(row) for row in rows])
            for split, rows in grammar.rows(NUM_CLIPS, SEED).items()
        }

    def keypoints(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """Yield split, clip and rows of all clips: the signer's joints."""
        for split, rows in grammar.rows(NUM_CLIPS, SEED).items():
            for row in rows:
                places_TxKx2 = joints_of_row(row)
                scored = np.pad(places_TxKx2, ((0, 0), (0, 0), (0, 1)), constant_values=1)
                yield split, row.id, scored.reshape(len(scored), -1)

    def clip_reader(self) -> Callable[[grammar.Row], ClipFrames]:
        """Return the renderer, which reads rows instead of files."""
        return render_clip


def _annotation(row: grammar.Row) -> Annotation:
    sentence = row.sentence
    glosses = " ".join(sentence.glosses)
    return Annotation(row.id, row, sentence.question, sentence.target, glosses, row.signer)
