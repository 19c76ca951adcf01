"""Two streams, of frames and of keypoints as heat maps, and what TS-SLT (Chen et al. 2022) puts between them.

Two S3Ds exchange their maps after each of the first three blocks, and each has a pyramid: from the fourth
block back to the second, maps are enlarged and added. Maps are zero after a clip before every convolution,
and BatchNorm does not see them, as in `models/s3d.py`.

B clips, N packed frames, T times, H x W pixels, K keypoints, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.models.batch_norm import BatchNorm
from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.models.resnet import ResNet
from sslssaw_jax.models.s3d import S3D, STRIDE, Masks, S3DConfig, clip_places, to_pixels
from sslssaw_jax.models.video_embedding import (
    FrameFeatures,
    VideoEmbedding,
    VideoInput,
    gather_frames,
    prefix_mask,
)
from sslssaw_jax.types import Features, FeatureSize, PackedClips

_EXCHANGES = 3  # the number of blocks after which maps are exchanged


@dataclass(frozen=True)
class HeatMaps:
    """Points as bright spots `exp(-d^2 / (2 sigma^2))`, one channel each."""

    columns: tuple[int, ...]  # the chosen points of a keypoint set, in the order of the channels
    side: int  # of a map in pixels
    sigma: tuple[float, float]  # in y and x, as shares of the window

    def __call__(self, points: jax.Array) -> jax.Array:
        """Return heat maps [..., side, side, K] from -1 to 1.

        A point that was not found has no spot.

        Args:
            points: x, y and score of all points, `f32[..., all, 3]`, the places as shares of the window.
        """
        chosen = points[..., jnp.asarray(self.columns), :]
        centres = (jnp.arange(self.side) + 0.5) / self.side

        def spread(axis: int, sigma: float) -> jax.Array:
            return jnp.exp(-jnp.square((centres[:, None] - chosen[..., None, :, axis]) / sigma) / 2)

        down, across = spread(1, self.sigma[0]), spread(0, self.sigma[1])
        heat = down[..., :, None, :] * across[..., None, :, :] * (chosen[..., 2] > 0)[..., None, None, :]
        return (heat - 0.5) / 0.5


class Streams(NamedTuple):
    """What both streams saw of each clip."""

    video: jax.Array  # [B, T, C]
    keypoints: jax.Array  # [B, T, C]
    mask: jax.Array  # bool[B, T]
    # the levels of each stream's pyramid, [B, T', C], and their mask, bool[B, T']
    video_levels: Sequence[jax.Array] = ()
    keypoint_levels: Sequence[jax.Array] = ()
    level_mask: jax.Array | None = None


class Lateral(nnx.Module):
    """Two convolutions that add each stream's maps to the other's; keypoint maps have half the side."""

    def __init__(self, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        conv = partial(_convolution, channels, channels, (7, 3, 3), dtype=dtype, rngs=rngs)
        self.to_keypoints = conv(strides=(1, 2, 2))
        self.to_video = conv(enlarged=(1, 2, 2))

    def __call__(
        self, video: jax.Array, keypoints: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return both streams' sums, from the values before the exchange."""
        to_video = _cut(self.to_video(keypoints), video)
        to_keypoints = self.to_keypoints(video)
        return jnp.where(mask, video + to_video, 0), jnp.where(mask, keypoints + to_keypoints, 0)


