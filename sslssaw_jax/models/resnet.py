"""ResNet over frames (He et al. 2016) in torchvision's layout.

N frames, H x W pixels, C channels. BatchNorm sees only the frames that belong to a clip.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import non_negative, positive, require
from sslssaw_jax.models.batch_norm import BatchNorm
from sslssaw_jax.models.cpu_gradients import convolve, convolve_pixels
from sslssaw_jax.models.remat import Blocks


@dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a ResNet; those of ResNet-18 by default."""

    block: Literal["basic", "bottleneck"] = "basic"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    width: int = positive(64)
    stem: Literal["conv7_pool", "conv7_stride4"] = "conv7_pool"  # stride 2 and max-pool, or stride 4
    head: Literal["pool", "flatten"] = "pool"  # global average, or the last map through Linear-BN-ReLU
    head_features: int = non_negative(0)  # of the flatten head

    def __post_init__(self) -> None:
        require(len(self.depths) > 0, "depths is (); it needs at least one level")
        require(
            (self.head == "flatten") == (self.head_features > 0),
            f"head_features is {self.head_features} and head is {self.head!r}; "
            "head_features must be positive with head='flatten', otherwise 0",
        )


def conv(
    inputs: int, outputs: int, kernel: int, stride: int, dtype: jnp.dtype, rngs: nnx.Rngs, *, groups: int = 1
) -> nnx.Conv:
    """Make a square convolution without bias, for use before a BatchNorm."""
    # symmetric padding as in PyTorch: "SAME" would shift stride-2 maps of even size by one pixel
    side = (kernel // 2, kernel // 2)
    return nnx.Conv(
        inputs,
        outputs,
        (kernel, kernel),
        strides=stride,
        padding=(side, side),
        feature_group_count=groups,
        use_bias=False,
        dtype=dtype,
        kernel_init=nnx.initializers.he_normal(),
        conv_general_dilated=convolve_pixels if inputs == 3 else convolve,
        rngs=rngs,
    )


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.conv1 = conv(inputs, width, 3, stride, dtype, rngs)
        self.norm1 = BatchNorm(width, dtype=dtype, rngs=rngs)
        self.conv2 = conv(width, width, 3, 1, dtype, rngs)
        self.norm2 = BatchNorm(width, dtype=dtype, rngs=rngs)
        self.shortcut = _shortcut(inputs, width, stride, dtype, rngs)

    def __call__(self, x_NxHxWxC: jax.Array, mask_Nx1x1x1: jax.Array) -> jax.Array:
        y_NxHxWxC = self.norm1(self.conv1(x_NxHxWxC), mask=mask_Nx1x1x1, relu=True)
        y_NxHxWxC = self.norm2(self.conv2(y_NxHxWxC), mask=mask_Nx1x1x1)
        return nnx.relu(y_NxHxWxC + _skip(self.shortcut, x_NxHxWxC, mask_Nx1x1x1))


class Bottleneck(nnx.Module):
    """Convolutions 1x1, 3x3 (with the stride) and 1x1, and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        outputs = width * self.expansion
        self.conv1 = conv(inputs, width, 1, 1, dtype, rngs)
        self.norm1 = BatchNorm(width, dtype=dtype, rngs=rngs)
        self.conv2 = conv(width, width, 3, stride, dtype, rngs)
        self.norm2 = BatchNorm(width, dtype=dtype, rngs=rngs)
        self.conv3 = conv(width, outputs, 1, 1, dtype, rngs)
        self.norm3 = BatchNorm(outputs, dtype=dtype, rngs=rngs)
        self.shortcut = _shortcut(inputs, outputs, stride, dtype, rngs)

    def __call__(self, x_NxHxWxC: jax.Array, mask_Nx1x1x1: jax.Array) -> jax.Array:
        y_NxHxWxC = self.norm1(self.conv1(x_NxHxWxC), mask=mask_Nx1x1x1, relu=True)
        y_NxHxWxC = self.norm2(self.conv2(y_NxHxWxC), mask=mask_Nx1x1x1, relu=True)
        y_NxHxWxC = self.norm3(self.conv3(y_NxHxWxC), mask=mask_Nx1x1x1)
        return nnx.relu(y_NxHxWxC + _skip(self.shortcut, x_NxHxWxC, mask_Nx1x1x1))


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class Shortcut(nnx.Module):
    """A projection for a block that changes resolution or width."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.conv = conv(inputs, outputs, 1, stride, dtype, rngs)
        self.norm = BatchNorm(outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x_NxHxWxC: jax.Array, mask_Nx1x1x1: jax.Array) -> jax.Array:
        return self.norm(self.conv(x_NxHxWxC), mask=mask_Nx1x1x1)


def _shortcut(inputs: int, outputs: int, stride: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> Shortcut | None:
    return (
        None
        if stride == 1 and inputs == outputs
        else Shortcut(inputs, outputs, stride, dtype=dtype, rngs=rngs)
    )


def _skip(shortcut: Shortcut | None, x_NxHxWxC: jax.Array, mask_Nx1x1x1: jax.Array) -> jax.Array:
    return x_NxHxWxC if shortcut is None else shortcut(x_NxHxWxC, mask_Nx1x1x1)


class ResNet(Blocks):
    """A CNN from normalized frames NxHxWx3, or maps with other `inputs`, to features NxC."""

    def __init__(
        self, config: ResNetConfig, image_size: int, *, inputs: int = 3, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.pool_stem = config.stem == "conv7_pool"
        self.flatten = config.head == "flatten"
        self.stem = conv(inputs, config.width, 7, 2 if self.pool_stem else 4, dtype, rngs)
        self.stem_norm = BatchNorm(config.width, dtype=dtype, rngs=rngs)
        block = BLOCKS[config.block]
        channels, side, blocks = config.width, -(-image_size // 4), []
        for level, depth in enumerate(config.depths):
            width = config.width * 2**level
            for i in range(depth):
                stride = 2 if level > 0 and i == 0 else 1
                blocks.append(block(channels, width, stride, dtype=dtype, rngs=rngs))
                channels, side = width * block.expansion, -(-side // stride)
        self.blocks = nnx.List(blocks)
        self.features = config.head_features if self.flatten else channels
        if self.flatten:
            self.head = nnx.Linear(
                side * side * channels, self.features, use_bias=False, dtype=dtype, rngs=rngs
            )
            self.head_norm = BatchNorm(self.features, dtype=dtype, rngs=rngs)

    def __call__(self, frames_NxHxWx3: jax.Array, mask_N: jax.Array) -> jax.Array:
        mask_Nx1x1x1 = mask_N[:, None, None, None]
        x_NxHxWxC = self.call(self, frames_NxHxWx3, mask_Nx1x1x1, method="_reduce")
        for block in self.blocks:
            x_NxHxWxC = self.call(block, x_NxHxWxC, mask_Nx1x1x1)
        if not self.flatten:
            return x_NxHxWxC.mean(axis=(1, 2))
        x_NxC = self.head(x_NxHxWxC.reshape(x_NxHxWxC.shape[0], -1))
        return self.head_norm(x_NxC, mask=mask_N[:, None], relu=True)

    def _reduce(self, frames_NxHxWx3: jax.Array, mask_Nx1x1x1: jax.Array) -> jax.Array:
        """Reduce pixels to the blocks' maps, a quarter of the side."""
        x_NxHxWxC = self.stem(frames_NxHxWx3)
        if self.pool_stem:
            return self.stem_norm.pooled(x_NxHxWxC, mask_Nx1x1x1)
        return self.stem_norm(x_NxHxWxC, mask=mask_Nx1x1x1, relu=True)
