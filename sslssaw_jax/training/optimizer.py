"""The optimizer and its schedule, equal to PyTorch's `SGD`, `Adam` and `AdamW`, and to timm's `sgd`."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.stages import OptimConfig
from sslssaw_jax.stages.rate_factors import factor_tree


def make_schedule(config: OptimConfig, num_steps: int, epoch_ends: Sequence[int] = ()) -> optax.Schedule:
    """Make the schedule: a linear warm-up, then a cosine or steps.

    The cosine has its peak at step `warmup_steps`; `final_learning_rate` is reached at step `num_steps` and
    kept. What `plateau` changes is not known beforehand; see `plateau_factor`.

    Args:
        config: The `optim` group of a stage.
        num_steps: Steps of the stage.
        epoch_ends: The last step of each epoch; later milestones have no effect.

    Raises:
        ConfigError: The warm-up is not shorter than the stage.
    """
    if not 0 <= config.warmup_steps < max(num_steps, 1):
        raise ConfigError(
            f"optim.warmup_steps is {config.warmup_steps}; the stage has {num_steps} steps in all, "
            "and the warm-up must be shorter"
        )
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=config.learning_rate,
            warmup_steps=config.warmup_steps,
            decay_steps=max(num_steps, 1),
            end_value=config.final_learning_rate,
        )
    assert config.schedule in ("constant", "steps", "plateau"), f"no schedule is made for {config.schedule}"
    falls = {int(epoch_ends[epoch - 1]) for epoch in config.milestones if epoch <= len(epoch_ends)}
    rate = optax.piecewise_constant_schedule(config.learning_rate, dict.fromkeys(falls, config.factor))
    if not config.warmup_steps:
        return rate
    return lambda step: rate(step) * jnp.minimum(1, step / config.warmup_steps)


def plateau_factor(config: OptimConfig, qualities: Iterable[float]) -> float:
    """Return the factor of a plateau's rate after some evaluations.

    It is like torch's `ReduceLROnPlateau(threshold=0)`. The scores are kept with the checkpoints, so a
    resumed run needs nothing else.

    Args:
        config: The `optim` group of a stage.
        qualities: The scores on dev so far, where higher is better; the count begins at the first.
    """
    best, waited, factor = -math.inf, 0, 1.0
    for quality in qualities:
        waited = 0 if quality > best else waited + 1
        best = max(best, quality)
        if waited > config.patience:
            waited, factor = 0, factor * config.factor
    return factor


def make_optimizer(
    config: OptimConfig, num_steps: int, epoch_ends: Sequence[int] = ()
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Make the optimizer of a stage and its schedule.

    `sgd` and `adam` add weight decay to the gradient of every parameter before the moments, like
    `torch.optim.SGD` and `Adam`. `nesterov` and `adamw` decay only matrices and kernels: pulling a bias or a
    norm's scale to zero regularizes nothing. `nesterov` is `sgd` with Nesterov momentum, which timm
    calls `sgd`; `adamw` decays weights separately from the gradient. If `clip_norm` is positive,
    gradients are first clipped by their global norm. A module of factor 0 has no state here and does not
    count in the norm.

    Args:
        config: The `optim` group of a stage.
        num_steps: Steps of the stage, over which the learning rate falls.
        epoch_ends: The last step of each epoch.

    Raises:
        ConfigError: The warm-up is not shorter than the stage.
    """
    schedule = make_schedule(config, num_steps, epoch_ends)
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0 else []
    decay, mask = config.weight_decay, _matrices_and_kernels
    if config.name == "sgd":
        parts += [optax.add_decayed_weights(decay), optax.sgd(schedule, config.momentum)]
    elif config.name == "nesterov":
        parts += [optax.add_decayed_weights(decay, mask), optax.sgd(schedule, config.momentum, nesterov=True)]
    elif config.name == "adam":
        parts += [optax.add_decayed_weights(decay), optax.adam(schedule, config.b1, config.b2)]
    else:
        parts += [optax.adamw(schedule, config.b1, config.b2, weight_decay=decay, mask=mask)]
    factors = config.rate_factors
    if not factors:
        return optax.chain(*parts), schedule

    def scale(updates: Any, _: Any) -> Any:
        return jax.tree.map(jnp.multiply, updates, factor_tree(factors, updates))

    def is_trained(params: Any) -> Any:
        return jax.tree.map(bool, factor_tree(factors, params))

    # the gradients of frozen modules pass through; the training step has made them 0
    return optax.masked(optax.chain(*parts, optax.stateless(scale)), is_trained), schedule


def _matrices_and_kernels(params: Any) -> Any:
    return jax.tree.map(lambda param: param.ndim >= 2, params)
