"""The CNN with a classifier on each frame: the warm start on isolated signs."""

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.experiment import DataConfig
from sslssaw_jax.config.model import ModelConfig
from sslssaw_jax.models.video_embedding import make_cnn


class SignClassifier(nnx.Module):
    """Which sign a single frame shows; only its `cnn` is kept."""

    def __init__(
        self, config: ModelConfig, data: DataConfig, num_signs: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.cnn = make_cnn(config, data.image_size, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(self.cnn.features, num_signs, dtype=dtype, rngs=rngs)

    def __call__(self, frames_NxHxWx3: jax.Array, frame_mask_N: jax.Array) -> jax.Array:
        """Logits `[N, num_signs]`."""
        return self.head(self.cnn(frames_NxHxWx3, frame_mask_N))
