"""Convolution that is fast on CPUs and on GPUs.

N frames, H x W pixels, I and O channels in and out, K x K kernel, P output pixels.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

MIN_SIDE = 13  # of the output; XLA's own kernel gradient is as fast on smaller maps
YNNPACK = "xla_cpu_experimental_ynn_fusion_type"


def compiler_options() -> dict[str, str] | None:
    """Return the options with which XLA compiles convolutions for this device.

    By default XLA's CPU compiler gives a convolution to YNNPACK, which uses a single core
    (`benchmarks/results/demo_time.md`). With only matrix products and sums in YNNPACK, convolutions use all
    cores.
    """
    if jax.default_backend() != "cpu":
        return None
    return {YNNPACK: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"}


def convolve(
    x_NxHxWxI: jax.Array, kernel_KxKxIxO: jax.Array, strides: tuple[int, ...], padding: Any, **options: Any
) -> jax.Array:
    """Convolve like `lax.conv_general_dilated`, with another kernel gradient on CPUs.

    XLA computes that gradient as a convolution with a kernel as large as the map. With matrix products frame
    by frame, a training step on a CPU takes 0.8 of the time (`benchmarks/results/model.md`).
    """

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)

    def forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return plain(x, kernel), (x, kernel)

    def backward(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, kernel = saved
        (x_gradient,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(cotangent)

        def xla(x: jax.Array, cotangent: jax.Array) -> jax.Array:
            return jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)(cotangent)[0]

        if min(cotangent.shape[1:3]) < MIN_SIDE or options["feature_group_count"] > 1:
            return x_gradient, xla(x, cotangent)
        framewise = partial(_kernel_gradient, side=len(kernel), stride=strides[0], padding=padding)
        return x_gradient, lax.platform_dependent(x, cotangent, cpu=framewise, default=xla)

    convolution = jax.custom_vjp(plain)
    convolution.defvjp(forward, backward)
    return convolution(x_NxHxWxI, kernel_KxKxIxO)


def convolve_pixels(
    x_NxHxWxI: jax.Array, kernel_KxKxIxO: jax.Array, strides: tuple[int, ...], padding: Any, **options: Any
) -> jax.Array:
    """Convolve at stride 2 or 4 over blocks of pixels.

    The matrix units of GPUs take 8 channels at a time, and CPUs are slow with few. Pixels have 3; blocks of
    2 x 2 have 12, and of 4 x 4 have 48. At stride 2, CPUs are as fast without blocks.
    """

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolve(x, kernel, strides, padding, **options)

    _, height, width, _ = x_NxHxWxI.shape
    stride = strides[0]
    if strides not in ((2, 2), (4, 4)) or height % stride or width % stride or len(kernel_KxKxIxO) % 4 != 3:
        return plain(x_NxHxWxI, kernel_KxKxIxO)

    def packed(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolve_packed(x, kernel, stride=stride, **options)

    if stride == 4:
        return packed(x_NxHxWxI, kernel_KxKxIxO)
    return lax.platform_dependent(x_NxHxWxI, kernel_KxKxIxO, cpu=plain, default=packed)


def convolve_packed(
    x_NxHxWxI: jax.Array, kernel_KxKxIxO: jax.Array, *, stride: int, **options: Any
) -> jax.Array:
    """Convolve at stride 1 over blocks of pixels.

    Args:
        x_NxHxWxI: Maps whose height and width are multiples of the stride.
        kernel_KxKxIxO: A kernel of an odd side K, padded by K // 2.
        stride: The side of a block.
        options: Further options of `lax.conv_general_dilated`.
    """
    frames, height, width, inputs = x_NxHxWxI.shape
    reach, outputs = len(kernel_KxKxIxO) // 2, kernel_KxKxIxO.shape[-1]
    before, behind = -(-reach // stride), reach // stride  # blocks around an output pixel's block
    side, channels = before + 1 + behind, stride**2 * inputs
    fill = (0, -channels % 8)  # channels of zeros

    x = x_NxHxWxI.reshape(frames, height // stride, stride, width // stride, stride, inputs)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(frames, height // stride, width // stride, channels)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), fill))
    margin = before * stride - reach, (behind + 1) * stride - 1 - reach
    kernel = jnp.pad(kernel_KxKxIxO, (margin, margin, (0, 0), (0, 0)))
    kernel = kernel.reshape(side, stride, side, stride, inputs, outputs).transpose(0, 2, 1, 3, 4, 5)
    kernel = jnp.pad(kernel.reshape(side, side, channels, outputs), ((0, 0), (0, 0), fill, (0, 0)))
    return convolve(x, kernel, (1, 1), ((before, behind),) * 2, **options)


def _kernel_gradient(
    x_NxHxWxI: jax.Array, cotangent_NxHxWxO: jax.Array, *, side: int, stride: int, padding: Any
) -> jax.Array:
    """Sum the kernel gradient frame by frame; a frame fits into caches."""
    _, rows, columns, outputs = cotangent_NxHxWxO.shape
    inputs, dtype = x_NxHxWxI.shape[-1], x_NxHxWxI.dtype
    wide = jnp.promote_types(dtype, jnp.float32)  # a sum of a thousand frames in bfloat16 would be half lost

    def add_frame(total: jax.Array, frame: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x_IxHxW, cotangent_PxO = frame[0].transpose(2, 0, 1), frame[1].reshape(-1, outputs)
        x_IxHxW = jnp.pad(x_IxHxW, ((0, 0), *padding))
        spans = [slice(k, k + (columns - 1) * stride + 1, stride) for k in range(side)]
        shifted_KIxHxW = jnp.concatenate([x_IxHxW[:, :, span] for span in spans])
        shifted_KIxHxW = lax.optimization_barrier(shifted_KIxHxW)  # one copy for all products
        spans = [slice(k, k + (rows - 1) * stride + 1, stride) for k in range(side)]
        rows_KIxP = [shifted_KIxHxW[:, span].reshape(side * inputs, -1) for span in spans]
        products = [jnp.dot(row, cotangent_PxO, preferred_element_type=wide) for row in rows_KIxP]
        return total + jnp.stack(products), None

    zero_KxKIxO = jnp.zeros((side, side * inputs, outputs), wide)
    gradient_KxKIxO, _ = lax.scan(add_frame, zero_KxKIxO, (x_NxHxWxI, cotangent_NxHxWxO))
    return gradient_KxKIxO.reshape(side, side, inputs, outputs).astype(dtype)
