"""Checkpoints of a run: training state, data position and notes.

Orbax writes them in the background; no other module imports it. A checkpoint is
`DIRECTORY/<step>/{state,data,meta}` and appears by one rename, so that a killed process leaves it whole or
absent. A state is saved before it is evaluated; its scores are in `DIRECTORY/scores.json`.
"""

import copy
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from flax import nnx
from jax.experimental import multihost_utils

from sslssaw_jax.errors import UserError
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
    """A checkpoint that is missing, damaged, of another model, or not writable."""


class Checkpointer:
    """A folder of checkpoints that keeps the latest and the best.

    Every method must be called by all processes.

    Args:
        directory: The folder of the checkpoints.
        keep_latest: Number of latest checkpoints to keep, at least 1.
        keep_best: Number of best checkpoints to keep.
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
        self.directory = Path(directory).absolute()
        self.scores: Scores = read_scores(self.directory)
        self._keep_latest, self._keep_best, self._selection = keep_latest, keep_best, selection
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
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
        step = int(multihost_utils.broadcast_one_to_all(np.int32(self._whole_step())))
        self._manager.reload()
        if step < 0:
            return None
        folder = self.directory / str(step)
        _require_same_arrays(self._manager.item_metadata(step).state, template, folder)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(template), data=ocp.args.JsonRestore(), meta=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=items)
        self.scores = {scored: found for scored, found in self.scores.items() if scored <= step}
        return restored.state, restored.data, restored.meta

    def _whole_step(self) -> int:
        """Return the latest whole step, or -1, and move damaged ones aside."""
        steps = saved_steps(self.directory)
        if jax.process_index() or not steps:
            return -1
        step, damaged = _first_whole(self.directory, steps[::-1])
        for bad, wrong in damaged.items():
            aside = _free_name(self.directory / f"{bad}.damaged")
            (self.directory / str(bad)).rename(aside)
            warnings.warn(
                f"the checkpoint of step {bad} is damaged ({wrong}): moved to {aside}, and going on from "
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
        except (CheckpointError, jax.errors.JaxRuntimeError):  # of a device, not of the disk
            raise
        except (OSError, ValueError, RuntimeError) as error:
            whole = saved_steps(self.directory)
            left = f"the last whole one is of step {whole[-1]}" if whole else "there is no other one"
            raise CheckpointError(
                f"a checkpoint could not be written to {self.directory} ({_first_line(error)}); {left}: make "
                "room on the disk and start again to go on"
            ) from error


def restore_params(
    directory: str | Path, *, best_by: SelectionMetric | None = None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return parameters, batch statistics and notes of a checkpoint of another run.

    The parameters are those for evaluation: the moving average, if any. A damaged checkpoint is skipped with
    a warning, and nothing in `directory` changes. The first two are nested dicts of NumPy arrays, as
    `nnx.replace_by_pure_dict` takes them.

    Args:
        directory: The folder of the checkpoints.
        best_by: The score that chooses the checkpoint; None, or no such score, chooses the latest.

    Raises:
        CheckpointError: Nothing is saved there, or every checkpoint is damaged.
    """
    directory = Path(directory).absolute()
    if not directory.is_dir():
        raise CheckpointError(f"no checkpoint: {directory} does not exist")
    steps = saved_steps(directory)
    if not steps:
        raise CheckpointError(f"no checkpoint in {directory}")
    best_first = _best_first(steps, read_scores(directory), best_by)
    step, damaged = _first_whole(directory, list(dict.fromkeys(best_first + steps[::-1])))
    for bad, wrong in damaged.items():
        warnings.warn(
            f"the checkpoint {directory / str(bad)} is damaged ({wrong}): using step {step} instead",
            stacklevel=2,
        )
    folder = directory / str(step)
    params = "ema" if _array_metadata(folder).get("ema") else "params"
    state = _read_arrays(folder, (params, "batch_stats"))
    meta = read_json(checkpoint_notes(folder))
    return _pure_dict(state[params]), _pure_dict(state["batch_stats"]), meta


def _read_arrays(folder: Path, parts: Sequence[str]) -> dict[str, Any]:
    """Return parts of a saved state as nested dicts of NumPy arrays."""
    saved = _array_metadata(folder)
    wanted = {key: saved[key] for key in parts}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    items = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
    return ocp.PyTreeCheckpointHandler().restore(folder / "state", args=items)


