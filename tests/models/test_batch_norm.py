"""Our batch normalizations equal Flax's with a ReLU and max-pooling, including gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.models.batch_norm import BatchNorm, _largest_pixel, max_pool
from tests.support.toy import assert_close, jit

CHANNELS = 4
MASK = np.array([True, False, True])[:, None, None, None]


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def outcome(norm: Any, apply: Any, x: jax.Array) -> Any:
    """Return the result, the new statistics and the gradients."""
    graphdef, params, stats = nnx.split(norm, nnx.Param, ...)

    def run(params: Any, x: jax.Array) -> Any:
        norm = nnx.merge(graphdef, params, stats, copy=True)
        return apply(norm, x), nnx.state(norm, nnx.BatchStat)

    y, pullback, stats = jax.vjp(run, params, x, has_aux=True)
    return y, stats, pullback(jnp.cos(9 * y))  # not zero where the mask is


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 9)])
def test_values_statistics_and_gradients_are_those_of_flax(height: int, width: int, pooled: bool) -> None:
    ours = BatchNorm(CHANNELS, dtype=jnp.float32, rngs=nnx.Rngs(0))
    flax = nnx.BatchNorm(CHANNELS, momentum=0.9, epsilon=1e-5, rngs=nnx.Rngs(0))
    for norm in (ours, flax):
        norm.scale[...] = jnp.array([1.0, -2.0, 0.5, 0.1])  # with -2.0 the smallest pixel is pooled
        norm.bias[...] = jnp.array([0.1, -0.2, 0.0, -1.0])

    def apply_ours(norm: BatchNorm, x: jax.Array) -> jax.Array:
        return norm.pooled(x, MASK) if pooled else norm(x, mask=MASK, relu=True)

    def apply_flax(norm: nnx.BatchNorm, x: jax.Array) -> jax.Array:
        y = nnx.relu(norm(x, mask=MASK))
        return max_pool(y) if pooled else y

    x = normal(0, len(MASK), height, width, CHANNELS)
    expected = jit(lambda x: outcome(flax, apply_flax, x))(x)
    assert_close(jit(lambda x: outcome(ours, apply_ours, x))(x), expected)


def test_of_equal_pixels_the_first_is_the_largest_as_in_pytorch() -> None:
    _, place = _largest_pixel(jnp.zeros((1, 4, 4, 1)))
    assert place[0, :, :, 0].tolist() == [[5, 4], [1, 0]], "4 * row + column in the window"


def test_a_batch_without_any_position_leaves_the_statistics_and_has_no_gradient() -> None:
    """Normalize the questions of a batch whose clips have none."""
    norm = BatchNorm(CHANNELS, dtype=jnp.float32, rngs=nnx.Rngs(0))
    before = nnx.to_pure_dict(nnx.state(norm, nnx.BatchStat))
    nothing = jnp.zeros((2, 3, 1), bool)
    run = jit(lambda x: outcome(norm, lambda norm, x: norm(x, mask=nothing) * nothing, x))
    y, stats, (_, of_x) = run(normal(0, 2, 3, CHANNELS))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(stats), before)
    np.testing.assert_array_equal(y, np.zeros_like(y))
    np.testing.assert_array_equal(of_x, np.zeros_like(y))
