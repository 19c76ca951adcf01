"""Video embedding (Sec. 4.2): CNN, two Conv1D-BN-ReLU-MaxPool, Linear-BN-ReLU.

Prepared features may take the place of frames and CNN. Positions are about four frames of the film apart:
frames and features one frame apart are pooled twice, two or three frames apart once, and others not at all.

B clips, N packed frames, T positions in time, C features of a frame, D features of a position.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.models.batch_norm import BatchNorm
from sslssaw_jax.models.cnn import CNN, CNNConfig, make_cnn
from sslssaw_jax.types import FeatureSize, PackedClips, most_rows

# how often the first frame is repeated, by the number of pools; two as in the parent project
EDGES = {0: 4, 1: 4, 2: 8}


def num_pools(stride):
    """Return how often rows of a stride in frames are pooled."""
    return 2 if stride == 1 else int(stride < 4)


def padded_length(num_frames, pools=2):
    """Return the length with repeated edges, a multiple of all pools."""
    return 2**pools * -(-num_frames // 2**pools) + 2 * EDGES[pools]


def num_positions(num_frames):
    """Return the positions in time of a clip's frames."""
    return (((padded_length(num_frames) - 4) // 2) - 4) // 2


class TemporalConv(nnx.Module):
    """Conv1D (kernel 5, no padding), BN, ReLU and MaxPool2, if any, over clips."""

    def __init__(self, inputs: int, outputs: int, *, pools: bool = True, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.pools = pools
        self.conv = nnx.Conv(inputs, outputs, (5,), padding="VALID", dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(outputs, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_BxTxC: jax.Array, length_B: jax.Array, valid_B: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        x_BxTxC = self.conv(x_BxTxC)
        length_B = length_B - 4
        mask_BxTx1 = prefix_mask(length_B, valid_B, x_BxTxC.shape[1])[..., None]
        x_BxTxC = self.norm(x_BxTxC, mask=mask_BxTx1, relu=True)
        if not self.pools:
            return x_BxTxC, length_B
        x_BxTxC = nnx.max_pool(x_BxTxC, (2,), (2,))
        return x_BxTxC, length_B // 2


def prefix_mask(length_B: jax.Array, valid_B: jax.Array, size: int) -> jax.Array:
    """Return bool[B, size], True at the first positions of valid rows."""
    return (jnp.arange(size) < length_B[:, None]) & valid_B[:, None]


def gather_frames(
    features_NxC: jax.Array,
    place_T: jax.Array,
    inside_BxT: jax.Array,
    clips: PackedClips,
) -> jax.Array:
    """Return features [B, T, C] of each clip's frames, zeros outside.

    Args:
        features_NxC: The features of packed frames.
        place_T: Places in the clip, not counting frames left out of it; places before the first or after the
            last frame repeat that frame.
        inside_BxT: Which of the places to fill.
        clips: Where the clips lie in the pack.
    """
    frame_BxT = jnp.clip(place_T, 0, jnp.maximum(clips.count - 1, 0)[:, None])
    if clips.left_out is not None:
        first_Bx1, count_Bx1 = jnp.split(clips.left_out, 2, axis=1)
        frame_BxT = frame_BxT + jnp.where(frame_BxT >= first_Bx1, count_Bx1, 0)
    packed_BxT = jnp.where(inside_BxT, frame_BxT + clips.start[:, None], len(features_NxC))
    return features_NxC.at[packed_BxT].get(mode="fill", fill_value=0)


class VideoInput(NamedTuple):
    """What a video part reads."""

    image_size: int  # the side of a frame in pixels
    max_frames: int  # of a clip
    frame_stride: int = 1  # frames of the film from one stored frame to the next
    features: FeatureSize | None = None  # of the set that is read in place of frames, if any


def _width(cnn: CNN | None, features: FeatureSize | None) -> int:
    return features.width if features else cnn.features  # type: ignore[union-attr]


class FrameFeatures(nnx.Module):
    """The features of packed frames, a sequence per clip: `(features_BxTxC, mask_BxT)`.

    They come from the CNN or a prepared set, one per position; arguments as for `VideoEmbedding`.
    """

    def __init__(
        self,
        config: CNNConfig,
        reads: VideoInput,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        image_size, max_frames, _, features = reads
        self.cnn = None if features else make_cnn(config, image_size, dtype=dtype, rngs=rngs)
        self.width = _width(self.cnn, features)
        self.max_rows = most_rows(max_frames, features.stride) if features else max_frames

    def __call__(
        self,
        video_N: jax.Array,  # frames, f32[N, H, W, 3], or features, [N, C]
        frame_mask_N: jax.Array,
        clips: PackedClips,
        most_rows: int | None = None,  # of a clip in this batch
    ) -> tuple[jax.Array, jax.Array]:
        features_NxC = video_N if self.cnn is None else self.cnn(video_N, frame_mask_N)
        most_rows = most_rows or self.max_rows
        mask_BxT = prefix_mask(clips.count, clips.valid, most_rows)
        return gather_frames(features_NxC, jnp.arange(most_rows), mask_BxT, clips), mask_BxT


class VideoEmbedding(nnx.Module):
    """An embedding of packed frames as one sequence per clip, `(video_BxTxD, mask_BxT)`.

    The features of edge frames are repeated, which equals repeating the frames, with less work.

    Args:
        config: The CNN; with features, no CNN is made.
        d_model: D.
        reads: Frames, or features in their place.
        activation: The last activation.
        dtype: The dtype of the computation.
        rngs: Random keys.
    """

    def __init__(
        self,
        config: CNNConfig,
        d_model: int,
        reads: VideoInput,
        *,
        activation: Callable[[jax.Array], jax.Array] = nnx.relu,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        image_size, max_frames, frame_stride, features = reads
        self.cnn = None if features else make_cnn(config, image_size, dtype=dtype, rngs=rngs)
        stride = features.stride if features else 1
        self.max_rows, self.pools = most_rows(max_frames, stride), num_pools(stride * frame_stride)
        width = _width(self.cnn, features)
        self.conv1 = TemporalConv(width, d_model, pools=self.pools == 2, dtype=dtype, rngs=rngs)
        self.conv2 = TemporalConv(d_model, d_model, pools=self.pools > 0, dtype=dtype, rngs=rngs)
        self.project = nnx.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        self.project_norm = BatchNorm(d_model, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(
        self,
        video_N: jax.Array,  # frames, f32[N, H, W, 3], or features, [N, C]
        frame_mask_N: jax.Array,
        clips: PackedClips,
        most_rows: int | None = None,  # of a clip in this batch
    ) -> tuple[jax.Array, jax.Array]:
        features_NxC = video_N if self.cnn is None else self.cnn(video_N, frame_mask_N)
        length_B = padded_length(clips.count, self.pools)
        place_T = jnp.arange(padded_length(most_rows or self.max_rows, self.pools))
        # zeros after a clip: otherwise its last feature would collect hundreds of gradients at one address
        inside_BxT = place_T < length_B[:, None]
        x_BxTxC = gather_frames(features_NxC, place_T - EDGES[self.pools], inside_BxT, clips)
        x_BxTxC, length_B = self.conv1(x_BxTxC, length_B, clips.valid)
        x_BxTxC, length_B = self.conv2(x_BxTxC, length_B, clips.valid)
        mask_BxT = prefix_mask(length_B, clips.valid, x_BxTxC.shape[1])
        normed_BxTxD = self.project_norm(self.project(x_BxTxC), mask=mask_BxT[..., None])
        return self.activation(normed_BxTxD), mask_BxT
