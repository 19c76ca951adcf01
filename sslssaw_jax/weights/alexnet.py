"""AlexNet's public weights, `bvlc_alexnet.npy`: a pickled dictionary of layer -> [kernel, bias]."""

from pathlib import Path

import numpy as np

from sslssaw_jax.data.pickled_arrays import read_object
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
        layers = read_object(path)
        return {
            f"{layer}.{leaf}": np.asarray(array, np.float32)
            for layer, parts in layers.items()
            if layer != _CLASSIFIER
            for leaf, array in zip(("kernel", "bias"), parts, strict=True)
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"config.model.cnn.weights is {path}: not AlexNet's bvlc_alexnet.npy, layer -> [kernel, bias] "
            f"({error})"
        ) from error
