"""The files of a dataset's folder: records, lists of clips, tokenizer, and keypoints of drawn signers."""

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslssaw_jax.data.clips import opening_records
from sslssaw_jax.data.dataset import Dataset, read_facts
from sslssaw_jax.data.feature_writer import FeatureWriter
from sslssaw_jax.data.keypoints import AVATAR
from sslssaw_jax.data.progress import progress_bar
from sslssaw_jax.errors import UserError
from sslssaw_jax.workdir import read_jsonl, write_jsonl

if TYPE_CHECKING:  # each worker process of a builder imports this module, which therefore stays light
    from tfds_builders.video_qa_builder import VideoQaBuilder

DEFAULT_VOCAB_SIZE = 2400  # besides single characters; about the size of mBART's, trimmed to PHOENIX-2014T


def write_records(builder: "VideoQaBuilder", manual_dir: Path | None) -> None:
    """Write the records of all splits.

    Raises:
        UserError: An input is unusable, or the disk is full.
    """
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS would announce the temporary folder
        try:
            builder.download_and_prepare(
                download_dir=Path(builder.data_dir_root) / "downloads",
                download_config=config,
                file_format="array_record",
            )
        except RuntimeError as error:
            what, of_array_record, _ = str(error).partition("; writing ")
            if not of_array_record:
                raise
            raise UserError(f"the records cannot be written: {what}") from error


def write_clips(builder: "VideoQaBuilder", folder: Path) -> None:
    """Write `clips.<split>.jsonl` from the records: row i describes record i."""
    import tensorflow_datasets as tfds

    known = {key: feature for key, feature in builder.info.features.items() if key != "video"}
    features = tfds.features.FeaturesDict(known)
    raw_bytes = tfds.decode.DeserializeMethod.RAW_BYTES
    for split in builder.info.splits:
        records = builder.as_data_source(split, deserialize_method=raw_bytes)
        bar = progress_bar(records, f"listing {split}", leave=False)
        values = map(features.deserialize_example_np, bar)
        with opening_records(folder):
            write_jsonl(
                folder / f"clips.{split}.jsonl",
                ({key: _plain(clip[key]) for key in known} for clip in values),
            )


def write_keypoints(builder: "VideoQaBuilder", folder: Path) -> None:
    """Write the keypoint set of a dataset's drawn signers."""
    dataset = Dataset(folder, read_facts(folder))
    with FeatureWriter(dataset, AVATAR, source="drawn", points=builder.points, resume=False) as writer:
        for split, clip_id, rows in builder.keypoints():
            writer.add(split, writer.clips[split][clip_id], rows)
        writer.finish()


def _plain(value: Any) -> str | int | bool:
    return value.decode("utf-8") if isinstance(value, bytes) else value


def write_tokenizer(folder: Path, vocab_size: int, language: str) -> None:
    """Train the tokenizer on the texts of train; size 0 chooses one."""
    from sslssaw_jax.data.mbart_tokenizer import LANGUAGES, LANGUAGES_50, train_tokenizer
    from sslssaw_jax.data.text import clean_question

    clips = read_jsonl(folder / "clips.train.jsonl")
    texts = [text for clip in clips for text in (clip["target"], clean_question(clip["question"]))]
    num_characters = len(set().union(*texts))
    size = vocab_size or DEFAULT_VOCAB_SIZE + num_characters
    languages = LANGUAGES if language in LANGUAGES else LANGUAGES_50
    train_tokenizer(texts, folder / "tokenizer", size, languages)
