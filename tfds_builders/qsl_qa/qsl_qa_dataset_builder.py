"""QSL-QA: answers about hotels and restaurants in Chinese Sign Language, each clip with its question."""

from pathlib import Path

import tensorflow_datasets as tfds

from tfds_builders.annotation import Annotations
from tfds_builders.qsl_qa import annotations
from tfds_builders.video_qa_builder import VideoQaBuilder


class Builder(VideoQaBuilder):
    """A builder that reads the question files and the folders of frames."""

    language = "zh_CN"
    HOMEPAGE = "https://github.com/glq-1992/GBT-code"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{annotations.RELEASE_SOURCE}. {annotations.QUESTION_SOURCE}."

    def read_annotations(self, manual_dir: Path) -> dict[str, Annotations]:
        """Read the question files."""
        return annotations.read_annotations(*annotations.find_files(manual_dir, text_only=self.text_only))

    def table_files(self, manual_dir: Path) -> list[Path]:
        """Return the question files."""
        files, _ = annotations.find_files(manual_dir, text_only=self.text_only)
        return list(files.values())
