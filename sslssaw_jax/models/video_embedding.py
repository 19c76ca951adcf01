"""Video embedding (Sec. 4.2): CNN, twice Conv1D-BN-ReLU-MaxPool, Linear-BN-ReLU.

Prepared features may take the place of frames and CNN. Positions stand about four frames apart: features of
stride 1 are pooled twice, as frames are, those of stride 2 or 3 once, others not at all.

B clips, N packed frames, T positions in time, C features of a frame, D features of a position.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.models.batch_norm import BatchNorm
from sslssaw_jax.models.cnn import CNNConfig, make_cnn
from sslssaw_jax.types import most_rows

# how often the first frame is repeated, by the number of pools; two as in the parent project
EDGES = {0: 4, 1: 4, 2: 8}


def num_pools(stride):
    """Return how often rows of a stride in frames are pooled."""
    return 2 if stride == 1 else int(stride < 4)


def padded_length(num_frames, pools=2):
    """Return the length with repeated edges: for two pools 16 more, a multiple of 4."""
    return 2**pools * -(-num_frames // 2**pools) + 2 * EDGES[pools]


def num_positions(num_frames):
    """Return the positions in time of a clip's frames."""
    return (((padded_length(num_frames) - 4) // 2) - 4) // 2


class TemporalConv(nnx.Module):
    """Conv1D (kernel 5, no padding), BN, ReLU and MaxPool2, if any, over clips."""

    def __init__(
        self, inputs: int, outputs: int, *, pools: bool = True, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
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


class VideoEmbedding(nnx.Module):
    """An embedding of packed frames as one sequence per clip, `(video_BxTxD, mask_BxT)`.

    The features of edge frames are repeated, which equals repeating the frames, with less work.

    Args:
        config: The CNN; with features none is made.
        d_model: D.
        image_size: The side of a frame in pixels.
        max_frames: The most frames of a clip.
        features: Width and stride of the feature set that is read in place of frames, if any.
        activation: The last function.
        dtype: Of the computation.
        rngs: Random keys.
    """

    def __init__(
        self,
        config: CNNConfig,
        d_model: int,
        *,
        image_size: int,
        max_frames: int,
        features: tuple[int, int] | None = None,
        activation: Callable[[jax.Array], jax.Array] = nnx.relu,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.cnn = None if features else make_cnn(config, image_size, dtype=dtype, rngs=rngs)
        width, stride = features or (self.cnn.features, 1)
        self.max_rows, self.pools = most_rows(max_frames, stride), num_pools(stride)
        self.conv1 = TemporalConv(width, d_model, pools=self.pools == 2, dtype=dtype, rngs=rngs)
        self.conv2 = TemporalConv(d_model, d_model, pools=self.pools > 0, dtype=dtype, rngs=rngs)
        self.project = nnx.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        self.project_norm = BatchNorm(d_model, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(
        self,
        video_N: jax.Array,  # frames, f32[N, H, W, 3], or features, [N, C]
        frame_mask_N: jax.Array,
        frame_start_B: jax.Array,
        frame_count_B: jax.Array,
        valid_B: jax.Array,
        left_out_Bx2: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        features_NxC = video_N if self.cnn is None else self.cnn(video_N, frame_mask_N)
        length_B = padded_length(frame_count_B, self.pools)
        place_T = jnp.arange(padded_length(self.max_rows, self.pools))
        last_Bx1 = jnp.maximum(frame_count_B - 1, 0)[:, None]
        frame_BxT = jnp.clip(place_T - EDGES[self.pools], 0, last_Bx1)
        if left_out_Bx2 is not None:
            first_Bx1, count_Bx1 = jnp.split(left_out_Bx2, 2, axis=1)
            frame_BxT += jnp.where(frame_BxT >= first_Bx1, count_Bx1, 0)
        frame_BxT += frame_start_B[:, None]
        # zeros behind a clip: its last feature would collect hundreds of gradients at one address
        frame_BxT = jnp.where(place_T < length_B[:, None], frame_BxT, len(features_NxC))
        x_BxTxC = features_NxC.at[frame_BxT].get(mode="fill", fill_value=0)
        x_BxTxC, length_B = self.conv1(x_BxTxC, length_B, valid_B)
        x_BxTxC, length_B = self.conv2(x_BxTxC, length_B, valid_B)
        mask_BxT = prefix_mask(length_B, valid_B, x_BxTxC.shape[1])
        normed_BxTxD = self.project_norm(self.project(x_BxTxC), mask=mask_BxT[..., None])
        return self.activation(normed_BxTxD), mask_BxT
