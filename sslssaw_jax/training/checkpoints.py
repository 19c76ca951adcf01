"""Checkpoints of a run: the training state, the data position and notes, written by Orbax in the background.

The only module that knows Orbax. A checkpoint is `DIRECTORY/<step>/{state,data,meta}`; it appears by one
rename, so that a killed process leaves it whole or absent. What the evaluations found is in
`DIRECTORY/scores.json`: a state is saved before it is evaluated.
"""

import copy
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from sslssaw_jax.workdir import SCORES, Scores, read_json, read_meta, read_scores, saved_steps, write_json

_SHOWN_DIFFERENCES = 12


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or not one of this model, or it cannot be written."""


class Checkpointer:
    """Saves and restores `TrainState`s below `directory`, keeping the latest and the best.

    With several processes, all of them call every method.

    Raises:
        ValueError: fewer than one latest checkpoint would be kept.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_latest: int = 2,
        keep_best: int = 1,
        selection: SelectionMetric = BLEU_4,
    ) -> None:
        if keep_latest < 1:
            raise ValueError(f"checkpoint.keep_latest is {keep_latest}; at least 1 is needed to resume")
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
        """Orbax asks which checkpoints (in the order of their steps) outlive the save of the last one."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        best_first = _best_first(steps, self.scores, self._selection)
        kept = {*steps[-self._keep_latest :], *best_first[: self._keep_best]}
        return [step in kept for step in steps]

    def save(self, state: TrainState, *, data: dict[str, Any], meta: dict[str, Any]) -> None:
        """Starts writing `state` as step `state.step`; its buffers may be donated as soon as this returns.

        Args:
            state: the state; arrays on any devices, under any sharding.
            data: the position of the data, JSON.
            meta: notes, JSON (the configuration, the tokenizer's fingerprint).

        Raises:
            CheckpointError: this step or a later one is saved already, or the disk took this checkpoint or
                the one before only in part.
        """
        step = int(state.step)
        # JSON is written later, in the background: by then the caller may have changed it.
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
        """Notes what an evaluation of the state saved as `step` found."""
        self.scores[step] = dict(scores)
        if jax.process_index() == 0:
            write_json(self.directory / SCORES, self.scores)

    def restore(
        self, template: TrainState, check: Callable[[dict[str, Any]], None] | None = None
    ) -> tuple[TrainState, dict[str, Any], dict[str, Any]] | None:
        """The latest state with its data position and notes; None where nothing is saved.

        A damaged checkpoint is moved aside, to `<step>.damaged`, with a warning, and the one before is taken.
        Scores of later steps are forgotten.

        Args:
            template: a state of the same structure; its leaves are arrays or `jax.ShapeDtypeStruct`s, whose
                shardings the restored arrays get.
            check: raises where the notes are not those of this run; called before the arrays are read.

        Raises:
            CheckpointError: the checkpoint's arrays are not those of `template`, or each one is damaged.
        """
        self.wait()
        # the first process decides, so that none waits for another that could not read its part
        step = int(multihost_utils.broadcast_one_to_all(np.int32(self._whole_step())))
        self._manager.reload()
        if step < 0:
            return None
        folder = self.directory / str(step)
        meta = read_meta(folder)
        if check:
            check(meta)
        _require_same_arrays(self._manager.item_metadata(step).state, template, folder)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(template), data=ocp.args.JsonRestore(), meta=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=items)
        self.scores = {scored: found for scored, found in self.scores.items() if scored <= step}
        return restored.state, restored.data, restored.meta

    def _whole_step(self) -> int:
        """The latest step that is whole, those behind it moved aside; -1 where nothing is saved."""
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

    @property
    def latest_step(self) -> int | None:
        """The last step saved; None where nothing is."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step with the best score, the later one of equals; None where none has been scored."""
        return next(iter(_best_first(self._manager.all_steps(), self.scores, self._selection)), None)

    def wait(self) -> None:
        """Returns when all that was saved is on disk; raises what went wrong in the background."""
        with self._written():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes writing and lets go of the directory."""
        with self._written():
            self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Makes one error of all that Orbax and the libraries below it raise when a write fails."""
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
    """Parameters and batch statistics (nested dicts of NumPy arrays) and notes of another run's checkpoint.

    The parameters are those that evaluation uses: the moving average where the stage kept one. Reads neither
    the optimiser's state nor a template, and changes nothing in `directory`: a damaged checkpoint is passed
    over with a warning. The dicts are what `nnx.to_pure_dict` gives and `nnx.replace_by_pure_dict` takes.

    Args:
        directory: what that run's `Checkpointer` was given.
        best_by: take the checkpoint with the best such score, if one has been scored; None: the latest.

    Raises:
        CheckpointError: nothing is saved there, or each checkpoint is damaged.
    """
    directory = Path(directory).absolute()
    if not directory.is_dir():
        raise CheckpointError(f"no checkpoint: {directory} does not exist")
    steps = saved_steps(directory)
    if not steps:
        raise CheckpointError(f"no checkpoint in {directory}")
    best_first = _best_first(steps, read_scores(directory), best_by) if best_by else []
    step, damaged = _first_whole(directory, list(dict.fromkeys(best_first + steps[::-1])))
    for bad, wrong in damaged.items():
        warnings.warn(
            f"the checkpoint {directory / str(bad)} is damaged ({wrong}): taking that of step {step}",
            stacklevel=2,
        )
    folder = directory / str(step)
    params = "ema" if _array_metadata(folder).get("ema") else "params"
    state = _read_arrays(folder, (params, "batch_stats"))
    meta = read_meta(folder)
    return _pure_dict(state[params]), _pure_dict(state["batch_stats"]), meta


def _read_arrays(folder: Path, parts: Sequence[str]) -> dict[str, Any]:
    """The named parts of a saved state as nested dicts of NumPy arrays."""
    saved = _array_metadata(folder)
    wanted = {key: saved[key] for key in parts}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    items = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
    return ocp.PyTreeCheckpointHandler().restore(folder / "state", args=items)


def _array_metadata(folder: Path) -> Any:
    return ocp.PyTreeCheckpointHandler().metadata(folder / "state")


def _best_first(steps: Iterable[int], scores: Scores, selection: SelectionMetric) -> list[int]:
    """Return the scored steps, the best first and the later of equals first."""
    scored = [step for step in steps if selection.name in scores.get(step, {})]
    return sorted(scored, key=lambda step: (selection.quality(scores[step]), step), reverse=True)


def _first_whole(directory: Path, steps: Iterable[int]) -> tuple[int, dict[int, str]]:
    """The first of `steps` with a whole checkpoint, and what is wrong with those before it.

    Raises:
        CheckpointError: all are damaged.
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
    """What is wrong with a checkpoint, in words; "" where its notes and each of its arrays can be read.

    Orbax itself does not find out quietly: where one of its many concurrent reads fails, the others fill the
    terminal with tracebacks.
    """
    state = folder / "state"
    try:
        for notes in (folder / "data" / "metadata", folder / "meta" / "metadata", state / "_sharding"):
            read_json(notes)
        for part in (state / "array_metadatas").iterdir():  # one of each process
            read_json(part)
        for leaf in read_json(state / "_METADATA")["tree_metadata"].values():
            if not leaf["value_metadata"]["skip_deserialize"]:  # no array but an empty node
                name = ".".join(str(level["key"]) for level in leaf["key_metadata"])
                kvstore = {"driver": "ocdbt", "base": f"file://{state}/"}
                array = {"driver": "zarr", "kvstore": kvstore, "path": name}
                tensorstore.open(array, read=True).result().read().result()
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # whatever the readers below stumble over
        return _first_line(error)
    return ""


def _first_line(error: Exception) -> str:
    """What went wrong, without what a library adds for its developers."""
    text = str(error).split(" [tensorstore_spec")[0]
    return next(iter(text.splitlines()), "") or type(error).__name__


def _free_name(path: Path) -> Path:
    numbered = (path.with_name(f"{path.name}{number or ''}") for number in itertools.count())
    return next(name for name in numbered if not name.exists())


def _pure_dict(tree: dict[str, Any]) -> dict[str, Any]:
    """Undoes what Orbax makes of an `nnx.State`: a level `value` per variable, numbers as strings."""
    unwrapped = {_without_value(path): leaf for path, leaf in ocp.tree.to_flat_dict(tree).items()}
    return nnx.restore_int_paths(ocp.tree.from_flat_dict(unwrapped))


def _without_value(path: tuple[str, ...]) -> tuple[str, ...]:
    return path[:-1] if path[-1] == "value" else path


def _arrays(tree: Any) -> dict[tuple[str, ...], str]:
    """Path of each array in `tree` -> its dtype and shape, in words."""
    return {
        _without_value(path): f"{leaf.dtype.name}[{', '.join(map(str, leaf.shape))}]"
        for path, leaf in ocp.tree.to_flat_dict(tree).items()
    }


def _require_same_arrays(saved_tree: Any, template: TrainState, path: Path) -> None:
    saved, wanted = _arrays(saved_tree), _arrays(template)
    differing = [key for key in saved.keys() | wanted.keys() if saved.get(key) != wanted.get(key)]
    if not differing:
        return
    # A parameter's own line comes before those of its copies in the optimiser's state.
    differing.sort(key=lambda key: (key[0] == "opt_state", key))
    lines = [
        f"  {'.'.join(key)}: saved {saved.get(key, 'nothing')}, the model has {wanted.get(key, 'nothing')}"
        for key in differing[:_SHOWN_DIFFERENCES]
    ]
    if len(differing) > _SHOWN_DIFFERENCES:
        lines.append(f"  and {len(differing) - _SHOWN_DIFFERENCES} more")
    raise CheckpointError(
        f"the checkpoint {path} is of another model or optimiser; restore it with the configuration "
        "it was trained with, or start in another workdir:\n" + "\n".join(lines)
    )
