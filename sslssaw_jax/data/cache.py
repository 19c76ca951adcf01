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

from sslssaw_jax.config import DataConfig
from sslssaw_jax.data.source import ClipSource

_TAIL = 2**16  # bytes; the end of a record file is an index that changes with its contents


class CacheError(OSError):
    """The cache cannot be written; the message names it, its size and what to do."""


def open_clips(data: DataConfig, split: str) -> ClipSource:
    """The clips of a split, decoded beforehand where `data.cache` is set.

    Raises:
      DatasetError: the dataset has not been prepared in `data_dir`, or has no such split.
    """
    return (CachedClipSource if data.cache else ClipSource)(data.data_dir, data.dataset, split)
