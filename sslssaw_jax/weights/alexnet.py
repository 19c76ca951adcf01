"""AlexNet's public weights, `bvlc_alexnet.npy`: a pickled dictionary of layer -> [kernel, bias]."""

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.initial_state import (
    InitialWeights,
    WeightsError,
    replace_variables,
    require_same,
    variables,
)
from sslssaw_jax.workdir import user_path

_CLASSIFIER = "fc8"
_ALLOWED = {  # all that NumPy's arrays need; a file that names anything else is refused
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that makes NumPy's arrays and plain containers."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise WeightsError(f"it asks for {module}.{name}, which weights do not need: get the file anew")
        return super().find_class(module, name)


def pretrained_alexnet(weights: str) -> InitialWeights:
    """Return the function that loads the file into a state's CNN.

    Raises:
        WeightsError: There is no such file, or it holds something else.
    """
    path = user_path(weights)
    arrays = _read(path)

    def load(state: TrainState) -> TrainState:
        own = {key: value for key, value in variables(state).items() if "cnn" in key[:2]}
        names = {key: ".".join(map(str, key[key.index("cnn") + 1 :])) for key in own}
        if not names:
            return state
        wanted = {name: own[key].shape for key, name in names.items()}
        message = f"{path} does not fit config.model.cnn.alexnet or the 227 pixels of config.data.image_size"
        require_same({name: array.shape for name, array in arrays.items()}, wanted, message)
        return replace_variables(state, ((key, arrays[name]) for key, name in names.items()))

    return load


def _read(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays as `conv1.kernel`, `conv1.bias` and so on."""
    try:
        with path.open("rb") as file:
            layers = _load(file)
        return {
            f"{layer}.{leaf}": np.asarray(array, np.float32)
            for layer, parts in layers.items()
            if layer != _CLASSIFIER
            for leaf, array in zip(("kernel", "bias"), parts, strict=True)
        }
    except WeightsError as error:
        raise WeightsError(f"config.model.cnn.weights: {path} is not read: {error}") from None
    except (OSError, ValueError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"config.model.cnn.weights is {path}: not AlexNet's bvlc_alexnet.npy, layer -> [kernel, bias] "
            f"({error})"
        ) from error


def _load(file: BinaryIO) -> Any:
    """Read the object behind the header of a `.npy` file."""
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return _ArraysOnly(file, encoding="latin1").load().item()
