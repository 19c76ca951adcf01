"""The folder of a run: file names, lock, and reading and writing."""

import argparse
import json
import os
import socket
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sslssaw_jax.errors import UserError

LOCK, LOCK_HOLDER = "lock", "lock.holder"
FINISHED = "finished.json"  # in the workdir of a stage whose training is finished
EVALUATED = "evaluated.json"  # in a folder of scores and predictions where nothing was trained
CHECKPOINTS = "checkpoints"
SCORES = "scores.json"  # in CHECKPOINTS: scores on dev, by step
LOG, TENSORBOARD = "log.jsonl", "tensorboard"
TRACKER_ID = "tracker_id"  # of the run in trackio or wandb
METRICS, REPORT = "metrics.json", "report.html"
HEATMAPS = "heatmaps"
PROFILE = "profile"
TOKENIZER, TEXT_TOWER = "tokenizer", "text_tower"  # of a trained model

UNKNOWN_CODE = "unknown"  # that trained a run before runs kept it

Scores = dict[int, dict[str, float]]  # by step
PICTURES = (".png", ".pdf", ".svg", ".jpg")  # endings of the pictures that matplotlib writes


def user_path(name: str | Path) -> Path:
    """Return the path that a user names; `~` is the home folder.

    Raises:
        UserError: It is in the home of no user.
    """
    path = Path(name)
    try:
        return path.expanduser()
    except RuntimeError:
        if len(path.parts) == 1 and path.name != "~":
            return path  # a file such as ~base.mp4
        raise UserError(f"{name}: {path.parts[0]} has no home folder here, give the whole path") from None


def picture_path(name: str, ends: Sequence[str] = PICTURES) -> Path:
    """Return the path of a picture to write, for a command's parser.

    Raises:
        ArgumentTypeError: The name has none of the ends, or its folder does not exist.
    """
    path = user_path(name)
    if path.suffix.lower() not in ends:
        raise argparse.ArgumentTypeError(f"{name} must end in {', '.join(ends)}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def predictions_file(split: str) -> str:
    """Return the name of the file that holds a split's predictions."""
    return f"predictions.{split}.jsonl"


def glosses_file(split: str) -> str:
    """Return the name of the file that holds a split's recognised glosses."""
    return f"glosses.{split}.jsonl"


class WorkdirError(UserError):
    """An error about something else that writes into the workdir."""


class DamagedFileError(UserError, ValueError):
    """An error that names a file that is not what its name promises."""


@contextmanager
def locked(workdir: Path, option: str = "--workdir") -> Iterator[None]:
    """Lock a workdir until this process leaves the block or dies.

    Args:
        workdir: The folder to lock.
        option: Names the folder on the command line, for the error.

    Raises:
        WorkdirError: Another run holds the lock.
    """
    if not is_first_process():
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    holder = workdir / LOCK_HOLDER
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_file(workdir / LOCK, timeout=0))
        except Timeout:
            other = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
            raise WorkdirError(
                f"{workdir} is in use by {other}: wait until it ends, or choose another {option}"
            ) from None
        write_text(holder, f"process {os.getpid()} on {socket.gethostname()}")
        yield


