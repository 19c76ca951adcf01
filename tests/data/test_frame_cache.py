"""The cache of decoded frames: the same batches, built whole or not at all, and only read if it fits."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.config.stages import StageConfig
from sslssaw_jax.data.batches import train_batches
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.frame_cache import CacheError, open_clips
from sslssaw_jax.data.mbart_tokenizer import load_tokenizer
from sslssaw_jax.types import Batch

STAGE = StageConfig(epochs=1, clips_per_batch=4, frame_budget=64)


@pytest.fixture
def data(tiny_data_dir: Path, tmp_path: Path) -> DataConfig:
    return DataConfig(
        data_dir=str(tiny_data_dir), cache=True, cache_dir=str(tmp_path / "cache"), num_threads=2
    )


def opened(data: DataConfig, split: str) -> ClipSource:
    return open_clips(find_dataset(data.data_dir, data.dataset), data, split)


def batches(data: DataConfig) -> list[Batch]:
    source = opened(data, "train")
    tokenizer = load_tokenizer(source.dataset.tokenizer_folder, source.dataset.language)
    return list(train_batches(source, tokenizer, data, STAGE, seed=3))


def cached(data: DataConfig, split: str = "dev") -> np.ndarray:
    """The frames of a split's first clip."""
    source = opened(data, split)
    frames = np.zeros((source.num_frames[0], *source.frame_size, 3), np.uint8)
    source.read_frames(0, np.arange(len(frames)), frames)
    return frames


def files(data: DataConfig, pattern: str = "*.npy") -> list[Path]:
    return sorted(Path(data.cache_dir).glob(pattern))


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("frames were decoded")

    monkeypatch.setattr(ClipSource, "read_frames", refuse)


@pytest.mark.parametrize("max_frames", [300, 10])
def test_cached_batches_equal_decoded_ones_byte_for_byte(data: DataConfig, max_frames: int) -> None:
    data = replace(data, max_frames=max_frames)
    for from_cache, decoded in zip(batches(data), batches(replace(data, cache=False)), strict=True):
        jax.tree.map(np.testing.assert_array_equal, from_cache, decoded)


def test_a_cache_is_built_once(data: DataConfig, request: pytest.FixtureRequest) -> None:
    built = cached(data)
    request.getfixturevalue("no_decoding")
    np.testing.assert_array_equal(cached(data), built)


def test_opening_builds_nothing(data: DataConfig) -> None:
    opened(data, "train")
    assert not Path(data.cache_dir).exists()


def test_a_truncated_cache_is_built_again(data: DataConfig) -> None:
    built = cached(data)
    (file,) = files(data)
    os.truncate(file, file.stat().st_size - 1)
    np.testing.assert_array_equal(cached(data), built)


def test_a_flipped_bit_is_noticed_and_the_cache_set_aside(data: DataConfig) -> None:
    built = cached(data)
    (file,) = files(data)
    damaged = bytearray(file.read_bytes())
    damaged[200] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(CacheError, match=r"damaged at clip dev-000 and was set aside as .*\.damaged"):
        cached(data)
    assert not files(data) and files(data, "*.damaged")[0].read_bytes() == damaged
    np.testing.assert_array_equal(cached(data), built)


def test_a_cache_of_other_frames_is_not_read(data: DataConfig, tiny_data_dir: Path, tmp_path: Path) -> None:
    cached(data, "dev")
    shutil.copytree(tiny_data_dir, tmp_path / "other")
    folder = tmp_path / "other" / "avatar_qa" / "1.0.0"
    (records,) = folder.glob("*-dev.array_record-*")
    shutil.copy(next(folder.glob("*-test.array_record-*")), records)
    shutil.copy(folder / "clips.test.jsonl", folder / "clips.dev.jsonl")
    other = replace(data, data_dir=str(tmp_path / "other"))
    np.testing.assert_array_equal(cached(other), cached(replace(other, cache=False)))
    assert len(files(data)) == 2


def test_a_full_disk_is_one_error_with_the_knobs_and_leaves_nothing(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CacheError, match=r"frames\.avatar_qa\.dev.* GB: .*No space left.*data\.cache_dir"):
        cached(data)
    assert not files(data) and not files(data, "*.partial")


def test_nothing_is_written_through_links_in_a_dataset(data: DataConfig, tmp_path: Path) -> None:
    built = cached(data)
    (file,) = files(data)
    file.unlink()
    other = tmp_path / "of the user"
    other.write_text("kept")
    for suffix in (".partial", ".crc32"):
        file.with_suffix(suffix).unlink(missing_ok=True)
        file.with_suffix(suffix).symlink_to(other)
    np.testing.assert_array_equal(cached(data), built)
    assert other.read_text() == "kept"


def test_an_interrupted_build_leaves_no_cache(data: DataConfig, no_decoding: None) -> None:
    with pytest.raises(AssertionError, match="decoded"):
        cached(data)
    assert not files(data) and not files(data, "*.partial")
