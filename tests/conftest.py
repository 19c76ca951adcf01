"""What all tests share: compiled programs, a miniature dataset and a closed network.

JAX keeps compiled programs in `~/.cache/sslssaw_jax/tests` for all workers of pytest-xdist, the processes
that tests start and the next session; JAX_COMPILATION_CACHE_DIR names another folder.
"""

import hashlib
import os
from pathlib import Path

import pytest
from filelock import FileLock

ENVIRONMENT = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # a toy takes its time to compile, not to run
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    # One thread a worker: two workers on two cores would only wait for each other.
    "NPROC": "1",  # the size of XLA's thread pools
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false --xla_cpu_parallel_codegen_split_count=1",
}


def pytest_configure() -> None:
    """Set what JAX reads when it is imported, here and in the processes that tests start."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = Path.home() / ".cache" / "sslssaw_jax" / "tests" / _processor()
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2 * 1024**3)  # bytes; JAX locks the folder with it


def _processor() -> str:
    """Return a name for what the processor can do: JAX's key of a program holds all but that."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else [" ".join(os.uname())]
    kinds = {line for line in lines if line.startswith(("model name", "flags", "Features"))} or set(lines)
    return hashlib.sha256("\n".join(sorted(kinds)).encode()).hexdigest()[:12]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow modules first, so that no worker begins one when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close the Hugging Face hub but for its local cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def tiny_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory holding `avatar_qa/1.0.0` as `tfds_builders.prepare` leaves it, with random frames."""
    data_dir = tmp_path_factory.mktemp("data")
    tfds.disable_progress_bar()
    builder = AvatarQa(file_format="array_record", data_dir=data_dir)
    builder.download_and_prepare()
    folder = data_dir / "avatar_qa" / "1.0.0"
    for split in SPLITS:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(split))
        (folder / f"clips.{split}.jsonl").write_text(lines, encoding="utf-8")
    write_dataset_facts(folder, language="en_XX")
    texts = [text for row in _rows("train") for text in (row["target"], clean_question(row["question"]))]
    write_dataset_facts(folder, language="en_XX")
    train_tokenizer(texts, folder / "tokenizer", vocab_size=60)
    return data_dir
