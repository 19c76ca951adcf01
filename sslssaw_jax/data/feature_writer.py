"""The writing of feature sets: a set appears whole, or not at all."""

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from filelock import Timeout

from sslssaw_jax.data.clips import ClipInfo, ClipSource
from sslssaw_jax.data.dataset import DIGESTS, Dataset, DatasetError, file_digest
from sslssaw_jax.data.features import FEATURES, FeatureSet, features_folder, find_features
from sslssaw_jax.errors import listed
from sslssaw_jax.workdir import locked_file, read_json, read_jsonl, write_json

FACTS, LARGEST = "facts.json", float(np.finfo(np.float16).max)


class FeatureWriter:
    """A writer of one feature set that continues where a killed writer stopped.

    Rows are kept in `features/.<set>.partial/` until every clip of the written splits has some; then the
    folder takes its name.

    Args:
        dataset: The prepared dataset.
        name: Of the set.
        stride: The frames from one row to the next.
        span: The frames that a row looks at.
        source: What the rows were made from; with another source, writing starts over.
        points: For a keypoint set, the names of the points.
        most_frames: The number of frames after which the source cuts clips, if any.
        overwrite: Whether a set of this name is replaced.
        resume: Whether to continue with the rows of a killed writer.

    Raises:
        DatasetError: The set exists, another process writes it, or rows do not fit a clip.
    """

    def __init__(
        self,
        dataset: Dataset,
        name: str,
        *,
        stride: int = 1,
        span: int | None = None,
        source: str,
        points: Sequence[str] = (),
        most_frames: int | None = None,
        overwrite: bool = False,
        resume: bool = True,
    ) -> None:
        self._dataset, self._folder = dataset, features_folder(dataset, name)
        self._partial = self._folder.with_name(f".{name}.partial")
        self._stride, self._span = stride, span or stride
        self._facts: dict[str, Any] = {"stride": stride, "span": self._span, "source": source}
        if points:
            self._facts["points"] = list(points)
        self._most_frames, self._resume = most_frames, resume
        self._width: int | None = None
        self._splits: dict[str, _SplitFile] = {}
        self._open = ExitStack()
        if self._folder.exists() and not overwrite and _is_whole(dataset, name):
            raise DatasetError(
                f"{self._folder} exists: add --overwrite to replace it, or choose another name"
            )

    def __enter__(self) -> Self:
        self._partial.parent.mkdir(exist_ok=True)
        lock = self._partial.with_name(f"{self._folder.name}.lock")
        try:
            self._open.enter_context(locked_file(lock.with_name(f".{lock.name}"), timeout=0))
        except Timeout:
            raise DatasetError(f"another process writes {self._folder}: wait for its end") from None
        facts = self._partial / FACTS
        if not self._resume or not facts.is_file() or read_json(facts) != self._facts:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir()
            write_json(facts, self._facts)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            for split in self._splits.values():
                split.file.close()
            if kind and not self._resume:
                shutil.rmtree(self._partial)

    @cached_property
    def clips(self) -> dict[str, dict[str, ClipInfo]]:
        """Return the dataset's clips by split and id."""
        dataset = self._dataset
        return {
            split: {clip.id: clip for clip in ClipSource(dataset, split).clips} for split in dataset.splits
        }

    def find(self, name: str) -> tuple[str, ClipInfo] | None:
        """Return split and clip, if any, of a name, maybe `split/name`.

        Raises:
            DatasetError: Clips of several splits have the name.
        """
        folder, _, last = name.rpartition("/")
        if folder in self.clips:
            return (folder, self.clips[folder][last]) if last in self.clips[folder] else None
        name = last  # the name of another folder means nothing
        found = [(split, clips[name]) for split, clips in self.clips.items() if name in clips]
        if len(found) > 1:
            splits = " and ".join(split for split, _ in found)
            raise DatasetError(f"{splits} have a clip {name}: name it with its split, {found[0][0]}/{name}")
        return found[0] if found else None

    def written(self, split: str) -> set[str]:
        """Return the ids of a split's clips that have rows already."""
        return set(self._split(split).places)

    def add(self, split: str, clip: ClipInfo, rows_FxC: np.ndarray) -> None:
        """Write the rows of a clip.

        Raises:
            DatasetError: The rows have another width or number, or do not fit float16.
        """
        what = f"the clip {clip.id} of {split}"
        with np.errstate(over="ignore"):
            rows_FxC = np.asarray(rows_FxC, np.float32)
        if rows_FxC.ndim != 2 or not rows_FxC.size:
            raise DatasetError(f"{what} has features of the shape {list(rows_FxC.shape)}: expected [rows, C]")
        largest = float(np.abs(rows_FxC).max())
        if not largest <= LARGEST:  # NaN, too
            raise DatasetError(
                f"{what} has a feature of {largest:g}, and float16 holds at most {LARGEST:g}: "
                "scale the features"
            )
        file, width = self._split(split), rows_FxC.shape[1]
        self._width = self._width or file.width or width
        if width != self._width:
            raise DatasetError(f"{what} has features of the width {width}, those before it {self._width}")
        self._require_length(what, clip.num_frames, len(rows_FxC))
        if clip.id in file.places:
            raise DatasetError(f"{what} comes twice")
        file.append(clip.id, rows_FxC.astype(np.float16))

    def finish(self) -> dict[str, int]:
        """Give the set its name, and return its clips by split.

        Raises:
            DatasetError: A clip of a written split has no rows.
        """
        if not self._splits:
            raise DatasetError(f"no clip of {self._dataset.folder} has features")
        for split, file in self._splits.items():
            if missing := [name for name in self.clips[split] if name not in file.places]:
                raise DatasetError(
                    f"{len(missing):,} of {len(self.clips[split]):,} clips of {split} have no features: "
                    f"{listed(missing)}"
                )
        for split, file in self._splits.items():
            file.close_whole()
            write_json(self._partial / f"{split}.json", self._facts | {"clips": file.places})
            (self._partial / f"{split}.jsonl").unlink()
        (self._partial / FACTS).unlink()
        with locked_file(self._partial.with_name(".lock")):
            self._take_place()
        return {split: len(file.places) for split, file in self._splits.items()}

    @property
    def found(self) -> FeatureSet:
        """Return the finished set."""
        return find_features(self._dataset, [self._folder.name])[0]

    def _take_place(self) -> None:
        """Replace the set, which the digests list only while whole."""
        folder, old = self._folder, self._partial.with_name(f".{self._folder.name}.old")
        prefix, listing = f"{FEATURES}/{folder.name}/", self._dataset.folder / DIGESTS
        digests = {name: x for name, x in read_json(listing).items() if not name.startswith(prefix)}
        write_json(listing, digests)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        self._partial.rename(folder)
        own = {f"{prefix}{path.name}": file_digest(path) for path in sorted(folder.iterdir())}
        write_json(listing, digests | own)
        shutil.rmtree(old, ignore_errors=True)

    def _split(self, split: str) -> "_SplitFile":
        if split not in self._splits:
            self._splits[split] = _SplitFile(self._partial, split)
        return self._splits[split]

    def _require_length(self, what: str, num_frames: int, count: int) -> None:
        stride, span = self._stride, self._span
        if not num_frames:  # a dataset without videos
            return
        frames = min(num_frames, self._most_frames or num_frames)
        least, most = max((frames - span) // stride + 1, 1), -(-frames // stride)
        if not least <= count <= most:
            expected = f"{least}" if least == most else f"{least} to {most}"
            raise DatasetError(
                f"{what} has {num_frames:,} frames and {count:,} rows of features: expected {expected} "
                f"with a stride of {stride} and a span of {span} frames; set --stride and --span, or prepare "
                "the dataset at the frame rate of the features"
            )


class _SplitFile:
    """The rows of a split, appended clip by clip; each is noted after its rows."""

    def __init__(self, folder: Path, split: str) -> None:
        self.path, self._notes = folder / f"{split}.npy", folder / f"{split}.jsonl"
        notes: list[dict[str, Any]] = []
        if self._notes.is_file():
            text = self._notes.read_bytes()
            self._notes.write_bytes(text[: text.rfind(b"\n") + 1])  # a killed writer leaves half a line
            notes = read_jsonl(self._notes)
        self.places: dict[str, list[int]] = {note["id"]: note["place"] for note in notes}
        self.width: int | None = notes[0]["width"] if notes else None
        self._rows = sum(count for _, count in self.places.values())
        self.file: BinaryIO = self.path.open("r+b" if notes else "w+b")
        if self.width:
            self._write_header()
            self.file.seek(2 * self._rows * self.width, 1)
            self.file.truncate()  # rows that a killed writer did not note

    def append(self, clip_id: str, rows_FxC: np.ndarray) -> None:
        """Write a clip's rows, then note their place."""
        if self.width is None:
            self.width = rows_FxC.shape[1]
            self._write_header()
        self.file.write(np.ascontiguousarray(rows_FxC).tobytes())
        self.file.flush()
        place = [self._rows, len(rows_FxC)]
        note = {"id": clip_id, "place": place, "width": self.width}
        with self._notes.open("a", encoding="utf-8") as notes:
            notes.write(f"{json.dumps(note)}\n")
        self.places[clip_id] = place
        self._rows += len(rows_FxC)

    def close_whole(self) -> None:
        """Write the number of rows into the file's header, and close it."""
        self.file.seek(0)
        self._write_header()
        self.file.close()

    def _write_header(self) -> None:
        # NumPy leaves room in a header for the first axis to grow
        header = {"descr": "<f2", "fortran_order": False, "shape": (self._rows, self.width)}
        np.lib.format.write_array_header_1_0(self.file, header)


def _is_whole(dataset: Dataset, name: str) -> bool:
    try:
        return bool(find_features(dataset, [name]))
    except DatasetError:
        return False
