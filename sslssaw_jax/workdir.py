"""The folder of a run: its file names, how files are written, and its lock."""

import fcntl
import json
import os
import socket
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from sslssaw_jax.errors import UserError

LOCK = "lock"
FINISHED = "finished.json"  # in the workdir of a stage that was trained to its end
CHECKPOINTS = "checkpoints"
SCORES = "scores.json"  # in CHECKPOINTS: what the evaluations in training found
LOG, TENSORBOARD = "log.jsonl", "tensorboard"
METRICS, REPORT = "metrics.json", "report.html"
HEATMAPS, FRAMES = "heatmaps", "frames"
PROFILE = "profile"


def predictions_file(split: str) -> str:
    """Return the name of the file that holds a split's predictions."""
    return f"predictions.{split}.jsonl"


class WorkdirError(UserError):
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


def write_json(path: str | Path, obj: Any) -> None:
    """Writes `obj` as indented JSON by one rename: the file is whole, or as it was before."""
    write_text(Path(path), json.dumps(obj, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line by one rename: the file is whole, or as it was before."""
    write_text(Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Writes `text` by one rename, by the first process alone: the file is whole, or as it was before."""
    if jax.process_index():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
