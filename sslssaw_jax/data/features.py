"""Prepared feature sets of a dataset: a row for every few frames of a clip, in place of the frames.

A set is in `<dataset>/features/<set>/`: `<split>.npy`, float16 `[rows, C]`, and `<split>.json`, with the
`stride` and the `span` of a row in frames, its `source`, and for each clip its first row and number of rows.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslssaw_jax.data.clips import ClipSource, check_name
from sslssaw_jax.data.dataset import DIGESTS, Dataset, DatasetError
from sslssaw_jax.data.frames import select_frames
from sslssaw_jax.errors import listed
from sslssaw_jax.types import FeatureSize, most_rows
from sslssaw_jax.workdir import read_json

FEATURES = "features"  # the folder of all sets in a dataset's folder
_BROKEN = (OSError, ValueError, TypeError, KeyError, RecursionError)


@dataclass(frozen=True)
class FeatureSet(FeatureSize):
    """A prepared feature set."""

    name: str
    fingerprint: str  # of the rows and their places, in all splits
    points: tuple[str, ...] = ()  # of a keypoint set: the names of the points, each with x, y and score


def features_notes(sets: Sequence[FeatureSet]) -> dict[str, dict[str, Any]]:
    """Return what a run keeps about its feature sets, as JSON."""
    notes = {one.name: asdict(one) | {"points": list(one.points)} for one in sets}
    return {
        name: {key: x for key, x in note.items() if key != "name" and x != []} for name, note in notes.items()
    }


def features_from_notes(notes: Mapping[str, Any]) -> list[FeatureSet]:
    """Return the sets that `features_notes` described."""
    return [
        FeatureSet(name=name, **facts | {"points": tuple(facts.get("points", ()))})
        for name, facts in notes.items()
    ]


def features_folder(dataset: Dataset, name: str) -> Path:
    """Return the folder of a set.

    Raises:
        DatasetError: The name cannot name a folder.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise DatasetError(f"no name of a feature set: {error}") from None
    return dataset.folder / FEATURES / name


def set_names(dataset: Dataset) -> list[str]:
    """Return the names of all sets, in alphabetical order."""
    return sorted(path.name for path in (dataset.folder / FEATURES).glob("[!.]*") if path.is_dir())


def find_features(dataset: Dataset, names: Sequence[str]) -> list[FeatureSet]:
    """Find prepared feature sets.

    Raises:
        DatasetError: A set is missing, unfinished or damaged.
    """
    return [_find(dataset, name) for name in names]


def import_command(dataset: Dataset, name: str, kind: str) -> str:
    """Return the command that imports a set in a format."""
    return (
        f"python -m tfds_builders.features --format={kind} --name={name} --dataset={dataset.name} "
        f"--data_dir={dataset.folder.parents[1]} FILES"
    )


def _find(dataset: Dataset, name: str) -> FeatureSet:
    folder = features_folder(dataset, name)
    if not folder.is_dir():
        known = ", ".join(set_names(dataset)) or "none"
        raise DatasetError(
            f"{dataset.folder} has no feature set {name}; it has {known}: import one with "
            f"`{import_command(dataset, name, 'FORMAT')}`, or write one with run.py by a configuration that "
            f"reads frames and `--mode=extract --features={name}`"
        )
    try:
        index, *_ = sorted(folder.glob("*.json"))
        digests = read_json(dataset.folder / DIGESTS)
        hashes = {path.name: digests[f"{FEATURES}/{name}/{path.name}"] for path in sorted(folder.iterdir())}
        facts, width = read_json(index), np.load(index.with_suffix(".npy"), mmap_mode="r").shape[1]
        fingerprint = hashlib.sha256(repr(hashes).encode()).hexdigest()[:16]
        points = tuple(map(str, facts.get("points", ())))  # features have none
        return FeatureSet(width, int(facts["stride"]), int(facts["span"]), name, fingerprint, points)
    except _BROKEN as error:
        raise DatasetError(f"the feature set {folder} is not whole ({error}): {_WRITE_AGAIN}") from error


