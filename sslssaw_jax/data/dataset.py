"""A prepared dataset: its folder, language, splits and tokenizer."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from sslssaw_jax.errors import UserError
from sslssaw_jax.workdir import read_json, write_json

FACTS = "dataset.json"


class DatasetError(UserError):
    """A dataset error; the message names the command to run."""


@dataclass(frozen=True)
class Dataset:
    """A dataset as `tfds_builders.prepare` leaves it in `DATA_DIR/NAME/VERSION`."""

    folder: Path
    language: str  # of questions and targets, in mBART's code

    @property
    def name(self) -> str:
        """Return the dataset's name."""
        return self.folder.parent.name

    @property
    def splits(self) -> list[str]:
        """Return the names of the splits, in alphabetical order."""
        return sorted(path.name.split(".")[1] for path in self.folder.glob("clips.*.jsonl"))

    @property
    def tokenizer_folder(self) -> Path:
        """Return the tokenizer's folder; without a train split there is none."""
        return self.folder / "tokenizer"

    def clips_file(self, split: str) -> Path:
        """Return the file with the texts and frame counts of a split."""
        return self.folder / f"clips.{split}.jsonl"


def find_dataset(data_dir: str | Path, name: str) -> Dataset:
    """Find the newest version of a prepared dataset.

    Raises:
        DatasetError: There is no such dataset, or its language is not written down.
    """
    parent = Path(data_dir) / name
    command = f"python -m tfds_builders.prepare {name} --data_dir={data_dir}"
    versions = [path for path in parent.glob("*") if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    if not versions:
        raise DatasetError(
            f"there is no prepared dataset {name} in {data_dir} (expected the folder {parent / 'VERSION'}): "
            f"run `{command}`"
        )
    folder = max(versions, key=lambda path: tuple(map(int, path.name.split("."))))
    try:
        return Dataset(folder, read_json(folder / FACTS)["language"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError) as error:
        raise DatasetError(
            f"{folder / FACTS} does not name the dataset's language: run `{command} --overwrite`, with "
            "--manual_dir if the dataset is read from files"
        ) from error


def write_dataset_facts(folder: Path, *, language: str) -> None:
    """Write the facts of a dataset that is being prepared."""
    write_json(folder / FACTS, {"language": language})
