"""ShuffleNetV2 over frames (Ma et al. 2018) in torchvision's layout.

N frames, H x W pixels, C channels. BatchNorm sees only the frames that belong to a clip.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import positive, require
from sslssaw_jax.models.batch_norm import BatchNorm
from sslssaw_jax.models.remat import Blocks
from sslssaw_jax.models.resnet import conv


@dataclass(frozen=True)
class ShuffleNetConfig:
    """Sizes of a ShuffleNetV2; those of x1.0 by default."""

    depths: tuple[int, ...] = (4, 8, 4)
    stem: int = positive(24)  # channels
    width: int = positive(116)  # channels of the first level, doubled at each following level
    features: int = positive(1024)

    def __post_init__(self) -> None:
        require(len(self.depths) > 0, "depths is (); it needs at least one level")
        require(self.width % 2 == 0, f"width is {self.width}; it is halved: make it even")


class Separable(nnx.Module):
    """A depthwise convolution 3x3-BN, then 1x1-BN-ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.depthwise = conv(inputs, inputs, 3, stride, dtype, rngs, groups=inputs)
        self.depthwise_norm = BatchNorm(inputs, dtype=dtype, rngs=rngs)
        self.pointwise = conv(inputs, outputs, 1, 1, dtype, rngs)
        self.pointwise_norm = BatchNorm(outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x_NxHxWxC: jax.Array, mask_Nx1x1x1: jax.Array) -> jax.Array:
        x_NxHxWxC = self.depthwise_norm(self.depthwise(x_NxHxWxC), mask=mask_Nx1x1x1)
        return self.pointwise_norm(self.pointwise(x_NxHxWxC), mask=mask_Nx1x1x1, relu=True)


class Unit(nnx.Module):
    """A unit that computes one half of its outputs.

    The other half is the inputs, or with stride 2 the outputs of a second branch.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        half = outputs // 2
        computed = inputs if stride > 1 else half
        self.reduce = conv(computed, half, 1, 1, dtype, rngs)
        self.reduce_norm = BatchNorm(half, dtype=dtype, rngs=rngs)
        self.branch = Separable(half, half, stride, dtype=dtype, rngs=rngs)
        self.shortcut = Separable(inputs, half, stride, dtype=dtype, rngs=rngs) if stride > 1 else None

    def __call__(self, x_NxHxWxC: jax.Array, mask_Nx1x1x1: jax.Array) -> jax.Array:
        if self.shortcut is None:
            skip_NxHxWxC, x_NxHxWxC = jnp.split(x_NxHxWxC, 2, axis=-1)
        else:
            skip_NxHxWxC = self.shortcut(x_NxHxWxC, mask_Nx1x1x1)
        x_NxHxWxC = self.reduce_norm(self.reduce(x_NxHxWxC), mask=mask_Nx1x1x1, relu=True)
        x_NxHxWxC = self.branch(x_NxHxWxC, mask_Nx1x1x1)
        # channel shuffle over two groups: interleaved halves, so that the next split has channels of both
        shuffled_NxHxWxCx2 = jnp.stack([skip_NxHxWxC, x_NxHxWxC], axis=-1)
        return shuffled_NxHxWxCx2.reshape(*x_NxHxWxC.shape[:-1], -1)


class ShuffleNetV2(Blocks):
    """A CNN from normalized frames NxHxWx3 to features NxC."""

    def __init__(self, config: ShuffleNetConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.stem = conv(3, config.stem, 3, 2, dtype, rngs)
        self.stem_norm = BatchNorm(config.stem, dtype=dtype, rngs=rngs)
        channels, blocks = config.stem, []
        for level, depth in enumerate(config.depths):
            width = config.width * 2**level
            for i in range(depth):
                blocks.append(Unit(channels, width, 1 if i else 2, dtype=dtype, rngs=rngs))
                channels = width
        self.blocks = nnx.List(blocks)
        self.features = config.features
        self.head = conv(channels, self.features, 1, 1, dtype, rngs)
        self.head_norm = BatchNorm(self.features, dtype=dtype, rngs=rngs)

    def __call__(self, frames_NxHxWx3: jax.Array, mask_N: jax.Array) -> jax.Array:
        mask_Nx1x1x1 = mask_N[:, None, None, None]
        x_NxHxWxC = self.stem_norm.pooled(self.stem(frames_NxHxWx3), mask_Nx1x1x1)
        for block in self.blocks:
            x_NxHxWxC = self.call(block, x_NxHxWxC, mask_Nx1x1x1)
        x_NxHxWxC = self.head_norm(self.head(x_NxHxWxC), mask=mask_Nx1x1x1, relu=True)
        return x_NxHxWxC.mean(axis=(1, 2))
