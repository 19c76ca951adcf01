"""One training step and one evaluation step, the same for every stage: pure functions of the state."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sslssaw_jax.types import Batch, Metrics, TrainState


class Counts(NamedTuple):
    """How much the means of a loss are over; None: as much as its batch holds."""

    clips: jax.Array | None = None
    frames: jax.Array | None = None
    question_tokens: jax.Array | None = None
    target_tokens: jax.Array | None = None


OWN = Counts()

# (model, batch, key, counts) -> (loss, its parts); key None: evaluation
Loss = Callable[..., tuple[jax.Array, Metrics]]


@dataclass(frozen=True)
class Stage:
    """What a stage trains: how its model is made and what is minimised."""

    name: str
    make_model: Callable[[jax.Array], nnx.Module]  # from a random key
    loss: Loss
    remat: bool = False  # training recomputes the inside of each block instead of keeping it in memory

    def init(
        self, key: jax.Array, optimizer: optax.GradientTransformation, averaged: bool = False
    ) -> TrainState:
        """The state before the first step; with `averaged`, room for the parameters' moving average."""
        params, batch_stats = _split(self.make_model(key))[1:]
        ema = jax.tree.map(jnp.zeros_like, params) if averaged else None
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), ema)

    @cached_property
    def train_def(self) -> nnx.GraphDef:
        """The model's static structure, with dropout and the batch's own statistics."""
        return _split(nnx.view(self._abstract_model, raise_if_not_found=False, remat=self.remat))[0]

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
    ema_decay: float = 0.0,
) -> tuple[TrainState, Metrics]:
    """The state after one batch; randomness comes from the run's key and the step's number alone.

    Of a stacked batch the gradient is that of all it holds, computed one batch after the other.
    """

    def gradient(batch_stats: nnx.State, batch: Batch, key: jax.Array, counts: Counts) -> _Gradient:
        def objective(params: nnx.State) -> tuple[jax.Array, tuple[Metrics, nnx.State]]:
            model = nnx.merge(graphdef, params, batch_stats, copy=True)
            value, metrics = loss(model, batch, key, counts)
            return value, ({"loss": value, **metrics}, _split(model)[2])

        grads, (metrics, new_stats) = jax.grad(objective, has_aux=True)(state.params)
        return (grads, metrics), new_stats

    key = jax.random.fold_in(run_key, state.step)
    if batch.valid.ndim == 1:
        (grads, metrics), batch_stats = gradient(state.batch_stats, batch, key, OWN)
    else:
        (grads, metrics), batch_stats = _accumulate(gradient, state.batch_stats, batch, key)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = None if state.ema is None else _average(state.ema, params, state.step, ema_decay)
    metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
    return TrainState(state.step + 1, params, batch_stats, opt_state, ema), metrics


_Gradient = tuple[tuple[nnx.State, Metrics], nnx.State]  # gradient and metrics add up, statistics follow on


def _accumulate(
    gradient: Callable[[nnx.State, Batch, jax.Array, Counts], _Gradient],
    batch_stats: nnx.State,
    batches: Batch,
    key: jax.Array,
) -> _Gradient:
    """The sum over stacked batches: means are over what all hold together; one without a clip is left out."""
    counts = _count(batches)
    keys = jax.random.split(key, len(batches.valid))

    def add(carry: _Gradient, part: tuple[Batch, jax.Array]) -> tuple[_Gradient, None]:
        def added(carry: _Gradient) -> _Gradient:
            total, batch_stats = carry
            summand, batch_stats = gradient(batch_stats, *part, counts)
            return jax.tree.map(jnp.add, total, summand), batch_stats

        # without a clip BatchNorm would divide by zero
        return jax.lax.cond(part[0].valid.any(), added, lambda carry: carry, carry), None

    first, first_key = jax.tree.map(lambda x: x[0], (batches, keys))
    summand, _ = jax.eval_shape(gradient, batch_stats, first, first_key, counts)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), summand)
    return jax.lax.scan(add, (zeros, batch_stats), (batches, keys))[0]


def _count(batch: Batch) -> Counts:
    def scored(mask: jax.Array) -> jax.Array:
        return mask.sum() - mask.any(axis=-1).sum()  # all of a text but its language code

    return Counts(
        clips=batch.valid.sum(),
        frames=batch.frame_count.sum(),
        question_tokens=scored(batch.decoder_texts.question_mask),
        target_tokens=scored(batch.decoder_texts.target_mask),
    )


def _average(ema: nnx.State, params: nnx.State, step: jax.Array, decay: float) -> nnx.State:
    """A young average forgets faster, and the first step replaces what it was made with altogether."""
    weight = jnp.minimum(decay, step / (step + 10))
    return jax.tree.map(lambda old, new: (weight * old + (1 - weight) * new).astype(old.dtype), ema, params)


def eval_step(
    params: nnx.State, batch_stats: nnx.State, batch: Batch, *, graphdef: nnx.GraphDef, loss: Loss
) -> Metrics:
    """The loss and its parts on one batch, without dropout or augmentation."""
    value, metrics = loss(nnx.merge(graphdef, params, batch_stats), batch, None)
    return {"loss": value, **metrics}
