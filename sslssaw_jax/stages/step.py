"""One training step and one evaluation step, the same for every stage: pure functions of the state."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sslssaw_jax.types import Batch, Metrics, TrainState

# (model, batch, key) -> (loss, its parts); key None: evaluation
Loss = Callable[[nnx.Module, Batch, jax.Array | None], tuple[jax.Array, Metrics]]


@dataclass(frozen=True)
class Stage:
    """What a stage trains: how its model is made and what is minimised."""

    name: str
    make_model: Callable[[jax.Array], nnx.Module]  # from a random key
    loss: Loss

    def init(self, key: jax.Array, optimizer: optax.GradientTransformation) -> TrainState:
        """The state before the first step."""
        params, batch_stats = _split(self.make_model(key))[1:]
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params))

    @cached_property
    def train_def(self) -> nnx.GraphDef:
        """The model's static structure, with dropout and the batch's own statistics."""
        return _split(self._abstract_model)[0]

    @cached_property
    def eval_def(self) -> nnx.GraphDef:
        """The same without dropout and with the running statistics."""
        modes = {"deterministic": True, "use_running_average": True}
        return _split(nnx.view(self._abstract_model, raise_if_not_found=False, **modes))[0]

    @cached_property
    def _abstract_model(self) -> nnx.Module:
        return nnx.eval_shape(lambda: self.make_model(jax.random.key(0)))


def _split(model: nnx.Module) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    return nnx.split(model, nnx.Param, ...)  # type: ignore[return-value]


def train_step(
    state: TrainState,
    batch: Batch,
    run_key: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    loss: Loss,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, Metrics]:
    """The state after one batch; randomness comes from the run's key and the step's number alone."""
    key = jax.random.fold_in(run_key, state.step)

    def objective(params: nnx.State) -> tuple[jax.Array, tuple[Metrics, nnx.State]]:
        model = nnx.merge(graphdef, params, state.batch_stats, copy=True)
        value, metrics = loss(model, batch, key)
        return value, (metrics, _split(model)[2])

    (value, (metrics, batch_stats)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": value, **metrics, "grad_norm": optax.tree.norm(grads)}
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics


def eval_step(
    params: nnx.State, batch_stats: nnx.State, batch: Batch, *, graphdef: nnx.GraphDef, loss: Loss
) -> Metrics:
    """The loss and its parts on one batch, without dropout or augmentation."""
    value, metrics = loss(nnx.merge(graphdef, params, batch_stats), batch, None)
    return {"loss": value, **metrics}
