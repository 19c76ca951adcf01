"""CSL-Daily-QA: everyday sentences in Chinese Sign Language, each clip with a question."""

from pathlib import Path

import tensorflow_datasets as tfds

from tfds_builders.annotation import Annotations
from tfds_builders.csl_daily_qa import annotations
from tfds_builders.video_qa_builder import VideoQaBuilder


class Builder(VideoQaBuilder):
    """A builder that reads the official release and the question files."""

    language = "zh_CN"
    default_fps = annotations.FPS
    HOMEPAGE = "http://home.ustc.edu.cn/~zhouh156/dataset/csl-daily/"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{annotations.RELEASE_SOURCE}. {annotations.QUESTION_SOURCE}."

    def read_annotations(self, manual_dir: Path) -> dict[str, Annotations]:
        """Read the files of the release and the questions."""
        files = annotations.find_files(manual_dir, text_only=self.text_only)
        return annotations.read_annotations(files)

    def table_files(self, manual_dir: Path) -> list[Path]:
        """Return the question files and the files of the release."""
        files = annotations.find_files(manual_dir, text_only=self.text_only)
        corpus = {found.corpus: None for found in files.values()}
        optional = [files["train"].corpus.with_name(annotations.SPLIT_FILE), files["train"].questions]
        questions = [files[split].questions for split in ("dev", "test")]
        return [*corpus, *questions, *(file for file in optional if file.is_file())]
