"""Batch normalization over masked positions whose gradient passes over memory twice.

N frames, H x W pixels, C channels; pooled maps have R x S pixels.
"""

from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax


class BatchNorm(nnx.BatchNorm):
    """A batch normalization of the last axis with an optional ReLU.

    It computes what `nnx.BatchNorm` and `nnx.relu` compute. Their automatic gradient keeps several arrays of
    the input's size; this one keeps only the input.
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
        """Normalize `x` by its own statistics, or by running ones in evaluation.

        Args:
            x: float[..., C].
            mask: bool[..., 1], broadcastable to `x`: the positions that count; None: all of them. Without any
                (a batch whose clips have no question), the running statistics stay as they are.
            relu: Whether to apply a ReLU.
        """
        if self.use_running_average:
            y = super().__call__(x)
            return nnx.relu(y) if relu else y
        mask = jnp.ones((1,) * x.ndim, bool) if mask is None else mask
        return self._updated(mask, *_normalize(x, *self._affine, mask, relu, self.epsilon))

    def pooled(self, x_NxHxWxC: jax.Array, mask_Nx1x1x1: jax.Array) -> jax.Array:
        """Normalize, apply a ReLU, and pool as `max_pool` does.

        The largest pixel of a normalized channel is the largest, or the smallest, before normalization. So
        the normalized map is never written, and the gradient reads the full map once.
        """
        if self.use_running_average:
            return max_pool(self(x_NxHxWxC, relu=True))
        normalized = _normalize_pooled(x_NxHxWxC, *self._affine, mask_Nx1x1x1, self.epsilon)
        return self._updated(mask_Nx1x1x1, *normalized)

    @property
    def _affine(self) -> tuple[jax.Array, jax.Array]:
        assert self.scale is not None and self.bias is not None
        return self.scale[...], self.bias[...]

    def _updated(self, mask: jax.Array, y: jax.Array, mean_C: jax.Array, variance_C: jax.Array) -> jax.Array:
        for running, now_C in ((self.mean, mean_C), (self.var, variance_C)):
            new_C = self.momentum * running[...] + (1 - self.momentum) * now_C
            # set_value: `running[...] = ` asks a traced value for its sharding, which is slow (see keys.py)
            running.set_value(jnp.where(mask.any(), new_C, running[...]))
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
    wide = _widen(x)
    mean_C, variance_C = _statistics(wide, mask)
    y = (wide - mean_C) * (lax.rsqrt(variance_C + epsilon) * scale_C) + bias_C
    y = (nnx.relu(y) if relu else y).astype(x.dtype)
    return (y, mean_C, variance_C), (x, scale_C, bias_C, mask, mean_C, variance_C)


def _statistics(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance, summed in one pass."""
    axes, count = tuple(range(x.ndim - 1)), _count(x, mask)
    mean_C = x.sum(axes, where=mask) / count
    return mean_C, jnp.maximum((x**2).sum(axes, where=mask) / count - mean_C**2, 0)


