"""Our gradients of convolutions equal XLA's."""

import functools

import jax
import numpy as np
import pytest
from jax import lax

from sslssaw_jax.models import cpu_gradients as convolution
from sslssaw_jax.models.cpu_gradients import compiler_options, convolve, convolve_packed
from tests.support.toy import assert_close, jit

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride", "groups"),
    [(28, 25, 7, 2, 1), (13, 14, 3, 1, 1), (25, 26, 3, 2, 1), (26, 26, 1, 2, 1), (13, 13, 3, 1, 2)],
)
def test_gradients_of_a_convolution_are_those_of_xla(
    height: int, width: int, kernel: int, stride: int, groups: int
) -> None:
    side = (kernel // 2, kernel // 2)
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": groups}
    x, weights = normal(3, height, width, 4), normal(kernel, kernel, 4 // groups, 6)

    def gradients(function):
        call = lambda x, weights: function(x, weights, (stride, stride), (side, side), **options)  # noqa: E731
        y, pullback = jax.vjp(call, x, weights)
        return y, pullback(jax.numpy.cos(y))

    assert -(-height // stride) >= convolution.MIN_SIDE
    assert_close(jit(lambda: gradients(convolve))(), jit(lambda: gradients(lax.conv_general_dilated))())


@pytest.mark.parametrize(
    ("stride", "kernel", "channels"), [(2, 7, 3), (2, 3, 3), (2, 7, 4), (4, 7, 3), (4, 11, 3), (4, 5, 2)]
)
def test_a_convolution_over_blocks_of_pixels_is_that_of_xla(stride: int, kernel: int, channels: int) -> None:
    side = (kernel // 2, kernel // 2)
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 1}
    x, weights = normal(2, 56, 48, channels), normal(kernel, kernel, channels, 5)

    def gradients(function):
        y, pullback = jax.vjp(function, x, weights)
        return y, pullback(jax.numpy.cos(y))

    def plain(x, weights):
        return lax.conv_general_dilated(x, weights, (stride, stride), (side, side), **options)

    packed = functools.partial(convolve_packed, stride=stride, **options)
    assert_close(jit(lambda: gradients(packed))(), jit(lambda: gradients(plain))())


def test_convolutions_are_not_left_to_a_library_that_uses_one_core() -> None:
    x, weights = normal(2, 6, 6, 32), normal(3, 3, 32, 32)
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 1}
    call = functools.partial(convolve, strides=(1, 1), padding=((1, 1), (1, 1)), **options)
    program = jax.jit(call, compiler_options=compiler_options()).lower(x, weights).compile()
    assert "ynn_fusion" not in program.as_text()


def test_the_gradient_of_many_frames_loses_nothing_in_bfloat16() -> None:
    frames, side = 600, convolution.MIN_SIDE
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 1}
    x, weights = np.ones((frames, side, side, 1)), np.zeros((1, 1, 1, 2))

    def loss(weights):
        wide = [each.astype(jax.numpy.bfloat16) for each in (jax.numpy.asarray(x), weights)]
        return convolve(*wide, (1, 1), ((0, 0), (0, 0)), **options).astype(np.float32).sum()

    gradient = jit(jax.grad(loss))(weights)
    np.testing.assert_allclose(gradient, np.full(weights.shape, frames * side**2), rtol=0.01)