def _array_metadata(folder: Path) -> Any:
    return ocp.PyTreeCheckpointHandler().metadata(folder / "state")


def _best_first(steps: Iterable[int], scores: Scores, selection: SelectionMetric | None) -> list[int]:
    """Return the scored steps, best first, the later of equals first."""
    if selection is None:
        return []
    scored = [step for step in steps if selection.name in scores.get(step, {})]
    return sorted(scored, key=lambda step: (selection.quality(scores[step]), step), reverse=True)


def _first_whole(directory: Path, steps: Iterable[int]) -> tuple[int, dict[int, str]]:
    """Return the first whole checkpoint's step, and damages by step before it.

    Raises:
        CheckpointError: All are damaged.
    """
    damaged: dict[int, str] = {}
    for step in steps:
        wrong = find_damage(directory / str(step))
        if not wrong:
            return step, damaged
        damaged[step] = wrong
    lines = "".join(f"\n  step {step}: {wrong}" for step, wrong in damaged.items())
    raise CheckpointError(
        f"every checkpoint in {directory} is damaged: restore one from a copy, or delete them to begin "
        f"anew{lines}"
    )


def find_damage(folder: Path) -> str:
    """Return what is damaged in a checkpoint, "" if nothing is.

    Orbax itself would fill the terminal with tracebacks of its concurrent reads.
    """
    state = folder / "state"
    try:
        for notes in (folder / "data" / "metadata", folder / "meta" / "metadata", state / "_sharding"):
            read_json(notes)
        for part in (state / "array_metadatas").iterdir():  # one per process
            read_json(part)
        for leaf in read_json(state / "_METADATA")["tree_metadata"].values():
            if not leaf["value_metadata"]["skip_deserialize"]:  # an empty node, not an array
                name = ".".join(str(level["key"]) for level in leaf["key_metadata"])
                kvstore = {"driver": "ocdbt", "base": f"file://{state}/"}
                array = {"driver": "zarr", "kvstore": kvstore, "path": name}
                tensorstore.open(array, read=True).result().read().result()
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # damaged bytes can raise anything
        return _first_line(error)
    return ""


def _first_line(error: Exception) -> str:
    """Return the first line of an error, without TensorStore's specification."""
    text = str(error).split(" [tensorstore_spec")[0]
    return next(iter(text.splitlines()), "") or type(error).__name__


def _free_name(path: Path) -> Path:
    numbered = (path.with_name(f"{path.name}{number or ''}") for number in itertools.count())
    return next(name for name in numbered if not name.exists())


def _pure_dict(tree: dict[str, Any]) -> dict[str, Any]:
    """Undo the levels `value` and the string keys of a saved `nnx.State`."""
    unwrapped = {_without_value(path): leaf for path, leaf in ocp.tree.to_flat_dict(tree).items()}
    return nnx.restore_int_paths(ocp.tree.from_flat_dict(unwrapped))


def _without_value(path: tuple[str, ...]) -> tuple[str, ...]:
    return path[:-1] if path[-1] == "value" else path


def _arrays(tree: Any) -> dict[tuple[str, ...], str]:
    """Map each array's path to its dtype and shape in words."""
    return {
        _without_value(path): f"{leaf.dtype.name}[{', '.join(map(str, leaf.shape))}]"
        for path, leaf in ocp.tree.to_flat_dict(tree).items()
    }


def _require_same_arrays(saved_tree: Any, template: TrainState, path: Path) -> None:
    saved, wanted = _arrays(saved_tree), _arrays(template)
    differing = [key for key in saved.keys() | wanted.keys() if saved.get(key) != wanted.get(key)]
    if not differing:
        return
    # a parameter before its copies in the state of the optimizer
    differing.sort(key=lambda key: (key[0] == "opt_state", key))
    lines = [
        f"  {'.'.join(key)}: saved {saved.get(key, 'nothing')}, the model has {wanted.get(key, 'nothing')}"
        for key in differing[:_SHOWN_DIFFERENCES]
    ]
    if len(differing) > _SHOWN_DIFFERENCES:
        lines.append(f"  and {len(differing) - _SHOWN_DIFFERENCES} more")
    raise CheckpointError(
        f"the checkpoint {path} is of another model or optimizer; restore it with the configuration that it "
        "was trained with, or start in another workdir:\n" + "\n".join(lines)
    )
