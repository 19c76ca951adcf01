"""Checkpoints of a run: the training state, the data position and notes, written by Orbax in the background.

The only module that knows Orbax. A checkpoint is `DIRECTORY/<step>/{state,data,meta,metrics}`; it appears by
one rename, so it is whole or absent.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from sslssaw_jax.types import TrainState

_SHOWN_DIFFERENCES = 12
_NO_METRIC = float("-inf")  # Orbax warns at every save without metrics


class CheckpointError(ValueError):
    """A checkpoint is missing, or is not one of this model."""


def _metric(metrics: Mapping[str, float]) -> float:
    return metrics["metric"]


def _manager(directory: Path, **options: Any) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        directory,
        item_handlers={
            "state": ocp.StandardCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        },
        options=ocp.CheckpointManagerOptions(best_fn=_metric, **options),
    )


def _best_step(manager: ocp.CheckpointManager) -> int | None:
    step = manager.best_step()
    return None if step is None or _metric(manager.metrics(step)) == _NO_METRIC else step


def holds_checkpoint(directory: Path) -> bool:
    """Whether a whole checkpoint lies in `directory`, which need not exist."""
    return directory.is_dir() and any(child.name.isdigit() for child in directory.iterdir())


class Checkpointer:
    """Saves and restores `TrainState`s below `directory`, keeping the latest and the best (highest metric).

    Raises:
        ValueError: fewer than one latest checkpoint would be kept.
    """

    def __init__(self, directory: str | Path, *, keep_latest: int = 2, keep_best: int = 1) -> None:
        if keep_latest < 1:
            raise ValueError(f"checkpoint.keep_latest is {keep_latest}; at least 1 is needed to resume")
        self.directory = Path(directory).absolute()
        policies = ocp.checkpoint_managers
        self._manager = _manager(
            self.directory,
            cleanup_tmp_directories=True,
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(keep_latest), policies.BestN(get_metric_fn=_metric, n=keep_best)]
            ),
        )

    def save(
        self,
        state: TrainState,
        *,
        data: dict[str, Any],
        meta: dict[str, Any],
        metric: float | None = None,
        force: bool = False,
    ) -> bool:
        """Starts writing `state` as step `state.step`; its buffers may be donated as soon as this returns.

        Args:
            state: the state; arrays on any devices, under any sharding.
            data: the position of the data, JSON.
            meta: notes, JSON (the configuration, the tokenizer's fingerprint).
            metric: what makes a checkpoint the best; None never does.
            force: replace a checkpoint of the same step.

        Returns:
            Whether a checkpoint is being written: not where this step or a later one is already saved.
        """
        step = int(state.step)
        if force and step in self._manager.all_steps():
            self.wait()
            self._manager.delete(step)
        return self._manager.save(
            step,
            # JSON is written later, in the background: by then the caller may have changed it.
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave(copy.deepcopy(data)),
                meta=ocp.args.JsonSave(copy.deepcopy(meta)),
            ),
            metrics={"metric": _NO_METRIC if metric is None else float(metric)},
            force=force,
        )

    def restore(
        self, template: TrainState, step: int | None = None
    ) -> tuple[TrainState, dict[str, Any], dict[str, Any]] | None:
        """The state, data position and notes of `step` (the latest by default); None where nothing is saved.

        Args:
            template: a state of the same structure; its leaves are arrays or `jax.ShapeDtypeStruct`s, whose
                shardings the restored arrays get.
            step: a step that is saved.

        Raises:
            CheckpointError: `step` is not saved, or the checkpoint's arrays are not those of `template`.
        """
        self.wait()
        steps = sorted(self._manager.all_steps())
        if not steps and step is None:
            return None
        step = steps[-1] if step is None else step
        if step not in steps:
            raise CheckpointError(f"{self.directory} has no checkpoint of step {step}; saved: {steps}")
        _require_same_arrays(self._manager.item_metadata(step).state, template, self.directory / str(step))
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(template),
                data=ocp.args.JsonRestore(),
                meta=ocp.args.JsonRestore(),
            ),
        )
        return restored.state, restored.data, restored.meta

    @property
    def latest_step(self) -> int | None:
        """The last step saved; None where nothing is."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step with the highest metric, the later one of equals; None where no save had a metric."""
        self.wait()
        return _best_step(self._manager)

    def wait(self) -> None:
        """Returns when all that was saved is on disk; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes writing and lets go of the directory."""
        self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def restore_params(
    directory: str | Path, *, best: bool = False
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Parameters and batch statistics (nested dicts of NumPy arrays) and notes of another run's checkpoint.

    The parameters are those that evaluation uses: the moving average where the stage kept one. Reads neither
    the optimiser's state nor a template, and changes nothing in `directory`. The dicts are what
    `nnx.to_pure_dict` gives and `nnx.replace_by_pure_dict` takes.

    Args:
        directory: what that run's `Checkpointer` was given.
        best: take the checkpoint with the highest metric, if one has a metric, instead of the latest.

    Raises:
        CheckpointError: nothing is saved there.
    """
    directory = Path(directory).absolute()
    if not directory.is_dir():
        raise CheckpointError(f"no checkpoint: {directory} does not exist")
    with (
        _manager(directory, read_only=True, create=False, save_interval_steps=0) as manager,
        ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader,
    ):
        step = _best_step(manager) if best else None
        step = manager.latest_step() if step is None else step
        if step is None:
            raise CheckpointError(f"no checkpoint in {directory}")
        saved = manager.item_metadata(step).state
        params = "ema" if saved.get("ema") else "params"
        wanted = {key: saved[key] for key in (params, "batch_stats")}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        state = reader.restore(
            directory / str(step) / "state",
            args=ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True),
        )
        meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
    return _pure_dict(state[params]), _pure_dict(state["batch_stats"]), meta


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
