"""One process at a time writes into a workdir."""

import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

LOCK = "lock"
FINISHED = "finished.json"  # in the workdir of a stage that was trained to its end


class WorkdirError(RuntimeError):
    """Another process writes into the workdir; the message names it."""


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other runs out of `workdir`; the system unlocks it when this process ends, however it ends.

    Raises:
        WorkdirError: another run is in there.
    """
    if jax.process_index():  # the first of several processes does all the writing
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise WorkdirError(
                f"{workdir} is in use by {file.read() or 'another process'}: wait for its end, or choose "
                "another --workdir"
            ) from None
        except OSError as error:
            warnings.warn(f"{workdir} cannot be locked ({error}): let no other run use it", stacklevel=3)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