class Enlargement(nnx.Module):
    """Transposed convolutions over space, then time, each with BatchNorm and ReLU, added to larger maps."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        time_stride: int,
        *,
        momentum: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        norm: dict[str, Any] = {"momentum": momentum, "epsilon": 1e-3} | options
        self.space = _convolution(inputs, outputs, (1, 3, 3), enlarged=(1, 2, 2), **options)
        self.space_norm = BatchNorm(outputs, **norm)
        self.time = _convolution(outputs, outputs, (3, 1, 1), enlarged=(time_stride, 1, 1), **options)
        self.time_norm = BatchNorm(outputs, **norm)

    def __call__(self, x: jax.Array, larger: jax.Array, mask: jax.Array, larger_mask: jax.Array) -> jax.Array:
        x = self.space_norm(_cut(self.space(x), larger), mask=mask, relu=True)
        x = self.time_norm(_cut(self.time(jnp.where(mask, x, 0)), larger), mask=larger_mask, relu=True)
        return larger + jnp.where(larger_mask, x, 0)


class Pyramid(nnx.Module):
    """The levels of blocks 2 and 3, to which the levels above are added."""

    def __init__(self, channels: Sequence[int], **options: Any):
        _, second, third, fourth = channels
        self.to_third = Enlargement(fourth, third, 2, **options)
        self.to_second = Enlargement(third, second, 1, **options)

    def __call__(self, maps: Sequence[jax.Array], masks: Masks) -> list[jax.Array]:
        """Return the means over space of both levels, [B, T/2, C]."""
        _, second, third, fourth = maps
        third = self.to_third(fourth, third, masks.quarter, masks.half)
        second = self.to_second(third, second, masks.half, masks.half)
        return [level.mean(axis=(2, 3)) for level in (second, third)]


class TwoStreamS3D(nnx.Module):
    """Two S3Ds with lateral connections and pyramids over packed frames and keypoints."""

    def __init__(
        self, config: S3DConfig, heat_maps: HeatMaps, *, max_frames: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.max_frames, self.heat_maps, self.dtype = max_frames, heat_maps, dtype
        channels = config.block_channels
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.s3d = S3D(config, **options)
        self.keypoint_s3d = S3D(config, inputs=len(heat_maps.columns), **options)
        self.laterals = nnx.List([Lateral(width, **options) for width in channels[:_EXCHANGES]])
        self.pyramid = Pyramid(channels, momentum=config.momentum, **options)
        self.keypoint_pyramid = Pyramid(channels, momentum=config.momentum, **options)
        self.widths, self.level_widths = 2 * channels[-1:], channels[1:3]

    def __call__(
        self,
        frames_NxHxWx3: jax.Array,
        points_NxKx3: jax.Array,
        frame_mask_N: jax.Array,
        clips: PackedClips,
    ) -> Streams:
        """Read clips; the last frame fills up a position's four."""
        del frame_mask_N  # clips are gathered by place
        time_T, inside_BxT, length_B = clip_places(self.max_frames, clips)
        # points, not their larger heat maps, are gathered
        flat_NxC = points_NxKx3.reshape(len(points_NxKx3), -1)
        points_BxTxKx3 = gather_frames(flat_NxC, time_T, inside_BxT, clips).reshape(*inside_BxT.shape, -1, 3)
        maps = self.exchange(
            gather_frames(to_pixels(frames_NxHxWx3), time_T, inside_BxT, clips),
            self.heat_maps(points_BxTxKx3).astype(self.dtype),
            length_B,
        )
        masks = Masks.of(length_B, len(time_T))
        video, keypoints = (blocks[-1].mean(axis=(2, 3)) for blocks in maps)
        return Streams(
            video,
            keypoints,
            prefix_mask(length_B // STRIDE, clips.valid, len(time_T) // STRIDE),
            self.pyramid(maps[0], masks),
            self.keypoint_pyramid(maps[1], masks),
            prefix_mask(length_B // 2, clips.valid, len(time_T) // 2),
        )

    def exchange(
        self, clips_BxTxHxWx3: jax.Array, heat_BxTxHxWxK: jax.Array, length_B: jax.Array
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Return the maps of each block of both streams, after the exchange."""
        masks = Masks.of(length_B, clips_BxTxHxWx3.shape[1])
        video, keypoints = (jnp.where(masks.whole, x, 0) for x in (clips_BxTxHxWx3, heat_BxTxHxWxK))
        of_video, of_keypoints = [], []
        for number in range(S3D.num_blocks):
            video = self.s3d.block(number, video, masks)
            keypoints = self.keypoint_s3d.block(number, keypoints, masks)
            if number < _EXCHANGES:
                video, keypoints = self.laterals[number](video, keypoints, masks.half)
            of_video.append(video)
            of_keypoints.append(keypoints)
        return of_video, of_keypoints


class TwoCNNs(VideoEmbedding):
    """A CNN and convolutions over time for each stream, separate from each other, in place of S3D."""

    level_widths = ()

    def __init__(
        self,
        config: CNNConfig,
        width: int,
        heat_maps: HeatMaps,
        reads: VideoInput,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.widths, self.heat_maps = (width, width), heat_maps
        super().__init__(config, width, reads, dtype=dtype, rngs=rngs)
        inputs, side = len(heat_maps.columns), heat_maps.side
        self.keypoint_cnn = ResNet(config.resnet, side, inputs=inputs, dtype=dtype, rngs=rngs)
        reads = reads._replace(features=FeatureSize(self.keypoint_cnn.features, stride=1, span=1))
        self.keypoints = VideoEmbedding(config, width, reads, dtype=dtype, rngs=rngs)

    def __call__(  # type: ignore[override]
        self,
        frames_NxHxWx3: jax.Array,
        points_NxKx3: jax.Array,
        frame_mask_N: jax.Array,
        clips: PackedClips,
    ) -> Streams:
        video, mask = super().__call__(frames_NxHxWx3, frame_mask_N, clips)
        features_NxC = self.keypoint_cnn(self.heat_maps(points_NxKx3), frame_mask_N)
        return Streams(video, self.keypoints(features_NxC, frame_mask_N, clips)[0], mask)


class FeatureStreams(nnx.Module):
    """Prepared features of both streams; a row is a position."""

    level_widths = ()

    def __init__(self, config: CNNConfig, sizes: Sequence[FeatureSize], *, max_frames: int, rngs: nnx.Rngs):
        self.video, self.keypoints = (
            FrameFeatures(config, VideoInput(1, max_frames, features=size), dtype=jnp.float32, rngs=rngs)
            for size in sizes
        )
        self.widths = tuple(size.width for size in sizes)

    def __call__(self, video: Features, keypoints: Features, valid_B: jax.Array) -> Streams:
        """Read both sets; a clip has the length of its shorter sequence."""

        def read(part: FrameFeatures, one: Features) -> tuple[jax.Array, jax.Array]:
            clips = PackedClips(one.start, one.count, valid_B)
            return part(one.values, jnp.ones(len(one.values), bool), clips)

        (of_video, mask), (of_keypoints, other) = read(self.video, video), read(self.keypoints, keypoints)
        return Streams(of_video, of_keypoints, mask & other)


def _convolution(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int, int],
    *,
    strides: tuple[int, int, int] = (1, 1, 1),
    enlarged: tuple[int, int, int] = (1, 1, 1),
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Make a convolution, possibly transposed, with PyTorch's padding.

    Args:
        inputs: The input channels.
        outputs: The output channels.
        kernel: The kernel's times, height and width.
        strides: The factors by which the maps shrink.
        enlarged: The factors by which the maps grow, exactly.
        dtype: The dtype of the computation.
        rngs: Random keys.
    """
    padding = [(size // 2, size // 2 + factor - 1) for size, factor in zip(kernel, enlarged)]
    return nnx.Conv(
        inputs,
        outputs,
        kernel,
        strides=strides,
        input_dilation=enlarged,
        padding=padding,
        use_bias=False,
        dtype=dtype,
        kernel_init=nnx.initializers.he_normal(),
        rngs=rngs,
    )


def _cut(x: jax.Array, like: jax.Array) -> jax.Array:
    """Cut maps to the times, height and width of smaller ones."""
    _, times, height, width, _ = like.shape
    return x[:, :times, :height, :width]
