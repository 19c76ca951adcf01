"""One training step and one evaluation step, the same for every stage: pure functions of the state."""

from collections.abc import Callable
from types import MappingProxyType

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from sslssaw_jax.stages.rate_factors import RateFactors, factor_tree
from sslssaw_jax.stages.stage import Loss, LossCounts, split_model
from sslssaw_jax.types import Batch, Metrics, TrainState

_Gradient = tuple[tuple[nnx.State, Metrics], nnx.State]  # gradients and metrics add up, statistics carry over


def train_step(
    state: TrainState,
    batch: Batch,
    run_key: jax.Array,
    rate: jax.Array | float = 1.0,
    *,
    graphdef: nnx.GraphDef,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    ema_decay: float = 0.0,
    factors: RateFactors = MappingProxyType({}),
) -> tuple[TrainState, Metrics]:
    """Return the state after one batch, or one stack of micro-batches.

    Randomness comes only from the run's key and the step's number. A step on stacked micro-batches equals
    one step on all of their clips, except for what sees one batch at a time (BatchNorm, stage 1's contrast).

    Args:
        state: The state before.
        batch: The clips.
        run_key: The key of the run.
        rate: A factor of the learning rate, on top of the schedule.
        graphdef: The model's structure for training.
        loss: The stage's loss.
        optimizer: The stage's optimizer.
        ema_decay: The decay of the moving average.
        factors: The modules' learning-rate factors; the gradient of a module with factor 0 is not computed.
    """

    def gradient(batch_stats: nnx.State, batch: Batch, key: jax.Array, counts: LossCounts) -> _Gradient:
        def objective(params: nnx.State) -> tuple[jax.Array, tuple[Metrics, nnx.State]]:
            trained = factor_tree(factors, params)
            params = jax.tree.map(lambda x, factor: x if factor else lax.stop_gradient(x), params, trained)
            model = nnx.merge(graphdef, params, batch_stats, copy=True)
            value, metrics = loss(model, batch, key, counts)
            return value, ({"loss": value, **metrics}, split_model(model)[2])

        grads, (metrics, new_stats) = jax.grad(objective, has_aux=True)(state.params)
        return (grads, metrics), new_stats

    key = jax.random.fold_in(run_key, state.step)
    if batch.valid.ndim == 1:
        (grads, metrics), batch_stats = gradient(state.batch_stats, batch, key, count_batch(batch))
    else:
        (grads, metrics), batch_stats = _accumulate(gradient, state.batch_stats, batch, key)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda update: update * rate, updates)
    params = optax.apply_updates(state.params, updates)
    ema = None if state.ema is None else _update_ema(state.ema, params, state.step, ema_decay)
    metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
    return TrainState(state.step + 1, params, batch_stats, opt_state, ema), metrics


def _accumulate(
    gradient: Callable[[nnx.State, Batch, jax.Array, LossCounts], _Gradient],
    batch_stats: nnx.State,
    batches: Batch,
    key: jax.Array,
) -> _Gradient:
    """Sum gradients over stacked micro-batches that have a clip."""
    counts = count_batch(batches)
    keys = jax.random.split(key, len(batches.valid))

    def add(carry: _Gradient, part: tuple[Batch, jax.Array]) -> tuple[_Gradient, None]:
        def added(carry: _Gradient) -> _Gradient:
            total, batch_stats = carry
            summand, batch_stats = gradient(batch_stats, *part, counts)
            return jax.tree.map(jnp.add, total, summand), batch_stats

        # without a clip, nothing is computed; the first branch counts as the step's FLOPs
        return lax.cond(~part[0].valid.any(), lambda carry: carry, added, carry), None

    first, first_key = jax.tree.map(lambda x: x[0], (batches, keys))
    summand, _ = jax.eval_shape(gradient, batch_stats, first, first_key, counts)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), summand)
    return lax.scan(add, (zeros, batch_stats), (batches, keys))[0]


def count_batch(batch: Batch) -> LossCounts:
    """Count what a batch, or a stack of micro-batches, has."""

    def scored(mask: jax.Array) -> jax.Array:
        return mask.sum() - mask.any(axis=-1).sum()  # all tokens of a text but its language code

    return LossCounts(
        clips=batch.valid.sum(),
        frames=batch.frame_count.sum(),
        question_tokens=scored(batch.decoder_texts.question_mask),
        target_tokens=scored(batch.decoder_texts.target_mask),
    )


def _update_ema(ema: nnx.State, params: nnx.State, step: jax.Array, decay: float) -> nnx.State:
    """Update the moving average; its decay warms up as `step/(step+10)`."""
    weight = jnp.minimum(decay, step / (step + 10))
    return jax.tree.map(lambda old, new: (weight * old + (1 - weight) * new).astype(old.dtype), ema, params)


def eval_step(
    params: nnx.State, batch_stats: nnx.State, batch: Batch, *, graphdef: nnx.GraphDef, loss: Loss
) -> Metrics:
    """Return a batch's loss and its parts, without dropout or augmentation."""
    value, metrics = loss(nnx.merge(graphdef, params, batch_stats), batch, None, count_batch(batch))
    return {"loss": value, **metrics}
