"""custom_qa: your own clips, named by a CSV or JSON lines table."""

import difflib
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from sslssaw_jax.data.mbart_tokenizer import LANGUAGES_50
from sslssaw_jax.data.video import OptionError
from tfds_builders.annotation import Annotations
from tfds_builders.custom_qa import table
from tfds_builders.video_qa_builder import VideoQaBuilder


class Builder(VideoQaBuilder):
    """A builder that reads a table and the videos in it.

    Args:
        language: mBART's code of the language of questions and targets.
        **kwargs: Arguments of `VideoQaBuilder`.

    Raises:
        OptionError: The language is empty or unknown.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = table.EXPECTED

    def __init__(self, *, language: str, **kwargs: Any) -> None:
        if not language:
            raise OptionError(
                "custom_qa needs --language=CODE, mBART's code of the language of its questions and targets: "
                "en_XX for English, de_DE for German, zh_CN for Chinese"
            )
        if language not in LANGUAGES_50:
            close = difflib.get_close_matches(language, LANGUAGES_50, cutoff=0.5) or LANGUAGES_50
            raise OptionError(f"--language={language} is not one of mBART's codes; known: {', '.join(close)}")
        self.language = language
        super().__init__(**kwargs)

    def read_annotations(self, manual_dir: Path) -> dict[str, Annotations]:
        """Read the table of a folder."""
        return table.read_table(table.find_table(manual_dir), needs_video=not self.text_only)

    def table_files(self, manual_dir: Path) -> list[Path]:
        """Return the table of a folder."""
        return [table.find_table(manual_dir)]
