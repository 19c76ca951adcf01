"""What all tests share: compiled programs, a miniature dataset and a closed network.

JAX keeps compiled programs in `~/.cache/sslssaw_jax/tests` for all workers of pytest-xdist, the processes
that tests start and the next session; JAX_COMPILATION_CACHE_DIR names another folder.
"""

import os
from importlib.metadata import version
from pathlib import Path

import pytest
from filelock import FileLock

from sslssaw_jax.training.compilation_cache import processor

XLA_FLAGS = ["--xla_cpu_multi_thread_eigen=false", "--xla_cpu_parallel_codegen_split_count=1"]
if version("jaxlib").startswith("0.10."):  # later versions stop at a flag that they do not know
    XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # compiles in a third of the time
    XLA_FLAGS.append("--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE")

ENVIRONMENT = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # a toy spends its time compiling, not running
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",  # no operation needs to know its source lines
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    # One thread per worker: two workers on two cores would only wait for each other.
    "NPROC": "1",  # the size of XLA's thread pools
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": " ".join(XLA_FLAGS),
}


def pytest_configure() -> None:
    """Set what JAX reads when it is imported, here and in the processes that tests start."""
    for name, value in ENVIRONMENT.items():
        os.environ[name] = os.environ.get(name) or value
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = Path.home() / ".cache" / "sslssaw_jax" / "tests" / processor()
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2 * 1024**3)  # bytes; JAX locks the folder with it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow modules first, so that no worker begins one when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close the Hugging Face hub except for its local cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def tiny_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data directory with a tiny `avatar_qa/1.0.0`, made by the first worker that needs it."""
    from tests.support import tiny_dataset

    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent  # the folder that all workers share
    data_dir, whole = session / "data", session / "data.whole"
    with FileLock(session / "data.lock"):
        if not whole.exists():
            tiny_dataset.prepare(data_dir)
            whole.touch()
    return data_dir
