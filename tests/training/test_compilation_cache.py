import os
import pwd
import stat
import subprocess
import sys

import jax
import pytest

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.training import compilation_cache
from sslssaw_jax.training.compilation_cache import cache_compilation, processor, quick_compilation


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    """Clear the folder that all tests share, and restore it."""
    shared, of_xla = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_enable_xla_caches
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield
    jax.config.update("jax_compilation_cache_dir", shared)
    jax.config.update("jax_persistent_cache_enable_xla_caches", of_xla)


def test_compiled_programs_lie_in_a_folder_of_the_user_alone(tmp_path):
    cache_compilation("auto")
    folder = tmp_path / ".cache" / "sslssaw_jax" / "compiled"
    assert jax.config.jax_compilation_cache_dir == str(folder / processor())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (
        jax.config.jax_persistent_cache_enable_xla_caches == "none"
    )  # which runs at the same time would share


def test_a_folder_that_others_can_write_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "compiled"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match=rf"compilation_cache: somebody else can write into {folder}"):
        cache_compilation(str(folder))
    folder.chmod(0o755)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(ConfigError, match="somebody else"):
        cache_compilation(str(folder))
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_of_the_home_that_others_can_write_costs_the_cache_alone(tmp_path):
    """Kubernetes makes homes writable for a group at each start."""
    folder = tmp_path / ".cache" / "sslssaw_jax" / "compiled"
    folder.mkdir(parents=True)
    folder.chmod(0o2770)
    with pytest.warns(UserWarning, match="each start compiles again.*somebody else can write"):
        cache_compilation("auto")
    assert jax.config.jax_compilation_cache_dir is None


def test_a_home_that_cannot_be_written_costs_the_cache_alone(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))  # containers name one that does not exist
    with pytest.warns(UserWarning, match="each start compiles again"):
        cache_compilation("auto")
    with pytest.raises(NotADirectoryError):
        cache_compilation(str(tmp_path / "file" / "chosen"))
    assert jax.config.jax_compilation_cache_dir is None


def test_a_user_without_a_home_has_no_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # containers run as users that have no entry
    with pytest.warns(UserWarning, match="each start compiles again"):
        cache_compilation("auto")
    assert jax.config.jax_compilation_cache_dir is None and not list(tmp_path.iterdir())


def test_a_processor_is_named_before_jax_reads_its_environment():
    """Tests use it to choose the folder of compiled programs."""
    code = "import sys; from sslssaw_jax.training import compilation_cache; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_several_processes_keep_programs_in_a_folder_that_they_share_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    cache_compilation("auto")
    assert jax.config.jax_compilation_cache_dir is None and not list(tmp_path.iterdir())
    cache_compilation(str(tmp_path / "shared"))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "shared")


def test_no_folder_and_one_of_the_environment_change_nothing(tmp_path):
    cache_compilation(None)
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_compilation_cache_dir", "chosen")
    cache_compilation("auto")
    assert jax.config.jax_compilation_cache_dir == "chosen" and not list(tmp_path.iterdir())


def test_what_runs_once_is_compiled_quickly_and_what_follows_is_not(monkeypatch):
    quick = lambda: jax.config._read("jax_disable_most_optimizations")  # noqa: E731
    of_all_tests = quick()
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
    try:
        with pytest.raises(ValueError), quick_compilation():
            assert quick()
            raise ValueError
        assert not quick()
    finally:
        jax.config.update("jax_disable_most_optimizations", of_all_tests)


def test_programs_not_used_for_longest_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "_MOST_BYTES", 250)
    folder = tmp_path / ".cache" / "sslssaw_jax" / "compiled" / processor()
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    for name, used in (("old", 3), ("oldest", 1), ("new", 9), ("older", 2)):
        (folder / f"{name}-cache").write_bytes(bytes(100))
        os.utime(folder / f"{name}-cache", (used, 50 - used))
    cache_compilation("auto")
    assert {path.name for path in folder.iterdir()} == {"old-cache", "new-cache"}