def _count(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Return how many positions count, at least 1."""
    # `mean(where=)` would broadcast the mask to all positions and sum it
    return jnp.maximum(mask.sum(), 1) * (x.size // x.shape[-1] // mask.size)


def _backward(
    relu: bool, epsilon: float, saved: tuple[jax.Array, ...], cotangents: tuple[jax.Array, ...]
) -> tuple[Any, ...]:
    """Sum over the positions, then compute the gradient of `x`."""
    x, scale_C, bias_C, mask, mean_C, variance_C = saved
    axes, inverse_C = tuple(range(x.ndim - 1)), lax.rsqrt(variance_C + epsilon)
    normalized = (_widen(x) - mean_C) * inverse_C
    cotangent = _widen(cotangents[0])
    if relu:
        cotangent = jnp.where(normalized * scale_C + bias_C > 0, cotangent, 0)
    bias_gradient_C = cotangent.sum(axes)
    scale_gradient_C = (cotangent * normalized).sum(axes)
    through_statistics = (bias_gradient_C + normalized * scale_gradient_C) / _count(x, mask)
    x_gradient = scale_C * inverse_C * (cotangent - jnp.where(mask, through_statistics, 0))
    return x_gradient.astype(x.dtype), scale_gradient_C, bias_gradient_C, None


def _widen(x: jax.Array) -> jax.Array:
    """Return `x` in float32, or unchanged in float64."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


_normalize.defvjp(_forward, _backward)


NO_PIXEL = 15  # the place in a window whose largest pixel the ReLU cuts off


def max_pool(x_NxHxWxC: jax.Array) -> jax.Array:
    """Pool the largest of 3x3 pixels at stride 2, padded by 1."""
    return nnx.max_pool(x_NxHxWxC, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _normalize_pooled(
    x_NxHxWxC: jax.Array, scale_C: jax.Array, bias_C: jax.Array, mask: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the normalized and pooled `x`, its mean and its variance."""
    return _pooled_forward(x_NxHxWxC, scale_C, bias_C, mask, epsilon)[0]


def _pooled_forward(
    x_NxHxWxC: jax.Array, scale_C: jax.Array, bias_C: jax.Array, mask: jax.Array, epsilon: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    mean_C, variance_C = _statistics(_widen(x_NxHxWxC), mask)
    sign_C = jnp.where(scale_C < 0, -1, 1).astype(x_NxHxWxC.dtype)
    largest, pixel_NxRxSxC = _largest_pixel(x_NxHxWxC * sign_C)
    largest_NxRxSxC = largest * sign_C
    y = (_widen(largest_NxRxSxC) - mean_C) * (lax.rsqrt(variance_C + epsilon) * scale_C) + bias_C
    pixel_NxRxSxC = jnp.where(y > 0, pixel_NxRxSxC, NO_PIXEL)
    saved = x_NxHxWxC, largest_NxRxSxC, pixel_NxRxSxC, scale_C, mask, mean_C, variance_C
    return (nnx.relu(y).astype(x_NxHxWxC.dtype), mean_C, variance_C), saved


def _largest_pixel(x_NxHxWxC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return a window's largest pixel and its place `4*row+column`."""
    height, width = x_NxHxWxC.shape[1:3]
    padding = (0, 0, 0), (1, height % 2, 0), (1, width % 2, 0), (0, 0, 0)
    x = lax.pad(x_NxHxWxC, jnp.array(-jnp.inf, x_NxHxWxC.dtype), padding)
    largest = x[:, 0:height:2, 0:width:2]
    place = jnp.zeros(largest.shape, jnp.uint8)
    for row, column in product(range(3), repeat=2):
        pixel = x[:, row : height + row : 2, column : width + column : 2]
        place = jnp.where(pixel > largest, jnp.uint8(4 * row + column), place)
        largest = jnp.maximum(pixel, largest)
    return largest, place


def _pooled_backward(
    epsilon: float, saved: tuple[jax.Array, ...], cotangents: tuple[jax.Array, ...]
) -> tuple[Any, ...]:
    """Sum over the windows, then compute the gradient of `x`."""
    x, largest, pixel, scale_C, mask, mean_C, variance_C = saved
    inverse_C = lax.rsqrt(variance_C + epsilon)
    cotangent = jnp.where(pixel == NO_PIXEL, 0, _widen(cotangents[0]))
    bias_gradient_C = cotangent.sum((0, 1, 2))
    scale_gradient_C = (cotangent * (_widen(largest) - mean_C)).sum((0, 1, 2)) * inverse_C
    normalized = (_widen(x) - mean_C) * inverse_C
    through_statistics = (bias_gradient_C + normalized * scale_gradient_C) / _count(x, mask)
    of_pixels = _to_pixels(_widen(cotangents[0]), pixel)[:, : x.shape[1], : x.shape[2]]
    x_gradient = scale_C * inverse_C * (of_pixels - jnp.where(mask, through_statistics, 0))
    return x_gradient.astype(x.dtype), scale_gradient_C, bias_gradient_C, None


def _to_pixels(cotangent_NxRxSxC: jax.Array, pixel_NxRxSxC: jax.Array) -> jax.Array:
    """Give each window's cotangent to its largest pixel.

    Pixel (2r + i, 2s + j) with i and j 0 or 1 lies in window (r, s); if i is 1, also in window r + 1, and if
    j is 1, also in window s + 1. Elsewhere its place would be negative, or have a column that no window has.
    """
    frames, rows, columns, channels = cotangent_NxRxSxC.shape
    row, column = np.arange(2)[:, None, None, None], np.arange(2)[:, None]

    def of_window(z: jax.Array, down: int, right: int) -> jax.Array:
        z = jnp.pad(z, ((0, 0), (0, down), (0, right), (0, 0)))[:, down:, right:]
        return z[:, :, None, :, None]

    total = jnp.zeros((), cotangent_NxRxSxC.dtype)
    for down, right in product(range(2), repeat=2):
        place = 4 * (row + 1 - 2 * down) + column + 1 - 2 * right
        largest = of_window(pixel_NxRxSxC, down, right) == place
        total += jnp.where(largest, of_window(cotangent_NxRxSxC, down, right), 0)
    return total.reshape(frames, 2 * rows, 2 * columns, channels)


_normalize_pooled.defvjp(_pooled_forward, _pooled_backward)
