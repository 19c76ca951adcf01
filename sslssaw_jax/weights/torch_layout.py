"""PyTorch's names and layouts for Flax variables, in both directions."""

from collections.abc import Mapping

import numpy as np

from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.initial_state import (
    KeyPath,
    WeightsError,
    replace_variables,
    require_same,
    variables,
)
from sslssaw_jax.weights.torch_files import Checkpoint

BIAS_OF_LOGITS = "final_logits_bias"
_LEAVES = {
    "kernel": "weight",  # of Linear and Conv
    "scale": "weight",  # of LayerNorm and BatchNorm
    "embedding": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# our axes in PyTorch's order, by their number
_KERNEL_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1), 5: (4, 3, 0, 1, 2)}


def torch_leaf(path: KeyPath) -> str:
    """Return PyTorch's name of a variable within its layer."""
    return _LEAVES[path[-1]]


def to_torch(path: KeyPath, value: np.ndarray) -> np.ndarray:
    """Return a variable as PyTorch lays it out."""
    if path[-1] == "kernel":
        return value.transpose(_KERNEL_AXES[value.ndim])
    return value[None] if path[-1] == BIAS_OF_LOGITS else value


def from_torch(path: KeyPath, value: np.ndarray) -> np.ndarray:
    """Return a PyTorch tensor as Flax lays it out."""
    if path[-1] == "kernel":
        return value.transpose(np.argsort(_KERNEL_AXES[value.ndim]))
    return value[0] if path[-1] == BIAS_OF_LOGITS else value


def load_tensors(
    state: TrainState,
    names: Mapping[KeyPath, str],
    checkpoint: Checkpoint,
    tensors: Mapping[str, str],
    model: str = "this model",
) -> TrainState:
    """Return the state with some variables read from a checkpoint.

    Args:
        state: A state of arrays, or of `jax.ShapeDtypeStruct`s with a sharding.
        names: The tensor that each variable gets, by path; several variables may get the same one.
        checkpoint: The file.
        tensors: Name in the file by the name that `names` uses, for every tensor that needs a place.
        model: What the checkpoint must fit, for the error.

    Raises:
        WeightsError: A tensor is missing, has no place, or has another shape; or it holds integers, NaN or
            infinity.
    """
    own = variables(state)
    found = {
        name: checkpoint.shapes[theirs] for name, theirs in tensors.items() if theirs in checkpoint.shapes
    }
    wanted = {name: _torch_shape(path, own[path].shape) for path, name in names.items()}
    require_same(found, wanted, f"{checkpoint.path} does not fit {model}")
    # the largest first, while little is in memory
    paths = sorted(names, key=lambda path: -own[path].size)

    def value(path: KeyPath) -> np.ndarray:
        read = checkpoint.read(tensors[names[path]])
        if np.issubdtype(read.dtype, np.integer):
            raise WeightsError(
                f"{tensors[names[path]]} of {checkpoint.path} has type {read.dtype}, as in quantised models: "
                "take the model in float32 or float16"
            )
        return from_torch(path, read)

    return replace_variables(state, ((path, value(path)) for path in paths))


def choose_layers(
    pretrained_layers: str, part: str, wanted: int, available: int, checkpoint: Checkpoint
) -> list[int]:
    """Return the numbers of the pretrained layers that a shallower part gets.

    Args:
        pretrained_layers: `first` takes the lowest layers; `spread` takes evenly spaced ones, including the
            first and the last.
        part: Name of the part in the model.
        wanted: Layers of the part.
        available: Layers of its counterpart in the checkpoint.
        checkpoint: The file, for the error.

    Raises:
        WeightsError: There are fewer layers than wanted.
    """
    if wanted > available:
        raise WeightsError(
            f"the {part} has {wanted} layers and its counterpart in {checkpoint.path} {available}: lower the "
            "number of layers in config.model, or take a deeper pretrained model"
        )
    if pretrained_layers == "first":
        return list(range(wanted))
    return np.linspace(0, available - 1, wanted).round().astype(int).tolist()


def _torch_shape(path: KeyPath, shape: tuple[int, ...]) -> tuple[int, ...]:
    return to_torch(path, np.broadcast_to(np.float32(0), shape)).shape
