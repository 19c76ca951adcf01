"""Checkpoints of a run: training state, data position and notes.

Orbax writes them in the background; no other module imports it. A checkpoint is
`DIRECTORY/<step>/{state,data,meta}` and appears by a single rename, so that a killed process leaves it whole
or absent. Each part holds the digests of its files (`checkpoint_damage.py` compares them). A state is saved
before it is evaluated; its scores are in `DIRECTORY/scores.json`.
"""

import copy
import itertools
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.experimental import multihost_utils

from sslssaw_jax.data.dataset import DIGESTS, file_digest
from sslssaw_jax.errors import UserError
from sslssaw_jax.training.checkpoint_damage import (
    Arrays,
    Check,
    Shape,
    find_damage,
    first_line,
    open_arrays,
    without_value,
)
from sslssaw_jax.types import BLEU_4, SelectionMetric, TrainState
from sslssaw_jax.workdir import (
    SCORES,
    Scores,
    checkpoint_notes,
    read_json,
    read_scores,
    saved_steps,
    write_json,
)

_SHOWN_DIFFERENCES = 12


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, from another model, or not writable."""


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which leaves it to the loop to ask JAX for signals.

    JAX would take a step for the next number of `StopRequest.reached`, and stop there alone.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpointer:
    """A folder of checkpoints that keeps the latest and the best.

    Every method must be called by all processes.

    Args:
        directory: The folder of the checkpoints.
        keep_latest: Number of latest checkpoints to keep, at least 1.
        keep_best: Number of best checkpoints to keep, at least 1.
        selection: The score that ranks checkpoints; None if there are no scores.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_latest: int = 2,
        keep_best: int = 1,
        selection: SelectionMetric | None = BLEU_4,
    ) -> None:
        self.directory = _checked(directory)
        self.scores: Scores = read_scores(self.directory)
        self._keep_latest, self._keep_best, self._selection = keep_latest, keep_best, selection
        self._manager = _Manager(
            self.directory,
            item_handlers={
                "state": _with_digests(ocp.StandardCheckpointHandler()),
                "data": _with_digests(ocp.JsonCheckpointHandler()),
                "meta": _with_digests(ocp.JsonCheckpointHandler()),
            },
            options=ocp.CheckpointManagerOptions(cleanup_tmp_directories=True, preservation_policy=self),
        )

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Tell Orbax which checkpoints to keep; part of its `PreservationPolicy`."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        best_first = _best_first(steps, self.scores, self._selection)
        kept = {*steps[-self._keep_latest :], *best_first[: self._keep_best]}
        return [step in kept for step in steps]

    def save(self, state: TrainState, *, data: dict[str, Any], meta: dict[str, Any]) -> None:
        """Start writing a checkpoint; the buffers of `state` may be donated afterwards.

        Args:
            state: The state; arrays on any devices, under any sharding.
            data: The position in the data, as JSON.
            meta: Notes as JSON (the configuration, the tokenizer's fingerprint).

        Raises:
            CheckpointError: This step or a later step is already saved, or this checkpoint or the previous
                one could not be written.
        """
        step = int(state.step)
        # JSON is written later in the background, when the caller may have changed it
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave(copy.deepcopy(data)),
            meta=ocp.args.JsonSave(copy.deepcopy(meta)),
        )
        with self._written():
            saving = self._manager.save(step, args=items)
        if not saving:
            raise CheckpointError(f"{self.directory} has a checkpoint of step {step} or of a later one")

    def add_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Add the scores of the state saved as `step`."""
        self.scores[step] = dict(scores)
        write_json(self.directory / SCORES, self.scores)

    def restore(self, template: TrainState) -> tuple[TrainState, dict[str, Any], dict[str, Any]] | None:
        """Return the latest state, data position and notes, if any are saved.

        A damaged checkpoint is moved to `<step>.damaged` with a warning, and the previous one is restored.
        Scores of later steps are dropped.

        Args:
            template: A state of arrays or `jax.ShapeDtypeStruct`s; the restored arrays get their shardings.

        Raises:
            CheckpointError: The arrays do not fit `template`, or every checkpoint is damaged.
        """
        self.wait()
        # the first process decides: others must not wait for a process that could not read its part
        step = int(multihost_utils.broadcast_one_to_all(np.int32(self._whole_step(template))))
        self._manager.reload()
        self._forget_scores(after=step)
        if step < 0:
            return None
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(template), data=ocp.args.JsonRestore(), meta=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=items)
        return restored.state, restored.data, restored.meta

    def _forget_scores(self, *, after: int) -> None:
        """Drop scores of states that no longer exist."""
        kept = {step: scores for step, scores in self.scores.items() if step <= after}
        if kept != self.scores:
            self.scores = kept
            write_json(self.directory / SCORES, kept)

    def _whole_step(self, template: TrainState) -> int:
        """Return the latest whole step, or -1, and move damaged ones aside."""
        steps = saved_steps(self.directory)
        if jax.process_index() or not steps:
            return -1

        def check(folder: Path, meta: dict[str, Any], saved: Arrays) -> None:
            _require_same_arrays(saved, template, folder)

        step, damaged = _first_whole(self.directory, steps[::-1], check)
        for bad, wrong in damaged.items():
            aside = _free_name(self.directory / f"{bad}.damaged")
            (self.directory / str(bad)).rename(aside)
            warnings.warn(
                f"the checkpoint of step {bad} is damaged ({wrong}): moved to {aside}, and continuing from "
                f"step {step}",
                stacklevel=3,
            )
        return step

    def wait(self) -> None:
        """Wait until everything is on disk; raise errors of the background."""
        with self._written():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and release the directory."""
        with self._written():
            self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Turn the errors of a failed write into one `CheckpointError`."""
        try:
            yield
        except (CheckpointError, jax.errors.JaxRuntimeError):  # from a device, not from the disk
            raise
        except (OSError, ValueError, RuntimeError) as error:
            whole = saved_steps(self.directory)
            left = f"the last whole one is of step {whole[-1]}" if whole else "there is no other one"
            raise CheckpointError(
                f"a checkpoint could not be written to {self.directory} ({first_line(error)}); {left}: "
                "remove the cause (make room on a full disk) and start again to continue"
            ) from error


def restore_params(
    directory: str | Path, *, best_by: SelectionMetric | None = None, check: Check | None = None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return parameters, batch statistics and notes from another run's checkpoint.

    The parameters are those used in evaluation: the moving average, if any. Variables that were chosen on dev
    have the chosen values. A damaged checkpoint is skipped with
    a warning, and nothing in `directory` changes. The first two are nested dicts of NumPy arrays, as
    `nnx.replace_by_pure_dict` takes them.

    Args:
        directory: The folder of the checkpoints.
        best_by: The score that chooses the checkpoint; None, or no such score, chooses the latest.
        check: Raises if notes or shapes are not the wanted ones; called before any array is read.

    Raises:
        CheckpointError: Nothing is saved there, or every checkpoint is damaged.
    """
    directory = _checked(directory)
    if not directory.is_dir():
        raise CheckpointError(f"no checkpoint: {directory} does not exist: train first, or bring it back")
    steps = saved_steps(directory)
    if not steps:
        raise CheckpointError(f"no checkpoint in {directory}: train first")
    best_first = _best_first(steps, read_scores(directory), best_by)
    in_order = list(dict.fromkeys(best_first + steps[::-1]))
    step, damaged = _first_whole(directory, in_order, check or (lambda folder, meta, saved: None))
    for bad, wrong in damaged.items():
        warnings.warn(
            f"the checkpoint {directory / str(bad)} is damaged ({wrong}): using step {step} instead",
            stacklevel=2,
        )
    folder = directory / str(step)
    arrays = {without_value(path): array for path, array in open_arrays(folder / "state").items()}
    averaged = any(path[0] == "ema" for path in arrays)
    params, batch_stats = (_read(arrays, part) for part in ("ema" if averaged else "params", "batch_stats"))
    meta = read_json(checkpoint_notes(folder))
    chosen = read_scores(directory).get(step, {})  # on dev after the save, by the names of variables
    batch_stats |= {name: np.float32(chosen[name]) for name in batch_stats.keys() & chosen.keys()}
    return params, batch_stats, meta


