"""Batch normalization over masked positions whose gradient passes over memory twice."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


class BatchNorm(nnx.BatchNorm):
    """A batch normalization of the last axis with an optional ReLU.

    It computes what `nnx.BatchNorm` and `nnx.relu` compute. Their automatic gradient keeps several arrays of
    the input's size; this one keeps the input alone.
    """

    def __init__(
        self,
        features: int,
        *,
        scale: float = 1.0,
        momentum: float = 0.9,  # torch's momentum 0.1
        epsilon: float = 1e-5,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            features,
            momentum=momentum,
            epsilon=epsilon,
            scale_init=nnx.initializers.constant(scale),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(  # type: ignore[override]
        self, x: jax.Array, *, mask: jax.Array | None = None, relu: bool = False
    ) -> jax.Array:
        """Normalize `x` by its own statistics, or in evaluation by running ones.

        Args:
            x: float[..., C].
            mask: bool[..., 1], broadcastable to `x`: the positions that count; None: all of them.
            relu: Whether to apply a ReLU.
        """
        if self.use_running_average:
            y = super().__call__(x)
            return nnx.relu(y) if relu else y
        assert self.scale is not None and self.bias is not None
        mask = jnp.ones((1,) * x.ndim, bool) if mask is None else mask
        y, mean_C, variance_C = _normalize(x, self.scale[...], self.bias[...], mask, relu, self.epsilon)
        # set_value: `self.mean[...] = ` asks a traced value for its sharding, which takes long (see keys.py)
        self.mean.set_value(self.momentum * self.mean[...] + (1 - self.momentum) * mean_C)
        self.var.set_value(self.momentum * self.var[...] + (1 - self.momentum) * variance_C)
        return y


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _normalize(
    x: jax.Array, scale_C: jax.Array, bias_C: jax.Array, mask: jax.Array, relu: bool, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the normalized `x`, its mean and its variance."""
    return _forward(x, scale_C, bias_C, mask, relu, epsilon)[0]


def _forward(
    x: jax.Array, scale_C: jax.Array, bias_C: jax.Array, mask: jax.Array, relu: bool, epsilon: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    axes, wide = tuple(range(x.ndim - 1)), _widen(x)
    mean_C = wide.mean(axes, where=mask)
    variance_C = jnp.maximum((wide**2).mean(axes, where=mask) - mean_C**2, 0)  # both means in one pass
    y = (wide - mean_C) * (lax.rsqrt(variance_C + epsilon) * scale_C) + bias_C
    y = (nnx.relu(y) if relu else y).astype(x.dtype)
    return (y, mean_C, variance_C), (x, scale_C, bias_C, mask, mean_C, variance_C)


def _backward(
    relu: bool, epsilon: float, saved: tuple[jax.Array, ...], cotangents: tuple[jax.Array, ...]
) -> tuple[Any, ...]:
    """Sum over the positions, then compute the gradient of `x`."""
    x, scale_C, bias_C, mask, mean_C, variance_C = saved
    axes, count = tuple(range(x.ndim - 1)), mask.sum() * (x.size // x.shape[-1] // mask.size)
    inverse_C = lax.rsqrt(variance_C + epsilon)
    normalized = (_widen(x) - mean_C) * inverse_C
    cotangent = _widen(cotangents[0])
    if relu:
        cotangent = jnp.where(normalized * scale_C + bias_C > 0, cotangent, 0)
    bias_gradient_C = cotangent.sum(axes)
    scale_gradient_C = (cotangent * normalized).sum(axes)
    through_statistics = (bias_gradient_C + normalized * scale_gradient_C) / count
    x_gradient = scale_C * inverse_C * (cotangent - jnp.where(mask, through_statistics, 0))
    return x_gradient.astype(x.dtype), scale_gradient_C, bias_gradient_C, None


def _widen(x: jax.Array) -> jax.Array:
    """Return `x` in float32, or unchanged in float64."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


_normalize.defvjp(_forward, _backward)
