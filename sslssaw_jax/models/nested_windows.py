"""Windows of several spans over a clip, and an encoder in which nested windows attend to each other.

They come from TSPNet (Li et al. 2020). A level is the sequence of all windows of one span.

Dimensions: B clips, N packed frames, F frames, W windows of a level, T windows of all levels, C, D features.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sslssaw_jax.models.batch_norm import BatchNorm
from sslssaw_jax.models.cnn import CNNConfig, make_cnn
from sslssaw_jax.models.remat import Blocks
from sslssaw_jax.models.transformer import EncoderLayer, LearnedPositions, TransformerConfig
from sslssaw_jax.models.video_embedding import gather_frames, prefix_mask
from sslssaw_jax.types import Features, PackedClips

Level = tuple[jax.Array, jax.Array]  # float[B, W, D] and bool[B, W]


def num_windows(num_frames, span: int, stride: int):
    """Return how many windows of a span lie inside a clip."""
    return (num_frames - span) // stride + 1


def nested(spans: Sequence[int], counts: Sequence[int], stride: int) -> np.ndarray:
    """Return which windows attend to each other, bool[T, T].

    Windows attend to each other if they are on one level, or if one lies inside the other.

    Args:
        spans: The frames of a window on each level, all different.
        counts: The number of windows on each level.
        stride: The frames from a window to the next on all levels.
    """
    start_T = np.concatenate([stride * np.arange(count) for count in counts])
    span_T = np.repeat(spans, counts)
    stop_T = start_T + span_T
    inside_TxT = (start_T[:, None] >= start_T) & (stop_T[:, None] <= stop_T)
    return (span_T[:, None] == span_T) | inside_TxT | inside_TxT.T


def prepared_levels(features: Sequence[Features], valid_B: jax.Array, max_rows: int) -> list[Level]:
    """Return the windows of each feature set as a level."""
    levels = []
    for one in features:
        mask_BxW = prefix_mask(one.count, valid_B, max_rows)
        clips = PackedClips(one.start, one.count, valid_B)
        windows_BxWxD = gather_frames(one.values, jnp.arange(max_rows), mask_BxW, clips)
        levels.append((windows_BxWxD.astype(jnp.float32), mask_BxW))
    return levels


class FrameWindows(nnx.Module):
    """Levels of windows from packed frames: the CNN, then a Conv1D over each window, BN and ReLU.

    The last frame of a clip shorter than the longest span is repeated, so that each level has a window.
    """

    def __init__(
        self,
        config: CNNConfig,
        d_model: int,
        spans: Sequence[int],
        stride: int,
        *,
        image_size: int,
        max_frames: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.spans, self.stride = tuple(spans), stride
        self.max_frames = max(max_frames, *spans)
        self.cnn = make_cnn(config, image_size, dtype=dtype, rngs=rngs)
        self.convs = nnx.List(
            [
                nnx.Conv(self.cnn.features, d_model, span, stride, padding="VALID", dtype=dtype, rngs=rngs)
                for span in spans
            ]
        )
        # of unit variance once the encoder has scaled them, like embedded tokens
        scale = d_model**-0.5
        self.norms = nnx.List([BatchNorm(d_model, scale=scale, dtype=dtype, rngs=rngs) for _ in spans])

    def __call__(
        self,
        frames_NxHxWx3: jax.Array,
        frame_mask_N: jax.Array,
        clips: PackedClips,
    ) -> list[Level]:
        features_NxC = self.cnn(frames_NxHxWx3, frame_mask_N)
        length_B = jnp.maximum(clips.count, max(self.spans))
        inside_BxF = prefix_mask(length_B, clips.valid, self.max_frames)
        x_BxFxC = gather_frames(features_NxC, jnp.arange(self.max_frames), inside_BxF, clips)
        levels = []
        for span, conv, norm in zip(self.spans, self.convs, self.norms):
            x_BxWxD = conv(x_BxFxC)
            count_B = num_windows(length_B, span, self.stride)
            mask_BxW = prefix_mask(count_B, clips.valid, x_BxWxD.shape[1])
            levels.append((norm(x_BxWxD, mask=mask_BxW[..., None], relu=True), mask_BxW))
        return levels


class NestedEncoder(Blocks):
    """Post-norm layers over all levels; the first level is returned.

    Windows are scaled by sqrt(D) and added to learned positions; each level begins at the first position.
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        config: TransformerConfig,
        spans: Sequence[int],
        stride: int,
        *,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.spans, self.stride = tuple(spans), stride
        self.scale = config.d_model**0.5
        self.input = LearnedPositions(config, rngs=rngs)
        self.layers = nnx.List(
            [
                EncoderLayer(config, num_heads, post_norm=True, dtype=dtype, rngs=rngs)
                for _ in range(num_layers)
            ]
        )

    def __call__(self, levels: Sequence[Level], rngs: nnx.Rngs | None = None) -> Level:
        """Return the first level's states f32[B, W, D] and its mask."""
        counts = [mask_BxW.shape[1] for _, mask_BxW in levels]
        hidden_BxTxD = jnp.concatenate(
            [self.input(x * self.scale, jnp.cumsum(mask, axis=1) - 1, rngs) for x, mask in levels], axis=1
        )
        mask_BxT = jnp.concatenate([mask for _, mask in levels], axis=1)
        mask_BxTxT = mask_BxT[:, None] & nested(self.spans, counts, self.stride)
        for layer in self.layers:
            hidden_BxTxD = self.call(layer, hidden_BxTxD, mask_BxTxT, rngs)
        return hidden_BxTxD[:, : counts[0]], levels[0][1]
