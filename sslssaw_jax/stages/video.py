"""The way of a batch's frames into a model."""

import jax
from flax import nnx

from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.data.augment import prepare_frames
from sslssaw_jax.models.video_embedding import FrameFeatures, VideoEmbedding
from sslssaw_jax.types import Batch


def embed_video(
    video: VideoEmbedding | FrameFeatures, batch: Batch, data: DataConfig, augment_key: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Embed a batch's clips as `(video_BxTxD, mask_BxT)`; a key augments frames."""
    frames_NxHxWx3, frame_mask_N = prepare_frames(batch, data, augment_key)
    place = batch.frame_start, batch.frame_count, batch.valid, batch.left_out
    return video(frames_NxHxWx3, frame_mask_N, *place)


def split_key(key: jax.Array | None) -> tuple[jax.Array | None, nnx.Rngs | None]:
    """Split a step's key, if any, into augmentation and dropout."""
    if key is None:
        return None, None
    augment_key, dropout_key = jax.random.split(key)
    return augment_key, nnx.Rngs(dropout=dropout_key)
