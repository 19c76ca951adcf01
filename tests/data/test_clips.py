import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sslssaw_jax.data import clips
from sslssaw_jax.data.dataset import find_dataset


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
