"""Decoded frames of a split in one memory-mapped file, which saves decoding."""

import hashlib
import math
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np

from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.data.clips import ClipSource, TextSource
from sslssaw_jax.data.dataset import Dataset, DatasetError
from sslssaw_jax.data.features import FeatureSource
from sslssaw_jax.data.progress import progress_bar
from sslssaw_jax.errors import UserError
from sslssaw_jax.workdir import locked_file

_TAIL = 2**16  # bytes; the end of a record file holds the records' offsets, which change with the frames


class CacheError(UserError):
    """An error in writing the cache; the message names what to change."""


def open_clips(dataset: Dataset, data: DataConfig, split: str, *, video: bool = True) -> ClipSource:
    """Open the clips of a split.

    Args:
        dataset: The prepared dataset.
        data: What to read, and whether and where decoded frames are cached.
        split: The split's name.
        video: Whether frames are read; False opens only the texts.

    Raises:
        DatasetError: The dataset has no such split, or no videos.
    """
    if not video:
        return TextSource(dataset, split)
    if data.features:
        return FeatureSource(dataset, split, data.features)
    clips = (
        CachedClipSource(dataset, split, data.cache_dir, data.num_threads)
        if data.cache
        else ClipSource(dataset, split)
    )
    if not clips.num_frames.all():
        raise DatasetError(
            f"{dataset.folder} was prepared with --text_only and has no videos: prepare the dataset without "
            "--text_only, into another --data_dir, name feature sets with --config.data.features=NAME, or "
            "train a model with --config.model.inputs=question"
        )
    if data.keypoints:
        clips.keypoints = FeatureSource(dataset, split, [data.keypoints])
    return clips


class CachedClipSource(ClipSource):
    """A source that reads frames from a file, built by `get_ready` or at first use.

    The name holds a fingerprint of the split: a dataset that is prepared again gets a new file. If several
    processes need the same file, one builds it and the others wait. A checksum of each clip is stored next to
    the file and is compared when the clip is read for the first time.

    Args:
        dataset: The prepared dataset.
        split: The split's name.
        cache_dir: The folder of the file; the dataset's own if empty.
        num_threads: The number of threads that decode.
    """

    def __init__(self, dataset: Dataset, split: str, cache_dir: str | Path | None, num_threads: int) -> None:
        super().__init__(dataset, split)
        self._directory = Path(cache_dir or dataset.folder)
        self._file_name = f"frames.{dataset.name}.{split}.{self._fingerprint()}.npy"
        self._num_threads = num_threads
        self._start = np.cumsum(self.num_frames) - self.num_frames
        self._compared = np.zeros(len(self), bool)

    def get_ready(self) -> None:
        """Build the file unless it exists."""
        _ = self._frames

    def read_frames(self, index: int, kept: np.ndarray, frames_NxHxWx3: np.ndarray) -> None:
        """Copy the `kept` frames of a clip into `frames_NxHxWx3`.

        Raises:
            FrameError: The cache is being built, and a frame is broken.
            CacheError: The cache cannot be written, or is damaged.
        """
        if not self._compared[index]:
            self._compare(index)
        rows = self._start[index] + kept
        np.take(self._frames, rows, axis=0, out=frames_NxHxWx3, mode="clip")  # "raise" copies twice

    def _compare(self, index: int) -> None:
        """Compare a clip with its checksum, and set a damaged cache aside."""
        path, start = self._directory / self._file_name, self._start[index]
        frames = self._frames[start : start + self.num_frames[index]]
        if zlib.crc32(frames.data) != np.load(_sums_file(path))[index]:
            path.rename(path.with_suffix(".damaged"))
            raise CacheError(
                f"{path} is damaged at clip {self.clips[index].id} and was set aside as "
                f"{path.with_suffix('.damaged').name}: start again to rebuild it, and check the disk"
            )
        self._compared[index] = True

    def _fingerprint(self) -> str:
        """Return a digest of ids, frame counts and record files."""
        digest = hashlib.sha256(repr([(clip.id, clip.num_frames) for clip in self.clips]).encode())
        for path in sorted(self.dataset.folder.glob(f"*-{self.split}.array_record-*")):
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL))
                digest.update(f"{path.name} {size}".encode() + file.read())
        return digest.hexdigest()[:12]

    @cached_property
    def _frames(self) -> np.ndarray:
        """Return all frames of the split from disk, u8[N, H, W, 3]."""
        path = self._directory / self._file_name
        shape = (int(self.num_frames.sum()), *self.frame_size, 3)
        try:
            if not _is_whole(path, shape):
                self._directory.mkdir(parents=True, exist_ok=True)
                with locked_file(path.with_suffix(".lock")):
                    if not _is_whole(path, shape):  # otherwise another process has built it
                        self._build(path, shape)
        except OSError as error:
            raise CacheError(
                f"cannot write {path} of {math.prod(shape) / 1e9:.1f} GB: {error}; choose another "
                "--config.data.cache_dir=FOLDER, or set --config.data.cache=False"
            ) from error
        return np.load(path, mmap_mode="r")

    def _build(self, path: Path, shape: tuple[int, ...]) -> None:
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        try:
            with partial.open("xb") as file:  # "x" follows no link
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                # a mapped page that finds the disk full would kill the process
                os.posix_fallocate(file.fileno(), file.tell(), math.prod(shape))
            frames = np.load(partial, mmap_mode="r+")
            sums = np.zeros(len(self), np.uint32)

            def decode(index: int) -> None:
                start, count = self._start[index], self.num_frames[index]
                ClipSource.read_frames(self, index, np.arange(count), frames[start : start + count])
                sums[index] = zlib.crc32(frames[start : start + count].data)

            with ThreadPoolExecutor(self._num_threads) as pool:
                decoded = pool.map(decode, range(len(self)))
                for _ in progress_bar(decoded, f"decoding {self.split}", total=len(self), leave=False):
                    pass
            frames.flush()
            _sums_file(path).unlink(missing_ok=True)
            with _sums_file(path).open("xb") as file:
                np.save(file, sums)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _sums_file(path: Path) -> Path:
    return path.with_suffix(".crc32")


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return _sums_file(path).exists() and np.load(path, mmap_mode="r").shape == shape
    except (FileNotFoundError, ValueError):  # the latter if the file is shorter than its header says
        return False
