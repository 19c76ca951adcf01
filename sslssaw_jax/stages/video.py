"""How a batch's frames or features enter a model."""

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.augment import clip_of_frame, prepare_frames
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.s3d import S3DEmbedding
from sslssaw_jax.models.temporal_inception import InceptionEmbedding
from sslssaw_jax.models.video_embedding import (
    FrameFeatures,
    VideoEmbedding,
    VideoInput,
    gather_frames,
    prefix_mask,
)
from sslssaw_jax.stages.stage import StageInputs
from sslssaw_jax.types import Batch, PackedClips

VideoPart = VideoEmbedding | FrameFeatures | InceptionEmbedding | S3DEmbedding


def embed_video(
    video: VideoPart,
    batch: Batch,
    data: DataConfig,
    augment_key: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Embed a batch's clips as `(video_BxTxD, mask_BxT)`; a key augments frames.

    Features are not augmented.
    """
    if batch.features:
        values, mask = batch.features[0].values, clip_of_frame(batch)[1]
    else:
        values, mask = prepare_frames(batch, data, augment_key)
    if isinstance(video, S3DEmbedding):
        return video(values, mask, batch.packed_clips)
    return video(values, mask, batch.packed_clips, most_rows=batch.most_rows)


def gather_features(batch: Batch, size: int) -> tuple[jax.Array, jax.Array]:
    """Gather the first feature set, at most `size` rows, as `(rows_BxTxC, mask_BxT)`."""
    rows = batch.features[0]
    size, clips = batch.most_rows or size, PackedClips(rows.start, rows.count, batch.valid)
    mask_BxT = prefix_mask(clips.count, clips.valid, size)
    return gather_frames(rows.values, jnp.arange(size), mask_BxT, clips), mask_BxT


def video_input(config: Config, inputs: StageInputs) -> VideoInput:
    """Return what a video part reads."""
    data = config.data
    features = inputs.features[0] if data.features else None
    return VideoInput(data.image_size, data.max_frames, data.frame_stride, features)


def video_embedding(config: Config, inputs: StageInputs, d_model: int, rngs: nnx.Rngs) -> VideoEmbedding:
    """Make the embedding of frames, or of features in their place."""
    dtype = compute_dtype(config.compute.dtype)
    return VideoEmbedding(config.model.cnn, d_model, video_input(config, inputs), dtype=dtype, rngs=rngs)


def split_key(key: jax.Array | None) -> tuple[jax.Array | None, nnx.Rngs | None]:
    """Split a step's key, if any, into augmentation and dropout."""
    if key is None:
        return None, None
    augment_key, dropout_key = jax.random.split(key)
    return augment_key, nnx.Rngs(dropout=dropout_key)