@contextmanager
def locked_file(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock; warn if the disk has no locks.

    Args:
        path: The lock's file.
        timeout: Seconds to wait for another process; -1 waits until it ends.

    Raises:
        Timeout: Another process holds the lock.
    """
    lock = FileLock(path, fallback_to_soft=False)  # a mark in place of a lock would outlive a killed process
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:  # some network disks have no locks
        warnings.warn(f"{path.parent} cannot be locked ({error}): let no other run use it", stacklevel=1)
    try:
        yield
    finally:
        lock.release()


def is_first_process() -> bool:
    """Return whether this process writes the files of the run."""
    jax = sys.modules.get("jax")  # a process that has not imported JAX is alone
    return jax is None or jax.process_index() == 0


def inside(folder: Path, path: Path) -> Path:
    """Return a path that must not lead out of a folder.

    Raises:
        WorkdirError: The path lies outside.
    """
    if not is_inside(folder, path):
        raise WorkdirError(f"{path} leads out of {folder}: replace the link by a folder")
    return path


def is_inside(folder: Path, path: Path) -> bool:
    """Return whether a path, with links followed, stays in a folder."""
    return path.resolve().is_relative_to(folder.resolve())


def describe(path: Path) -> str:
    """Say what a file really is, if known."""
    with path.open("rb") as file:
        begin = file.read(512).lstrip().lower()
    kinds = {
        b"version https://git-lfs": "it is a Git LFS pointer, not the file itself: run `git lfs pull`",
        b"<!doctype": "it is a web page, not the file itself: download it again",
        b"<html": "it is a web page, not the file itself: download it again",
        b"<?xml": "it is an XML page, not the file itself: download it again",
        b"\x1f\x8b": "it is compressed by gzip: unpack it",
        b"pk\x03\x04": "it is a zip archive: unpack it",
        b"\xff\xfe": "it is UTF-16: save it as UTF-8",
        b"\xfe\xff": "it is UTF-16: save it as UTF-8",
    }
    if not begin:
        return "it is empty"
    return next((kind for magic, kind in kinds.items() if begin.startswith(magic)), "")


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8.

    Raises:
        DamagedFileError: The file is something else.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DamagedFileError(f"{path} cannot be read: {describe(path) or 'it is not UTF-8'}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        DamagedFileError: The file does not hold an object in JSON.
    """
    return _object(path, read_text(path))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a file with one JSON object per line.

    Raises:
        DamagedFileError: A line does not hold an object in JSON.
    """
    lines = enumerate(read_text(path).split("\n"), 1)  # splitlines() also splits at U+2028
    return [_object(path, line, f", line {number}") for number, line in lines if line.strip()]


def _object(path: Path, text: str, place: str = "") -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path}{place} is damaged: {describe(path) or error}") from None
    if not isinstance(found, dict):
        raise DamagedFileError(f"{path}{place} is damaged: it holds no JSON object")
    return found


def write_json(path: Path, obj: Any) -> None:
    """Write an object as indented JSON; see `write_text`."""
    write_text(path, json.dumps(obj, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line; see `write_text`."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Replace a file's text; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file atomically, in the first process only.

    A link in place of the file, or of the temporary file, is replaced, and its target stays as it is.
    """
    if not is_first_process():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:  # "x" follows no link
            file.write(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a log, without a truncated last line."""
    if not path.is_file():
        return []
    complete = read_text(path).split("\n")[:-1]
    return [_object(path, line, f", line {number}") for number, line in enumerate(complete, 1)]


def saved_steps(checkpoints: Path) -> list[int]:
    """Return the steps with a checkpoint in ascending order, if any."""
    names = [child.name for child in checkpoints.iterdir()] if checkpoints.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def checkpoint_notes(checkpoint: Path) -> Path:
    """Return the file of the notes kept with a checkpoint, `CHECKPOINTS/<step>`."""
    return checkpoint / "meta" / "metadata"


def read_notes(workdir: Path) -> dict[str, Any]:
    """Return the notes of the run or evaluation in a folder.

    The notes have its `stage`, its configuration as `config`, the fingerprint of its tokenizer as
    `tokenizer`, the facts of its dataset as `dataset` and of its feature sets as `features`, and the code by
    which it was trained or evaluated as `code`. A folder without a run has none.
    """
    checkpoints = workdir / CHECKPOINTS
    latest = [checkpoint_notes(checkpoints / str(step)) for step in saved_steps(checkpoints)[-1:]]
    found = [path for path in (workdir / FINISHED, *latest, workdir / EVALUATED) if path.is_file()]
    return read_json(found[0]) if found else {}


def read_scores(checkpoints: Path) -> Scores:
    """Return the scores on dev by step, if any."""
    path = checkpoints / SCORES
    return {int(step): scores for step, scores in read_json(path).items()} if path.exists() else {}
