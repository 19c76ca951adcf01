"""A prepared dataset: its folder, its language and its splits, found once and passed on."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sslssaw_jax.data.clips import DatasetError, newest_version
from sslssaw_jax.workdir import read_json, write_json

FACTS_FILE = "dataset.json"


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset.

    Raises:
        DatasetError: Asked for its language, if the folder does not say it.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Return the dataset's name."""
        return self.folder.parent.name

    @property
    def splits(self) -> list[str]:
        """Return the names of the prepared splits."""
        return [path.name.split(".")[1] for path in sorted(self.folder.glob("clips.*.jsonl"))]

    @property
    def tokenizer_folder(self) -> Path:
        """Return the folder of the tokenizer that was prepared with the dataset."""
        return self.folder / "tokenizer"

    @cached_property
    def language(self) -> str:
        """Return mBART's code of the language of the targets."""
        try:
            return read_json(self.folder / FACTS_FILE)["language"]
        except (OSError, KeyError, json.JSONDecodeError) as error:
            raise DatasetError(
                f"{self.folder / FACTS_FILE} does not name the language ({error!r}): prepare the dataset "
                f"again with `python -m tfds_builders.prepare {self.name} --overwrite`"
            ) from None


def find_dataset(data_dir: Path, name: str) -> Dataset:
    """Find the newest version of a prepared dataset.

    Raises:
        DatasetError: There is none.
    """
    return Dataset(newest_version(data_dir, name))


def write_dataset_facts(folder: Path, *, language: str) -> None:
    """Write what a prepared dataset says of itself."""
    write_json(folder / FACTS_FILE, {"language": language})
