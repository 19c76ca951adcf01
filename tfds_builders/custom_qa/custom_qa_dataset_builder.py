"""custom_qa: one's own clips, named by a table in CSV or JSON lines."""

from pathlib import Path

import tensorflow_datasets as tfds

from tfds_builders.annotation import Annotations
from tfds_builders.custom_qa import table
from tfds_builders.video_qa_builder import VideoQaBuilder


class Builder(VideoQaBuilder):
    """Reads the table, and the video files or folders of frames that it names."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = table.EXPECTED

    def read_annotations(self, manual_dir: Path) -> dict[str, Annotations]:
        return table.read_table(table.find_table(manual_dir))
