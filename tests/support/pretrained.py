"""Parts of a model that get pretrained weights separately."""

import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.initial_state import InitialWeights


def state_of(model: nnx.Module) -> TrainState:
    """Return an untrained state of the model."""
    _, params, batch_stats = nnx.split(model, nnx.Param, ...)
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, opt_state=None)


def load_part(part: nnx.Module, name: str, weights: InitialWeights) -> nnx.Module:
    """Return the part with the weights that it gets under a name in a model."""
    model = nnx.Dict({name: part})
    state = weights(state_of(model))
    loaded = nnx.merge(nnx.graphdef(model), state.params, state.batch_stats)
    return loaded[name]
