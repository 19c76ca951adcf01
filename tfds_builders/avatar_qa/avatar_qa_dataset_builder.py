"""avatar_qa: the embedded demo, whose clips are rendered instead of read."""

from collections.abc import Callable
from pathlib import Path

import tensorflow_datasets as tfds

from tfds_builders.annotation import Annotation, Annotations
from tfds_builders.avatar_qa import grammar
from tfds_builders.avatar_qa.clips import render_clip
from tfds_builders.encode_frames import ClipFrames
from tfds_builders.video_qa_builder import VideoQaBuilder

NUM_CLIPS = {"train": 1600, "dev": 100, "test": 100, "isolated": 1800}
SEED = 0


class Builder(VideoQaBuilder):
    """A builder that renders 48x48 clips; `resize` and `fps` change nothing."""

    language = "en_XX"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012

    def read_annotations(self, manual_dir: Path) -> dict[str, Annotations]:
        """Generate the rows of all splits; nothing is read from the folder."""
        return {
            split: Annotations([_annotation(row) for row in rows])
            for split, rows in grammar.rows(NUM_CLIPS, SEED).items()
        }

    def clip_reader(self) -> Callable[[grammar.Row], ClipFrames]:
        """Return the renderer, which reads rows instead of files."""
        return render_clip


def _annotation(row: grammar.Row) -> Annotation:
    sentence = row.sentence
    glosses = " ".join(sentence.glosses)
    return Annotation(row.id, row, sentence.question, sentence.target, glosses, row.signer)
