"""VGG-11 over frames (Simonyan & Zisserman 2015) in torchvision's layout, without its classifier.

N frames, H x W pixels, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import require
from sslssaw_jax.models.cpu_gradients import convolve
from sslssaw_jax.models.remat import Blocks

MIN_SIDE = 32  # of a frame that leaves one pixel


@dataclass(frozen=True)
class VGGConfig:
    """Sizes of a VGG-11; the published ones by default."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)  # channels of its five levels

    def __post_init__(self) -> None:
        fits = len(self.widths) == 5 and min(self.widths) > 0
        require(fits, f"widths is {self.widths}; it must be five positive numbers")


class ConvBlock(nnx.Module):
    """Convolutions of kernel 3 with ReLU, then a 2 x 2 max-pool if asked for."""

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        *,
        pools: bool = False,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.pools = pools
        conv = partial(
            nnx.Conv,
            kernel_size=(3, 3),
            padding=((1, 1), (1, 1)),
            dtype=dtype,
            kernel_init=nnx.initializers.he_normal(),
            conv_general_dilated=convolve,
            rngs=rngs,
        )
        self.convs = nnx.List([conv(*sizes) for sizes in pairwise((inputs, *widths))])

    def __call__(self, x_NxHxWxC: jax.Array) -> jax.Array:
        for conv in self.convs:
            x_NxHxWxC = nnx.relu(conv(x_NxHxWxC))
        return halve(x_NxHxWxC) if self.pools else x_NxHxWxC


class Maps(NamedTuple):
    """Maps of frames at three depths."""

    early: jax.Array  # [N, H/4, W/4, C], after the fourth convolution
    late: jax.Array  # [N, H/16, W/16, C], after the seventh
    last: jax.Array  # [N, H/32, W/32, C], after the last pool


class VGG(Blocks):
    """Eight convolutions and five pools, without BatchNorm; a frame's features are the last map's mean."""

    def __init__(self, config: VGGConfig, image_size: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        require(
            image_size >= MIN_SIDE,
            f"config.data.image_size is {image_size}; VGG-11 needs {MIN_SIDE}",
        )
        first, second, third, fourth, fifth = config.widths
        self.features, self.early_features = fifth, third
        # a block whose maps others read ends before its pool
        plan = [
            ((first,), True),
            ((second,), True),
            ((third, third), False),
            ((fourth, fourth), True),
            ((fifth,), False),
            ((fifth,), True),
        ]
        blocks, inputs = [], 3
        for widths, pools in plan:
            blocks.append(ConvBlock(inputs, widths, pools=pools, dtype=dtype, rngs=rngs))
            inputs = widths[-1]
        self.blocks = nnx.List(blocks)

    def __call__(self, frames_NxHxWx3: jax.Array, frame_mask_N: jax.Array) -> jax.Array:
        """Return features [N, C] of normalized frames; no frame sees another."""
        del frame_mask_N
        return self.maps(frames_NxHxWx3).last.mean(axis=(1, 2))

    def maps(self, frames_NxHxWx3: jax.Array) -> Maps:
        """Return the maps of normalized frames."""
        one, two, three, four, five, six = self.blocks
        early = self.call(three, self.call(two, self.call(one, frames_NxHxWx3)))
        late = self.call(five, self.call(four, halve(early)))
        return Maps(early, late, self.call(six, late))


def halve(x_NxHxWxC: jax.Array) -> jax.Array:
    """Return the largest of 2 x 2 pixels.

    An odd last row or column is left out.
    """
    frames, height, width, channels = x_NxHxWxC.shape
    even = x_NxHxWxC[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(frames, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
