import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sslssaw_jax.data import clips
from sslssaw_jax.data.dataset import DatasetError, find_dataset


def test_one_thread_at_a_time_imports_what_reads_records(
    tiny_data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, inside, most = clips.record_features(), [], []

    def slow() -> Any:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return features

    monkeypatch.setattr(clips, "record_features", slow)
    source = clips.ClipSource(find_dataset(tiny_data_dir, "avatar_qa"), "test")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(source.__getitem__, range(4)))
    assert most == [1] * 4


@pytest.fixture
def few_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # stdin, stdout and stderr
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def unopened(tiny_data_dir: Path) -> clips.ClipSource:
    source = clips.ClipSource(find_dataset(tiny_data_dir, "avatar_qa"), "test")
    assert len(source._records) == len(source)  # imports what reads records, and opens no file for good
    return source


def test_more_files_of_records_than_the_soft_limit_are_open(
    unopened: clips.ClipSource, few_files: None
) -> None:
    assert unopened[0].id == "test-000"


def test_too_many_files_of_records_are_no_broken_clip(
    unopened: clips.ClipSource, few_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("not allowed to raise maximum limit")

    with monkeypatch.context() as patch:
        patch.setattr(resource, "setrlimit", refuse)
        with pytest.raises(DatasetError, match=r"may have open \(3\): .*`ulimit -n`") as error:
            unopened[0]
    assert not isinstance(error.value, clips.RecordError)  # skip_broken would leave the clip out
