"""Spatial and temporal multi-cue networks of STMC (Zhou et al. 2020): a frame's whole, hands, face and pose.

N packed frames, S the side of a map, K heat maps of points, B clips, T positions in time, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import accumulate, product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from sslssaw_jax.config.checks import fraction, positive, require
from sslssaw_jax.models.precision import FloatLinear
from sslssaw_jax.models.vgg import VGG, ConvBlock, Maps, VGGConfig
from sslssaw_jax.models.video_embedding import (
    EDGES,
    VideoInput,
    gather_frames,
    num_pools,
    padded_length,
    prefix_mask,
)
from sslssaw_jax.types import PackedClips

# the joints of the heat maps
POINTS = (
    "nose",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
)
FACE, HANDS = 0, (5, 6)  # the points at which face and hands are cut out
PARTS = ("full", "hands", "face", "pose")


@dataclass(frozen=True)
class MultiCueConfig:
    """The published sizes; a map's side is a quarter of a frame's."""

    width: int = positive(256)  # channels of a hand, the face, the pose, and each part over time
    joint_width: int = positive(1024)  # of all parts together over time
    hand_side: int = positive(24)  # pixels of the map around a wrist
    face_side: int = positive(16)  # around the nose
    dropout: float = fraction(0.4)

    def __post_init__(self) -> None:
        for name in ("width", "joint_width"):
            value = getattr(self, name)
            require(value % 2 == 0, f"{name} is {value}; halves are computed apart, so it must be even")
        for name, least in (("hand_side", 4), ("face_side", 2)):
            value = getattr(self, name)
            require(value >= least, f"{name} is {value}; the pools need at least {least} pixels")


class Cues(NamedTuple):
    """What the networks find in a batch of clips."""

    streams: tuple[jax.Array, ...]  # the joint path and each part, [B, T, C]
    mask: jax.Array  # bool[B, T]
    points: jax.Array  # f32[N, 7, 2], x and y from 0 to 1 in each packed frame


class Doubling(nnx.Module):
    """A transposed convolution of kernel 4 and stride 2, like torch's with a padding of 1.

    It is one matrix product and four shifted sums, which are fast on CPUs.
    """

    def __init__(self, inputs: int, outputs: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        # a pixel of the output sees a quarter of the kernel
        init = nnx.initializers.variance_scaling(8.0, "fan_in", "truncated_normal")
        self.kernel = nnx.Param(init(rngs.params(), (4, 4, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.dtype = dtype

    def __call__(self, x_NxHxWxI: jax.Array) -> jax.Array:
        frames, height, width, inputs = x_NxHxWxI.shape
        kernel = self.kernel[...].astype(self.dtype).transpose(2, 0, 1, 3)
        parts = x_NxHxWxI.astype(self.dtype) @ kernel.reshape(inputs, -1)
        # places of the kernel: (coarse row, fine row, coarse column, fine column)
        parts = parts.reshape(frames, height, width, 2, 2, 2, 2, -1)
        shifted = [
            jnp.pad(
                parts[:, :, :, down, :, right],
                ((0, 0), (down, 1 - down), (right, 1 - right), (0, 0), (0, 0), (0, 0)),
            )
            for down, right in product(range(2), repeat=2)
        ]
        wide = reduce(jnp.add, shifted).swapaxes(2, 3).reshape(frames, 2 * height + 2, 2 * width + 2, -1)
        return wide[:, 1:-1, 1:-1] + self.bias[...].astype(self.dtype)


class PoseBranch(nnx.Module):
    """Two transposed convolutions, and a heat map for each point, whose mean is its place."""

    def __init__(self, inputs: int, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.up1 = Doubling(inputs, width, dtype=dtype, rngs=rngs)
        self.up2 = Doubling(width, width, dtype=dtype, rngs=rngs)
        # a bias would cancel in the softmax
        self.heat = FloatLinear(width, len(POINTS), use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, late_NxSxSxC: jax.Array) -> jax.Array:
        """Return points f32[N, 7, 2]."""
        heat_NxSxSxK = self.heat(nnx.relu(self.up2(nnx.relu(self.up1(late_NxSxSxC)))))
        return expected_places(heat_NxSxSxK)


class SpatialCues(nnx.Module):
    """The parts of a frame: whole, both hands by one net, face, and pose from only the points."""

    def __init__(self, config: MultiCueConfig, late: int, early: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        block = partial(ConvBlock, dtype=dtype, rngs=rngs)
        linear = partial(nnx.Linear, dtype=dtype, rngs=rngs)
        width, self.sides = config.width, (config.hand_side, config.face_side)
        self.widths = (late, 2 * width, width, width)  # of `PARTS`
        self.full = block(late, (late,))
        self.points = PoseBranch(late, width, dtype=dtype, rngs=rngs)
        self.hand = nnx.List(
            [
                block(early, (width,), pools=True),
                block(width, (width, width), pools=True),
                block(width, (width,)),
            ]
        )
        self.face = nnx.List([block(early, (width, width), pools=True), block(width, (width, width))])
        self.pose = nnx.List([linear(2 * len(POINTS), width // 2), linear(width // 2, width)])
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(self, maps: Maps, rngs: nnx.Rngs | None = None) -> tuple[list[jax.Array], jax.Array]:
        """Return the parts, each [N, C], and the points f32[N, 7, 2]."""
        points_NxKx2 = self.points(maps.late)
        # the gloss losses do not move the points
        fixed_NxKx2 = lax.stop_gradient(points_NxKx2)
        hand_side, face_side = self.sides
        hands = jnp.concatenate([cut_out(maps.early, fixed_NxKx2[:, hand], hand_side) for hand in HANDS])
        left_NxC, right_NxC = jnp.split(_mean_of(self.hand, hands), 2)
        pose_NxC = fixed_NxKx2.reshape(len(fixed_NxKx2), -1)
        for layer in self.pose:
            pose_NxC = nnx.relu(layer(pose_NxC))
        parts = [
            self.dropout(_mean_of([self.full], maps.last), rngs=rngs),
            jnp.concatenate([left_NxC, right_NxC], axis=-1),
            _mean_of(self.face, cut_out(maps.early, fixed_NxKx2[:, FACE], face_side)),
            pose_NxC,
        ]
        return parts, points_NxKx2


class TemporalCues(nnx.Module):
    """A block over time: each part's own path, a joint path from all parts, and MaxPool2, if any."""

    def __init__(
        self,
        parts: Sequence[int],
        joint: int,
        config: MultiCueConfig,
        *,
        pools: bool = True,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        conv = partial(
            nnx.Conv,
            padding="VALID",
            conv_general_dilated=_convolve_in_time,
            dtype=dtype,
            rngs=rngs,
        )
        width, half = config.width, config.joint_width // 2
        self.step = 2 if pools else 1
        self.intra = nnx.List([conv(part, width, (5,)) for part in parts])
        self.joint = conv(joint, half, (5,))
        self.inter = conv(width * len(parts), half, (1,))

    def __call__(
        self, joint_BxTxC: jax.Array, parts: Sequence[jax.Array]
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Return joint path and parts at `(T - 4) / step` positions."""
        parts = [nnx.relu(conv(part_BxTxC)) for conv, part_BxTxC in zip(self.intra, parts, strict=True)]
        both = self.joint(joint_BxTxC), self.inter(jnp.concatenate(parts, axis=-1))
        pool = partial(nnx.max_pool, window_shape=(self.step,), strides=(self.step,))
        return pool(nnx.relu(jnp.concatenate(both, axis=-1))), [pool(part) for part in parts]


class MultiCueEmbedding(nnx.Module):
    """The networks over packed frames: five sequences per clip, a position per four frames of the film.

    The features of edge frames are repeated as in `VideoEmbedding`, so that the shortest clip has a
    position and the convolutions see no padding.
    """

    def __init__(
        self,
        cnn: VGGConfig,
        config: MultiCueConfig,
        reads: VideoInput,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.max_frames, self.pools = reads.max_frames, num_pools(reads.frame_stride)
        self.cnn = VGG(cnn, reads.image_size, dtype=dtype, rngs=rngs)
        self.spatial = SpatialCues(config, self.cnn.features, self.cnn.early_features, dtype=dtype, rngs=rngs)
        widths = self.spatial.widths
        inner = [config.width] * len(PARTS), config.joint_width
        self.temporal = nnx.List(
            [
                TemporalCues(widths, sum(widths), config, pools=self.pools == 2, dtype=dtype, rngs=rngs),
                TemporalCues(*inner, config, pools=self.pools > 0, dtype=dtype, rngs=rngs),
            ]
        )
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(
        self,
        frames_NxHxWx3: jax.Array,
        clips: PackedClips,
        rngs: nnx.Rngs | None = None,
    ) -> Cues:
        parts, points_NxKx2 = self.spatial(self.cnn.maps(frames_NxHxWx3), rngs)
        length_B = padded_length(clips.count, self.pools)
        place_T = jnp.arange(padded_length(self.max_frames, self.pools))
        inside_BxT, joint_NxC = place_T < length_B[:, None], jnp.concatenate(parts, axis=-1)
        joint_BxTxC = gather_frames(joint_NxC, place_T - EDGES[self.pools], inside_BxT, clips)
        ends = list(accumulate(self.spatial.widths))[:-1]
        parts_BxTxC = jnp.split(joint_BxTxC, ends, axis=-1)
        for block in self.temporal:
            joint_BxTxC, parts_BxTxC = block(joint_BxTxC, parts_BxTxC)
            length_B = (length_B - 4) // block.step
        mask_BxT = prefix_mask(length_B, clips.valid, joint_BxTxC.shape[1])
        return Cues((self.dropout(joint_BxTxC, rngs=rngs), *parts_BxTxC), mask_BxT, points_NxKx2)


def expected_places(heat_NxSxSxK: jax.Array) -> jax.Array:
    """Return the mean place of each heat map's softmax, f32[N, K, 2].

    A place is x, then y; the middle of pixel i is at (i + 0.5) / S.
    """
    frames, height, width, maps = heat_NxSxSxK.shape
    flat_NxPxK = heat_NxSxSxK.astype(jnp.float32).reshape(frames, height * width, maps)
    weight_NxSxSxK = jax.nn.softmax(flat_NxPxK, axis=1).reshape(heat_NxSxSxK.shape)
    # products would run in TF32 on GPUs
    x_NxK = (weight_NxSxSxK.sum(axis=1) * _middles(width)[:, None]).sum(axis=1)
    y_NxK = (weight_NxSxSxK.sum(axis=2) * _middles(height)[:, None]).sum(axis=1)
    return jnp.stack([x_NxK, y_NxK], axis=-1)


def cut_out(map_NxSxSxC: jax.Array, centre_Nx2: jax.Array, side: int) -> jax.Array:
    """Return the square around each centre, moved inside the map."""
    _, height, width, channels = map_NxSxSxC.shape
    column_N, row_N = jnp.rint(centre_Nx2 * jnp.array([width, height]) - 0.5).astype(jnp.int32).T

    def cut(one: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
        # a negative place would count from the end
        top, left = (jnp.maximum(place - side // 2, 0) for place in (row, column))
        return lax.dynamic_slice(one, (top, left, 0), (side, side, channels))

    return jax.vmap(cut)(map_NxSxSxC, row_N, column_N)


def _convolve_in_time(
    x_BxTxI: jax.Array, kernel_KxIxO: jax.Array, *settings: Any, **options: Any
) -> jax.Array:
    """Convolve without padding by products, whose gradient is fast on CPUs."""
    del settings, options  # those of stride 1
    times = x_BxTxI.shape[1] - len(kernel_KxIxO) + 1
    shifted = (x_BxTxI[:, first : first + times] for first in range(len(kernel_KxIxO)))
    dot = partial(jnp.dot, preferred_element_type=jnp.promote_types(x_BxTxI.dtype, jnp.float32))
    return reduce(jnp.add, map(dot, shifted, kernel_KxIxO)).astype(x_BxTxI.dtype)


def _middles(size: int) -> jax.Array:
    return (jnp.arange(size) + 0.5) / size


def _mean_of(blocks: Sequence[ConvBlock], x_NxHxWxC: jax.Array) -> jax.Array:
    """Return the mean of the last block's map."""
    for block in blocks:
        x_NxHxWxC = block(x_NxHxWxC)
    return x_NxHxWxC.mean(axis=(1, 2))
