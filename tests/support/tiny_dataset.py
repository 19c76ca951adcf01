"""A prepared dataset in miniature: random frames under the demo dataset's name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from sslssaw_jax.data.clips import record_features
from sslssaw_jax.data.dataset import Source, write_dataset_facts
from sslssaw_jax.data.mbart_tokenizer import train_tokenizer
from sslssaw_jax.data.text import clean_question

SIDE = 48  # pixels
SPLITS = {"train": 24, "dev": 6, "test": 6, "isolated": 12}

TIMES = ("today", "tomorrow", "tonight")
WEATHER = ("rain", "snow", "wind", "fog", "sun", "hail")
PLACES = ("north", "south", "east", "west")
FACTS: dict[str, Any] = {
    "language": "en_XX",
    "resize": f"crop:{SIDE}",
    "fps": 25.0,
    "jpeg_quality": 95,
    "text_only": False,
    "vocab_size": 60,
    "frame_size": (SIDE, SIDE),
    "source": Source(),
}


def _rows(split: str) -> list[dict[str, Any]]:
    """Draw the rows of `clips.<split>.jsonl`; isolated clips are single signs without a question."""
    rng = np.random.default_rng(list(SPLITS).index(split))
    rows = []
    for number in range(SPLITS[split]):
        time, weather, place = (str(rng.choice(words)) for words in (TIMES, WEATHER, PLACES))
        isolated = split == "isolated"
        rows.append(
            {
                "id": f"{split}-{number:03d}",
                "num_frames": 6 if isolated else int(rng.integers(8, 25)),
                "question": "" if isolated else f"What  Comes {time.upper()}\u200b?",
                "target": weather if isolated else f"{time} there is {weather} in the {place}",
                "gloss": weather.upper() if isolated else " ".join((time, weather, place)).upper(),
                "signer": f"signer{number % 3}",
                "overlap": False,
            }
        )
    return rows


class AvatarQa(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Random frames under the name and the features of the demo dataset."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=record_features(), disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, row in enumerate(_rows(split)):
            rng = np.random.default_rng(list(row["id"].encode()))
            coarse = rng.integers(0, 256, (row["num_frames"], 6, 6, 3), dtype=np.uint8)
            frames = [cv2.resize(frame, (SIDE, SIDE)) for frame in coarse]
            yield number, row | {"video": [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]}


def prepare(data_dir: Path) -> None:
    """Write `avatar_qa/1.0.0` into `data_dir`, as `tfds_builders.prepare` does."""
    tfds.disable_progress_bar()
    AvatarQa(file_format="array_record", data_dir=data_dir).download_and_prepare()
    folder = data_dir / "avatar_qa" / "1.0.0"
    for split in SPLITS:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(split))
        (folder / f"clips.{split}.jsonl").write_text(lines, encoding="utf-8")
    texts = [text for row in _rows("train") for text in (row["target"], clean_question(row["question"]))]
    train_tokenizer(texts, folder / "tokenizer", vocab_size=60)
    write_dataset_facts(folder, **FACTS)
