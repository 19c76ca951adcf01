"""How programs are compiled: how much they are optimized, and the user's private folder that keeps them."""

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sslssaw_jax.config.checks import ConfigError, require
from sslssaw_jax.workdir import user_path

AUTO = "auto"
_FOLDER = "~/.cache/sslssaw_jax/compiled"
_MOST_BYTES = 4_000_000_000


def cache_compilation(folder: str | None) -> None:
    """Keep compiled programs, unless the environment names another folder.

    Args:
        folder: `auto`, a path, or None for no cache. With `auto`, a home that cannot be written, or that
            others can write, is a warning. Several processes must share one folder, since only the first
            writes, and a process that compiles waits for what others find on their GPUs: `auto` then keeps
            nothing, and a path is used as it is.

    Raises:
        ConfigError: Somebody else can write into the folder that a path names.
    """
    import jax  # here, since tests ask for `processor` before JAX reads its environment

    from sslssaw_jax.training.progress import announce

    if not folder or jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    alone = jax.process_count() == 1
    if folder == AUTO and not alone:
        announce(
            "programs are compiled at each start; to keep them, let --config.compilation_cache name a folder "
            "that all processes share"
        )
        return
    try:
        private = (Path(_FOLDER).expanduser() if folder == AUTO else user_path(folder)).absolute()
        private.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = private.stat()
        require(
            status.st_uid == os.getuid() and not status.st_mode & 0o022,
            f"config.compilation_cache: somebody else can write into {private}, from where programs are run: "
            "choose a folder of your own, or clear the setting",
        )
    except (OSError, RuntimeError, ConfigError) as error:  # a RuntimeError if there is no home
        if folder != AUTO:
            raise
        warnings.warn(
            f"each start compiles again, since nothing can be kept in {_FOLDER}: {error}", stacklevel=1
        )
        return
    programs = private / processor() if alone else private
    if alone:  # a process must not miss what another one found
        _prune(programs)
    jax.config.update("jax_compilation_cache_dir", str(programs))
    # XLA's own folder of autotuning ends a program if several write to it at the same time
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def _prune(programs: Path) -> None:
    """Remove the programs that were not read for longest, down to `_MOST_BYTES`.

    JAX's own limit warns for each program of a folder that was filled without it.
    """
    with suppress(FileNotFoundError):  # another run removes, too
        found = sorted(
            ((path.stat(), path) for path in programs.glob("*-cache")), key=lambda one: one[0].st_atime
        )
        size = sum(stat.st_size for stat, _ in found)
        for stat, path in found:
            if size <= _MOST_BYTES:
                return
            path.unlink()
            size -= stat.st_size


@contextmanager
def quick_compilation() -> Iterator[None]:
    """Compile for a CPU without optimization, since what follows runs once.

    A tensor of random numbers takes a second to compile otherwise, for each shape.
    """
    import jax

    if jax.default_backend() != "cpu" or "JAX_DISABLE_MOST_OPTIMIZATIONS" in os.environ:
        yield
        return
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def processor() -> str:
    """Return a name for the processor's capabilities.

    JAX's key for a program lacks them, and a home may be shared by several machines.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else [" ".join(os.uname())]
    kinds = {line for line in lines if line.startswith(("model name", "flags", "Features"))} or set(lines)
    return hashlib.sha256("\n".join(sorted(kinds)).encode()).hexdigest()[:12]
