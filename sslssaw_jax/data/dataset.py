"""A prepared dataset: its folder, facts, splits and tokenizer."""

import difflib
import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from sslssaw_jax.data.video import OptionError, Resize
from sslssaw_jax.errors import UserError
from sslssaw_jax.workdir import read_json, write_json

DATASETS = ("avatar_qa", "custom_qa", "csl_daily_qa", "phoenix2014t_qa", "qsl_qa")
FACTS = "dataset.json"
DIGESTS = "digests.json"  # the SHA-256 of each file of a dataset, by its path in the dataset's folder


BROKEN_FACTS = (OSError, ValueError, TypeError, KeyError, RecursionError, OptionError)


class DatasetError(UserError):
    """A dataset error; the message names the command to run."""


@dataclass(frozen=True)
class Source:
    """The files that a dataset was prepared from."""

    folder: str = ""  # its name; empty if the clips are generated
    tables: dict[str, str] = field(default_factory=dict)  # the SHA-256 of each file of texts, by its path
    videos: str = ""  # the SHA-256 of the paths, sizes and times of all videos


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """A description of how a dataset was prepared, and of the result.

    Two datasets with the same fingerprint hold the same clips, texts and frames in the same order.
    """

    language: str  # of questions and targets, in mBART's code
    resize: str  # as `data.video.Resize.parse` reads it
    fps: float
    jpeg_quality: int
    text_only: bool
    vocab_size: int  # 0: depends on the texts
    frame_size: tuple[int, int]  # height and width in pixels, (0, 0) without videos
    source: Source
    fingerprint: str

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> Self:
        """Return the facts that `to_json` wrote.

        Raises:
            TypeError, KeyError, ValueError, OptionError: A fact is missing, unknown or of another kind.
        """
        height, width = obj["frame_size"]
        for name, kind in (("language", str), ("resize", str), ("fps", float), ("fingerprint", str)):
            if type(obj[name]) is not kind:
                raise TypeError(f"{name} is not of type {kind.__name__}")
        Resize.parse(obj["resize"])
        if not 1 <= obj["fps"] <= 1000:
            raise ValueError(f"fps is {obj['fps']}")
        return cls(**obj | {"frame_size": (height, width), "source": Source(**obj["source"])})

    def to_json(self) -> dict[str, Any]:
        """Return the facts as an object for a JSON file."""
        return asdict(self) | {"frame_size": list(self.frame_size)}


@dataclass(frozen=True)
class Dataset:
    """A dataset as `tfds_builders.prepare` leaves it in `DATA_DIR/NAME/VERSION`."""

    folder: Path
    facts: DatasetFacts

    @property
    def language(self) -> str:
        """Return mBART's code of the language of questions and targets."""
        return self.facts.language

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
        DatasetError: There is no such dataset, or its language is not recorded.
    """
    parent = Path(data_dir) / name
    command = prepare_command(name, data_dir)
    versions = [path for path in parent.glob("*") if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    if not versions:
        if name not in DATASETS:
            near = difflib.get_close_matches(name, DATASETS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(DATASETS)}"
            raise DatasetError(f"there is no dataset {name}: {hint}")
        raise DatasetError(
            f"there is no prepared dataset {name} in {data_dir} (expected the folder {parent / 'VERSION'}): "
            f"run `{command}`"
        )
    folder = max(versions, key=lambda path: tuple(map(int, path.name.split("."))))
    try:
        return Dataset(folder, read_facts(folder))
    except BROKEN_FACTS as error:
        raise DatasetError(
            f"{folder / FACTS} does not say how the dataset was prepared: run `{command} --overwrite`"
        ) from error


def prepare_command(name: str, data_dir: str | Path, **options: Any) -> str:
    """Return the command that prepares a dataset, with capitals to replace."""
    if name == "custom_qa":
        options = {"language": "CODE"} | options
    if name != "avatar_qa":  # avatar_qa is rendered
        options |= {"manual_dir": "FOLDER"}
    given = {"data_dir": data_dir} | options
    return " ".join(
        [f"python -m tfds_builders.prepare {name}", *(f"--{key}={x}" for key, x in given.items())]
    )


def read_facts(folder: Path) -> DatasetFacts:
    """Read the facts of the dataset in a folder."""
    return DatasetFacts.from_json(read_json(folder / FACTS))


def write_dataset_facts(folder: Path, **facts: Any) -> None:
    """Write the facts and digests of an otherwise finished dataset.

    Args:
        folder: The folder of the dataset.
        **facts: The fields of `DatasetFacts` without the fingerprint.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (FACTS, DIGESTS))
    digests = {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
    write_json(folder / DIGESTS, digests)
    fingerprint = _fingerprint(digests, facts["language"])
    write_json(folder / FACTS, DatasetFacts(**facts, fingerprint=fingerprint).to_json())


def _fingerprint(digests: dict[str, str], language: str) -> str:
    # a run may use another tokenizer, and TFDS's own files name its version
    content = {name: digests[name] for name in digests if name.startswith("clips.") or "array_record" in name}
    what = {"files": content, "language": language}
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def damaged_files(dataset: Dataset) -> list[str]:
    """Return the files that are gone or differ from what was prepared."""
    try:
        digests = read_json(dataset.folder / DIGESTS)
        expected = _fingerprint(digests, dataset.language)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return [DIGESTS]
    if not all(map(is_below, digests)):
        return [DIGESTS]
    if dataset.facts.fingerprint != expected:
        return [f"{FACTS} or {DIGESTS}"]
    files = {name: dataset.folder / name for name in digests}
    return [name for name, file in files.items() if not file.is_file() or file_digest(file) != digests[name]]


def is_below(name: str) -> bool:
    """Return whether a name, such as `a/b.json`, stays in its folder."""
    parts = Path(name).parts
    return bool(parts) and not {"..", "/"} & set(parts)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
