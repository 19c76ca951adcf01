"""Initial weights of a stage, as functions of its fresh state."""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import reduce
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental.multihost_utils import process_allgather

from sslssaw_jax.errors import UserError
from sslssaw_jax.types import TrainState

_SHOWN_PROBLEMS = 12

InitialWeights = Callable[[TrainState], TrainState]
KeyPath = tuple[Any, ...]  # names and numbers to a variable: ("decoder", "layers", 0, "fc1", "kernel")
Shape = tuple[int, ...]


class WeightsError(UserError):
    """An error about weights that are missing or do not fit."""


def chain(weights: Iterable[InitialWeights]) -> InitialWeights:
    """Return the function that applies `weights` in order; later ones win."""
    return lambda state: reduce(lambda changed, change: change(changed), weights, state)


def variables(state: TrainState) -> dict[KeyPath, Any]:
    """Return the arrays of all parameters and batch statistics by path."""
    return {
        path: variable.get_value()
        for group in (state.params, state.batch_stats)
        for path, variable in nnx.to_flat_state(group)
    }


def whole_variable(state: TrainState, path: KeyPath) -> np.ndarray:
    """Gather an array that may be spread over processes."""
    value = variables(state)[path]
    return np.array(value if value.is_fully_addressable else process_allgather(value, tiled=True))


def replace_variables(state: TrainState, values: Iterable[tuple[KeyPath, Any]]) -> TrainState:
    """Return the state with new values of some variables, sharded as before.

    Args:
        state: A state of arrays, or of `jax.ShapeDtypeStruct`s with a sharding.
        values: Paths and arrays. A generator keeps one array at a time in host memory.

    Raises:
        WeightsError: An array holds NaN or infinity.
    """
    old = variables(state)

    def put(path: KeyPath, value: Any) -> jax.Array:
        if not np.isfinite(value).all():
            raise WeightsError(f"the weights hold NaN or infinity in {dotted(path)}: train them again")
        return jax.device_put(value, old[path].sharding)

    new = old | {path: put(path, value) for path, value in values}

    def replaced(group: nnx.State) -> nnx.State:
        return nnx.map_state(lambda path, variable: variable.replace(new[path]), group)

    return state.replace(  # type: ignore[attr-defined]
        params=replaced(state.params), batch_stats=replaced(state.batch_stats)
    )


def whole_model(base: TrainState, counters: Collection[str]) -> InitialWeights:
    """Return a function that copies a model's variables, all but its counters."""
    kept = [(path, value) for path, value in variables(base).items() if dotted(path) not in counters]
    return lambda state: replace_variables(state, kept)


def replace_all_variables(state: TrainState, arrays: Mapping[str, Any], message: str) -> TrainState:
    """Return the state with every variable replaced.

    Args:
        state: As for `replace_variables`.
        arrays: The new values by dotted name; other float types are converted.
        message: First line of the error.

    Raises:
        WeightsError: Names or shapes differ.
    """
    own = variables(state)
    wanted = {dotted(path): leaf.shape for path, leaf in own.items()}
    require_same({name: array.shape for name, array in arrays.items()}, wanted, message)
    return replace_variables(state, ((path, arrays[dotted(path)].astype(own[path].dtype)) for path in own))


def dotted(path: KeyPath) -> str:
    """Return the name of a variable, its path joined by dots."""
    return ".".join(map(str, path))


def require_same(found: Mapping[str, Shape], wanted: Mapping[str, Shape], message: str) -> None:
    """Raise WeightsError unless file and model have the same names and shapes.

    Args:
        found: Shapes by name in the file.
        wanted: Shapes by name in the model.
        message: First line of the error; a line for each difference follows.
    """
    problems = [
        f"{name}: {found.get(name, 'missing')} in the file, {wanted.get(name, 'unknown')} in the model"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if len(problems) > _SHOWN_PROBLEMS:
        problems[_SHOWN_PROBLEMS:] = [f"and {len(problems) - _SHOWN_PROBLEMS} more"]
    if problems:
        raise WeightsError(f"{message}:\n  " + "\n  ".join(problems))
