"""The optimizer and its schedule, equal to PyTorch's `SGD`, `Adam` and `AdamW`."""

from typing import Any

import jax
import optax

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.stages import OptimConfig


def make_schedule(config: OptimConfig, num_steps: int) -> optax.Schedule:
    """Make the schedule: a linear warm-up from 0, then a cosine.

    The peak is at step `warmup_steps`; `final_learning_rate` is reached at step `num_steps` and stays.

    Raises:
        ConfigError: The warm-up leaves no step for the cosine.
    """
    if not 0 <= config.warmup_steps < max(num_steps, 1):
        raise ConfigError(
            f"optim.warmup_steps is {config.warmup_steps}; the stage has {num_steps} steps in all, "
            "and the warm-up must be shorter"
        )
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=max(num_steps, 1),
        end_value=config.final_learning_rate,
    )


def make_optimizer(
    config: OptimConfig, num_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Make the optimizer of a stage and its schedule.

    `sgd` and `adam` add weight decay to the gradient of every parameter before the moments, like
    `torch.optim.SGD` and `Adam`. `adamw` decays weights apart from the gradient, and only matrices and
    kernels: pulling a bias or a norm's scale to zero regularizes nothing. If `clip_norm` is positive,
    gradients are first clipped by their global norm.

    Args:
        config: The `optim` group of a stage.
        num_steps: Steps of the stage, over which the learning rate falls.

    Raises:
        ConfigError: The warm-up is not shorter than the stage.
    """
    schedule = make_schedule(config, num_steps)
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0 else []
    decay = config.weight_decay
    if config.name == "sgd":
        parts += [optax.add_decayed_weights(decay), optax.sgd(schedule, config.momentum)]
    elif config.name == "adam":
        parts += [optax.add_decayed_weights(decay), optax.adam(schedule, config.b1, config.b2)]
    else:
        mask = _matrices_and_kernels
        parts += [optax.adamw(schedule, config.b1, config.b2, weight_decay=decay, mask=mask)]
    return optax.chain(*parts), schedule


def _matrices_and_kernels(params: Any) -> Any:
    return jax.tree.map(lambda param: param.ndim >= 2, params)