def _checked(directory: str | Path) -> Path:
    """Return an absolute path that Orbax does not take for a pattern."""
    path = Path(directory).absolute()
    if re.search(r"\[.*\]|\\", str(path)):
        raise CheckpointError(
            f"{path} has [ ] or \\ in its name, where no checkpoint can be written (Orbax takes them for a "
            "pattern or a separator): choose another --workdir"
        )
    return path


def variable_shapes(saved: Arrays) -> dict[tuple[str | int, ...], Shape]:
    """Return the shapes of evaluated parameters and batch statistics by path."""
    params = "ema" if any(path[0] == "ema" for path in saved) else "params"
    kept = {path[1:]: shape for path, (_, shape) in saved.items() if path[0] in (params, "batch_stats")}
    return {tuple(int(key) if key.isdigit() else key for key in path): kept[path] for path in kept}


def _read(arrays: Mapping[tuple[str, ...], Any], part: str) -> dict[str, Any]:
    """Return a part of a saved state as nested dicts."""
    reading = {path[1:]: array.read() for path, array in arrays.items() if path[0] == part}
    flat = {path: np.asarray(array.result()) for path, array in reading.items()}
    return nnx.restore_int_paths(ocp.tree.from_flat_dict(flat))


def _best_first(steps: Iterable[int], scores: Scores, selection: SelectionMetric | None) -> list[int]:
    """Return the scored steps, best first, the later of equals first."""
    if selection is None:
        return []
    scored = [step for step in steps if selection.name in scores.get(step, {})]
    return sorted(scored, key=lambda step: (selection.quality(scores[step]), step), reverse=True)