_WRITE_AGAIN = "import or extract it again with --overwrite"


class FeatureSource(ClipSource):
    """A source of clips with rows of feature sets in place of frames.

    Raises:
        DatasetError: A set is missing, damaged, or without a clip of the split.
    """

    frame_size = (0, 0)

    def __init__(self, dataset: Dataset, split: str, names: Sequence[str]) -> None:
        super().__init__(dataset, split)
        self.feature_sets = find_features(dataset, names)
        opened = [self._open(features_folder(dataset, name)) for name in names]
        self._rows = [rows for rows, _ in opened]
        self._places = [places for _, places in opened]

    def _open(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return a set's rows, and each clip's first row and count."""
        index = folder / f"{self.split}.json"
        if not index.is_file():
            known = ", ".join(sorted(path.stem for path in folder.glob("*.json")))
            raise DatasetError(
                f"the feature set {folder} has no split {self.split}; it has {known}: write it again "
                "with all splits, and --overwrite"
            )
        try:
            clips = read_json(index)["clips"]
            places = [clips.get(clip.id) or clips.get(f"{self.split}/{clip.id}") for clip in self.clips]
            if missing := [clip.id for clip, place in zip(self.clips, places) if place is None]:
                raise DatasetError(
                    f"{index} has no rows of {len(missing):,} of {len(places):,} clips, {listed(missing)}: "
                    f"{_WRITE_AGAIN}"
                )
            places_Bx2 = np.array(places)
            rows_NxC = np.load(index.with_suffix(".npy"), mmap_mode="r")
            start, count = places_Bx2.T
            if rows_NxC.dtype != np.float16 or start.min() < 0 or count.min() < 1:
                raise ValueError("rows are not float16, or a clip has none")
            if (start + count).max() > len(rows_NxC):
                raise ValueError(f"a clip's rows lie after the last of {len(rows_NxC):,}")
        except _BROKEN as error:
            raise DatasetError(f"{index} and its .npy are damaged ({error}): {_WRITE_AGAIN}") from error
        return rows_NxC, places_Bx2

    def lengths(self, max_frames: int) -> np.ndarray:
        """Return each clip's most rows in a batch, over all sets, i[clips]."""
        kept = [
            np.minimum(places[:, 1], most_rows(max_frames, features.stride))
            for places, features in zip(self._places, self.feature_sets)
        ]
        return np.max(kept, axis=0)

    def read_features(self, index: int, max_frames: int, rng: np.random.Generator | None) -> list[np.ndarray]:
        """Return a clip's rows of each set, f16[n, C].

        From a clip longer than `max_frames`, rows of stride 1 are chosen like frames. Windows belong
        together: of rows with a larger stride, one stretch is kept, the same in all sets.

        Args:
            index: The clip's place.
            max_frames: The most frames of a clip.
            rng: Draws what is kept of a longer clip, for training; None keeps evenly spaced rows, or the
                middle stretch.
        """
        # all sets draw the same
        seed = None if rng is None else int(rng.integers(2**32))
        sets = [
            (rows, *places[index].tolist(), one.stride, most_rows(max_frames, one.stride))
            for rows, places, one in zip(self._rows, self._places, self.feature_sets)
        ]
        # a longer span gives fewer windows
        spare = [max(count - most + 1, 1) * stride for _, _, count, stride, most in sets if stride > 1]
        share = 0.5 if seed is None or not spare else np.random.default_rng(seed).random()
        begin = int(share * min(spare, default=0))  # in frames
        found = []
        for rows, start, count, stride, most in sets:
            if stride == 1:
                draw = None if seed is None else np.random.default_rng(seed)
                found.append(rows[start + select_frames(count, most, draw)])
            else:
                first = start + begin // stride
                found.append(rows[first : first + min(count, most)])
        return found

    def without_video(self) -> "FeatureSource":
        """Return a source of the same clips with rows of zeros."""
        other = super().without_video()
        read = self.read_features
        other.read_features = lambda *clip: [0 * rows for rows in read(*clip)]  # type: ignore
        return other
