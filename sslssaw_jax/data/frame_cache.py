"""Decoded frames of a split in one memory-mapped file: disk space for the time of decoding."""

import fcntl
import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.data.clips import ClipSource, DatasetError, TextSource
from sslssaw_jax.errors import UserError

_TAIL = 2**16  # bytes; there a record file keeps the places of its records, which change with the frames


class CacheError(UserError):
    """The cache cannot be written; the message names the file, its size and what to change."""


def open_clips(data: DataConfig, split: str, *, video: bool = True) -> ClipSource:
    """The clips of a split, their frames decoded once and for all where `data.cache` is set.

    Without `video` there are only their texts.

    Raises:
      DatasetError: the dataset has not been prepared in `data.data_dir`, or has no such split, or no videos.
    """
    if not video:
        return TextSource(data.data_dir, data.dataset, split)
    clips = (
        CachedClipSource(data.data_dir, data.dataset, split, data.cache_dir or "", data.num_threads)
        if data.cache
        else ClipSource(data.data_dir, data.dataset, split)
    )
    if not clips.num_frames.all():
        raise DatasetError(
            f"{clips.folder} was prepared with --text_only and has no videos: prepare it without, "
            "into another --data_dir, or set model.inputs to 'question' and init_from to 'none'"
        )
    return clips


class CachedClipSource(ClipSource):
    """The same clips; the first frame asked for builds the cache where none fits.

    Its file's name holds a fingerprint of the split: a dataset that is prepared anew gets a new one. Of
    several processes that need the same file one builds it, and the others wait.

    Args:
      data_dir, dataset, split: as for `ClipSource`.
      cache_dir: where the file goes; "" is the dataset's own folder.
      num_threads: that decode when building.
    """

    def __init__(
        self, data_dir: str | Path, dataset: str, split: str, cache_dir: str | Path, num_threads: int
    ) -> None:
        super().__init__(data_dir, dataset, split)
        self._directory = Path(cache_dir or self.folder)
        self._file_name = f"frames.{dataset}.{split}.{self._fingerprint()}.npy"
        self._num_threads = num_threads
        self._start = np.cumsum(self.num_frames) - self.num_frames

    def read_frames(self, index: int, kept: np.ndarray, frames_NxHxWx3: np.ndarray) -> None:
        """As `ClipSource.read_frames`; the first call may raise FrameError or CacheError when building."""
        rows = self._start[index] + kept
        np.take(self._frames, rows, axis=0, out=frames_NxHxWx3, mode="clip")  # "raise" copies twice

    def _fingerprint(self) -> str:
        """Of ids, counts, and the sizes and ends of the record files."""
        digest = hashlib.sha256(repr([(clip.id, clip.num_frames) for clip in self.clips]).encode())
        for path in sorted(self.folder.glob(f"*-{self.split}.array_record-*")):
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL))
                digest.update(f"{path.name} {size}".encode() + file.read())
        return digest.hexdigest()[:12]

    @cached_property
    def _frames(self) -> np.ndarray:
        """u8[frames of the split, H, W, 3], on disk."""
        path = self._directory / self._file_name
        shape = (int(self.num_frames.sum()), *self.frame_size, 3)
        try:
            if not _is_whole(path, shape):
                self._directory.mkdir(parents=True, exist_ok=True)
                with path.with_suffix(".lock").open("w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if not _is_whole(path, shape):  # else another process built it
                        self._build(path, shape)
        except DatasetError:
            raise
        except OSError as error:
            raise CacheError(
                f"cannot write {path} of {math.prod(shape) / 1e9:.1f} GB: {error}; choose another "
                "data.cache_dir, or set data.cache to False"
            ) from error
        return np.load(path, mmap_mode="r")

    def _build(self, path: Path, shape: tuple[int, ...]) -> None:
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                # a mapped page that finds the disk full would kill the process
                os.posix_fallocate(file.fileno(), file.tell(), math.prod(shape))
            frames = np.load(partial, mmap_mode="r+")

            def decode(index: int) -> None:
                start, count = self._start[index], self.num_frames[index]
                ClipSource.read_frames(self, index, np.arange(count), frames[start : start + count])

            with ThreadPoolExecutor(self._num_threads) as pool:
                decoded = pool.map(decode, range(len(self)))
                for _ in tqdm(decoded, f"decoding {self.split}", len(self), unit="clip", leave=False):
                    pass
            frames.flush()
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return np.load(path, mmap_mode="r").shape == shape
    except (FileNotFoundError, ValueError):  # the latter where a file is shorter than its header says
        return False