def _first_whole(directory: Path, steps: Iterable[int], check: Check) -> tuple[int, dict[int, str]]:
    """Return the first whole checkpoint's step, and damages by step before it.

    Raises:
        CheckpointError: All are damaged.
    """
    damaged: dict[int, str] = {}
    for step in steps:
        wrong = find_damage(directory / str(step), check)
        if not wrong:
            return step, damaged
        damaged[step] = wrong
    lines = "".join(f"\n  step {step}: {wrong}" for step, wrong in damaged.items())
    raise CheckpointError(
        f"every checkpoint in {directory} is damaged: restore one from a copy, or start over in another "
        f"folder{lines}"
    )


def _with_digests(handler: Any) -> Any:
    """Make a handler of Orbax write the digests of its files."""
    finalize = handler.finalize

    def finalize_with_digests(directory: Any) -> None:
        finalize(directory)
        folder = Path(directory)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        digests = {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
        write_json(folder / DIGESTS, digests)

    handler.finalize = finalize_with_digests
    return handler


def _free_name(path: Path) -> Path:
    numbered = (path.with_name(f"{path.name}{number or ''}") for number in itertools.count())
    return next(name for name in numbered if not name.exists())


def _arrays(tree: Any) -> Arrays:
    """Map each array's path to its dtype and shape."""
    flat = ocp.tree.to_flat_dict(tree).items()
    return {without_value(path): (leaf.dtype.name, tuple(leaf.shape)) for path, leaf in flat}


def _in_words(array: tuple[str, Shape] | None) -> str:
    return f"{array[0]}[{', '.join(map(str, array[1]))}]" if array else "nothing"


def _require_same_arrays(saved: Arrays, template: TrainState, path: Path) -> None:
    wanted = _arrays(template)
    differing = [key for key in saved.keys() | wanted.keys() if saved.get(key) != wanted.get(key)]
    if not differing:
        return
    # a parameter before its copies in the state of the optimizer
    differing.sort(key=lambda key: (key[0] == "opt_state", key))
    lines = [
        f"  {'.'.join(key)}: saved {_in_words(saved.get(key))}, the model has {_in_words(wanted.get(key))}"
        for key in differing[:_SHOWN_DIFFERENCES]
    ]
    if len(differing) > _SHOWN_DIFFERENCES:
        lines.append(f"  and {len(differing) - _SHOWN_DIFFERENCES} more")
    raise CheckpointError(
        f"the checkpoint {path} is from another model or optimizer; restore it with the configuration that "
        "it was trained with, or start in another workdir:\n" + "\n".join(lines)
    )
