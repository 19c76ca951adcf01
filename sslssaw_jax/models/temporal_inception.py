"""A temporal inception net over the features of frames: parallel convolutions, twice.

It takes the place of the convolutions in `models/video_embedding.py`. A clip's last frame is repeated up to a
multiple of all pools; beyond its ends, a convolution sees zeros.

B clips, N packed frames, T positions in time, C features of a frame, D features of a position.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.models.batch_norm import BatchNorm
from sslssaw_jax.models.cnn import CNNConfig, make_cnn
from sslssaw_jax.models.video_embedding import VideoInput, gather_frames, num_pools, prefix_mask
from sslssaw_jax.types import FeatureSize, PackedClips, most_rows

KERNELS = (3, 5, 7, 9)


def frames_of_position(features: FeatureSize | None, frame_stride: int = 1) -> int:
    """Return the number of stored frames from one position to the next."""
    stride = features.stride if features else 1
    return stride * 2 ** num_pools(stride * frame_stride)


class InceptionBlock(nnx.Module):
    """Parallel convolutions over time, BatchNorm, ReLU, and max-pooling by two if asked for."""

    def __init__(self, inputs: int, outputs: int, *, pools: bool, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.pools, width = pools, outputs // len(KERNELS)
        self.convs = nnx.List([nnx.Conv(inputs, width, (size,), dtype=dtype, rngs=rngs) for size in KERNELS])
        self.norm = BatchNorm(outputs, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_BxTxC: jax.Array, length_B: jax.Array, valid_B: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        mask_BxTx1 = prefix_mask(length_B, valid_B, x_BxTxC.shape[1])[..., None]
        x_BxTxC = jnp.where(mask_BxTx1, x_BxTxC, 0)
        x_BxTxD = jnp.concatenate([conv(x_BxTxC) for conv in self.convs], axis=-1)
        x_BxTxD = self.norm(x_BxTxD, mask=mask_BxTx1, relu=True)
        if not self.pools:
            return x_BxTxD, length_B
        return nnx.max_pool(x_BxTxD, (2,), (2,)), length_B // 2


class InceptionEmbedding(nnx.Module):
    """An embedding of packed frames as one sequence per clip, `(video_BxTxD, mask_BxT)`.

    Arguments are as for `VideoEmbedding`, and positions are about four frames apart, as there.
    """

    def __init__(
        self,
        config: CNNConfig,
        width: int,
        reads: VideoInput,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        image_size, max_frames, frame_stride, features = reads
        self.cnn = None if features else make_cnn(config, image_size, dtype=dtype, rngs=rngs)
        stride = features.stride if features else 1
        # frames, or rows of features, of a position
        self.step = frames_of_position(features, frame_stride) // stride
        self.max_rows = most_rows(max_frames, stride)
        self.num_positions = -(-self.max_rows // self.step)
        inputs = self.cnn.features if self.cnn else features.width  # type: ignore[union-attr]
        self.block1 = InceptionBlock(inputs, width, pools=self.step == 4, dtype=dtype, rngs=rngs)
        self.block2 = InceptionBlock(width, width, pools=self.step > 1, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        video_N: jax.Array,  # frames, f32[N, H, W, 3], or features, [N, C]
        frame_mask_N: jax.Array,
        clips: PackedClips,
        most_rows: int | None = None,  # of a clip in this batch
    ) -> tuple[jax.Array, jax.Array]:
        features_NxC = video_N if self.cnn is None else self.cnn(video_N, frame_mask_N)
        length_B = self.step * -(-clips.count // self.step)
        place_T = jnp.arange(self.step * -(-(most_rows or self.max_rows) // self.step))
        inside_BxT = place_T < length_B[:, None]
        x_BxTxC = gather_frames(features_NxC, place_T, inside_BxT, clips)
        x_BxTxC, length_B = self.block1(x_BxTxC, length_B, clips.valid)
        x_BxTxC, length_B = self.block2(x_BxTxC, length_B, clips.valid)
        return x_BxTxC, prefix_mask(length_B, clips.valid, x_BxTxC.shape[1])
