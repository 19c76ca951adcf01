"""S3D (Xie et al. 2018) up to its fourth block: Inception with 3-D convolutions split into space and time.

Layers, widths and names are those of the public Kinetics weights (kylemin/S3D). Padding does not affect a
clip: it is zero before every convolution, and BatchNorm does not see it.

B clips, N packed frames, T times, H x W pixels, I and O channels in and out, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from sslssaw_jax.config.checks import SHARE, fraction, setting
from sslssaw_jax.models.batch_norm import BatchNorm
from sslssaw_jax.models.cpu_gradients import convolve, convolve_pixels
from sslssaw_jax.models.remat import Blocks
from sslssaw_jax.models.video_embedding import gather_frames, prefix_mask
from sslssaw_jax.types import PIXEL_MEAN, PIXEL_STD, PackedClips

STRIDE = 4  # frames of a position
_FRAMES = ("NHWC", "HWIO", "NHWC")
_STEM, _EXPANDED = 64, 192
_INCEPTIONS = (  # 1x1 | 1x1, separable 3 | 1x1, separable 3 | pool, 1x1
    (64, (96, 128), (16, 32), 32),
    (128, (128, 192), (32, 96), 64),
    (192, (96, 208), (16, 48), 64),
    (160, (112, 224), (24, 64), 64),
    (128, (128, 256), (24, 64), 64),
    (112, (144, 288), (32, 64), 64),
    (256, (160, 320), (32, 128), 128),
)
_FOURTH_BLOCK = 2  # the index of the first Inception block after the pool over time


@dataclass(frozen=True)
class S3DConfig:
    """Widths and weights of S3D; its depth is always the published one."""

    width: float = setting(1.0, SHARE)  # share of the published channels
    momentum: float = fraction(0.999)  # of BatchNorm's running statistics; 0.9 for a short training
    # the Kinetics file of kylemin/S3D (.pt) or a checkpoint of FangyunWei/SLRT (.pth.tar); None: random
    weights: str | None = setting(None)

    def channels(self, published: int) -> int:
        """Return the number of channels for a published number."""
        return max(1, round(self.width * published))

    @property
    def features(self) -> int:
        """Return the number of features of a position."""
        return self.block_channels[-1]

    @property
    def block_channels(self) -> tuple[int, ...]:
        """Return the number of channels after each block."""
        last = (_INCEPTIONS[_FOURTH_BLOCK - 1], _INCEPTIONS[-1])
        return (
            *map(self.channels, (_STEM, _EXPANDED)),
            *(sum(map(self.channels, (one, two[1], three[1], four))) for one, two, three, four in last),
        )


class Masks(NamedTuple):
    """The times of clips, bool[B, T, 1, 1, 1], and of maps with half and a quarter as many."""

    whole: jax.Array
    half: jax.Array
    quarter: jax.Array

    @classmethod
    def of(cls, length_B: jax.Array, num_frames: int) -> Self:
        """Return the masks of clips whose lengths are multiples of 4."""
        return cls(
            *(
                (jnp.arange(num_frames // step) < length_B[:, None] // step)[..., None, None, None]
                for step in (1, 2, 4)
            )
        )


class ConvNorm(nnx.Module):
    """Convolution in space or time, masked BatchNorm, ReLU; zeros where there is no frame."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int, int] = (1, 1, 1),
        stride: int = 1,
        *,
        momentum: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            kernel,
            strides=[stride if size > 1 else 1 for size in kernel],
            padding=[(size // 2, size // 2) for size in kernel],
            use_bias=False,
            dtype=dtype,
            kernel_init=nnx.initializers.he_normal(),
            conv_general_dilated=_convolve,
            rngs=rngs,
        )
        self.norm = BatchNorm(outputs, momentum=momentum, epsilon=1e-3, dtype=dtype, rngs=rngs)

    def __call__(self, x_BxTxHxWxI: jax.Array, mask_BxTx1x1x1: jax.Array) -> jax.Array:
        y_BxTxHxWxO = self.norm(self.conv(x_BxTxHxWxI), mask=mask_BxTx1x1x1, relu=True)
        return jnp.where(mask_BxTx1x1x1, y_BxTxHxWxO, 0)


class Separable(nnx.Module):
    """A convolution over space, then one over time."""

    def __init__(self, inputs: int, outputs: int, side: int = 3, stride: int = 1, **options: Any):
        self.space = ConvNorm(inputs, outputs, (1, side, side), stride, **options)
        self.time = ConvNorm(outputs, outputs, (side, 1, 1), stride, **options)

    def __call__(self, x: jax.Array, mask: jax.Array, later_mask: jax.Array | None = None) -> jax.Array:
        """Convolve; with a stride, `later_mask` masks the halved times."""
        return self.time(self.space(x, mask), mask if later_mask is None else later_mask)


class Reduced(nnx.Module):
    """Fewer channels, then a separable convolution."""

    def __init__(self, inputs: int, inner: int, outputs: int, **options: Any):
        self.reduce = ConvNorm(inputs, inner, **options)
        self.separable = Separable(inner, outputs, **options)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        return self.separable(self.reduce(x, mask), mask)


class Inception(nnx.Module):
    """Four parallel branches."""

    def __init__(self, inputs: int, widths: Sequence[Any], config: S3DConfig, **options: Any):
        first, second, third, last = jax.tree.map(config.channels, tuple(widths))
        self.branch0 = ConvNorm(inputs, first, **options)
        self.branch1 = Reduced(inputs, *second, **options)
        self.branch2 = Reduced(inputs, *third, **options)
        self.branch3 = ConvNorm(inputs, last, **options)
        self.outputs = first + second[1] + third[1] + last

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        pooled = _max_pool(x, (1, 2, 3), 1, mask, mask)
        branches = (
            self.branch0(x, mask),
            self.branch1(x, mask),
            self.branch2(x, mask),
            self.branch3(pooled, mask),
        )
        return jnp.concatenate(branches, axis=-1)


class S3D(Blocks):
    """A network from clips `[B, T, H, W, inputs]` to features `[B, T/4, C]`."""

    num_blocks = 4

    def __init__(self, config: S3DConfig, *, inputs: int = 3, dtype: jnp.dtype, rngs: nnx.Rngs):
        options: dict[str, Any] = {"momentum": config.momentum, "dtype": dtype, "rngs": rngs}
        stem, expanded = config.channels(_STEM), config.channels(_EXPANDED)
        self.stem = Separable(inputs, stem, 7, 2, **options)
        self.reduce = ConvNorm(stem, stem, **options)
        self.expand = Separable(stem, expanded, **options)
        blocks: list[Inception] = []
        for widths in _INCEPTIONS:
            blocks.append(Inception(blocks[-1].outputs if blocks else expanded, widths, config, **options))
        self.inceptions = nnx.List(blocks)
        self.features = config.features

    def __call__(self, clips_BxTxHxWx3: jax.Array, length_B: jax.Array) -> jax.Array:
        """Return the features, zero after a clip.

        Args:
            clips_BxTxHxWx3: Pixels from -1 to 1 in the order blue, green, red; T is a multiple of 4.
            length_B: Frames of each clip, multiples of 4.
        """
        masks = Masks.of(length_B, clips_BxTxHxWx3.shape[1])
        x = jnp.where(masks.whole, clips_BxTxHxWx3, 0)
        for number in range(self.num_blocks):
            x = self.block(number, x, masks)
        return x.mean(axis=(2, 3))

    def block(self, number: int, x: jax.Array, masks: Masks) -> jax.Array:
        """Return a block's maps from the maps of the block before."""
        half = masks.half
        if number == 0:
            return self.call(self.stem, x, masks.whole, half)
        if number == 1:
            x = self.call(self.reduce, _max_pool(x, (2, 3), 2, half, half), half)
            return self.call(self.expand, x, half)
        if number == 2:
            x, mask, blocks = _max_pool(x, (2, 3), 2, half, half), half, self.inceptions[:_FOURTH_BLOCK]
        else:
            mask, blocks = masks.quarter, self.inceptions[_FOURTH_BLOCK:]
            x = _max_pool(x, (1, 2, 3), 2, half, mask)
        for block in blocks:
            x = self.call(block, x, mask)
        return x


class S3DEmbedding(nnx.Module):
    """S3D over packed frames: one sequence per clip, a position per four frames."""

    def __init__(self, config: S3DConfig, *, max_frames: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.max_frames = max_frames
        self.s3d = S3D(config, dtype=dtype, rngs=rngs)
        self.features = self.s3d.features

    def __call__(
        self,
        frames_NxHxWx3: jax.Array,
        frame_mask_N: jax.Array,
        clips: PackedClips,
    ) -> tuple[jax.Array, jax.Array]:
        """Return `(features_BxTxC, mask_BxT)`; the last frame fills up a position's four."""
        del frame_mask_N  # clips are gathered by place
        time_T, inside_BxT, length_B = clip_places(self.max_frames, clips)
        clips_BxTxHxWx3 = gather_frames(to_pixels(frames_NxHxWx3), time_T, inside_BxT, clips)
        features_BxTxC = self.s3d(clips_BxTxHxWx3, length_B)
        return features_BxTxC, prefix_mask(length_B // STRIDE, clips.valid, features_BxTxC.shape[1])


def to_pixels(frames: jax.Array) -> jax.Array:
    """Return normalized frames as blue, green, red from -1 to 1."""
    return ((frames * jnp.asarray(PIXEL_STD) + jnp.asarray(PIXEL_MEAN)) * 2 - 1)[..., ::-1]


def clip_places(max_frames: int, clips: PackedClips) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return places in a clip, whether they are inside, and lengths."""
    time_T = jnp.arange(rounded_up(max_frames))
    length_B = jnp.where(clips.valid, rounded_up(clips.count), 0)
    return time_T, time_T < length_B[:, None], length_B


def rounded_up(num_frames):
    """Return the number of frames, rounded up to a multiple of four."""
    return STRIDE * -(-num_frames // STRIDE)


def _max_pool(
    x: jax.Array, axes: tuple[int, ...], stride: int, mask: jax.Array, later_mask: jax.Array
) -> jax.Array:
    """Return the largest of 3 along axes, zero outside `later_mask`."""
    least = jnp.finfo(x.dtype).min
    x = jnp.where(mask, x, least)
    for axis in axes:
        size = x.shape[axis]
        sides = [(1, 1) if each == axis else (0, 0) for each in range(x.ndim)]
        padded = jnp.pad(x, sides, constant_values=least)
        last = (-(-size // stride) - 1) * stride + 1
        shifted = [lax.slice_in_dim(padded, k, k + last, stride, axis) for k in range(3)]
        x = reduce(jnp.maximum, shifted)
    return jnp.where(later_mask, x, 0)


def _convolve(
    x_BxTxHxWxI: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Any, **options: Any
) -> jax.Array:
    """Convolve in space or time, in ways also fast on CPUs."""
    batch, times, height, width, inputs = x_BxTxHxWxI.shape
    if len(kernel) == 1:
        convolve_frames = convolve_pixels if inputs == 3 else convolve
        frames = x_BxTxHxWxI.reshape(batch * times, height, width, inputs)
        options |= {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "dimension_numbers": _FRAMES}
        y = convolve_frames(frames, kernel[0], strides[1:], padding[1:], **options)
        return y.reshape(batch, times, *y.shape[1:])
    padded = jnp.pad(x_BxTxHxWxI, [(0, 0), padding[0], (0, 0), (0, 0), (0, 0)])
    last = (times + sum(padding[0]) - len(kernel)) // strides[0] * strides[0] + 1
    wide = jnp.promote_types(x_BxTxHxWxI.dtype, jnp.float32)

    def summand(k: int) -> jax.Array:
        x = lax.slice_in_dim(padded, k, k + last, strides[0], axis=1)
        return jnp.dot(x, kernel[k, 0, 0], preferred_element_type=wide)

    return reduce(jnp.add, map(summand, range(len(kernel)))).astype(x_BxTxHxWxI.dtype)
