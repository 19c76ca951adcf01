"""Warm start: the CNN learns isolated signs frame by frame, a small stand-in for ImageNet weights."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sslssaw_jax.config.checks import require
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.augment import clip_of_frame, prepare_frames
from sslssaw_jax.models.cnn import CNNConfig, make_cnn
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.precision import FloatLinear, compute_dtype
from sslssaw_jax.stages.losses import cross_entropy, masked_mean
from sslssaw_jax.stages.stage import LossCounts, Stage, StageInputs
from sslssaw_jax.types import Batch, Metrics

CNN_MODULES = {"video.cnn": "cnn"}  # what a later stage takes


class SignClassifier(nnx.Module):
    """A CNN that classifies the sign of a single frame; later stages take its `cnn`."""

    def __init__(
        self, config: CNNConfig, image_size: int, num_signs: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.cnn = make_cnn(config, image_size, dtype=dtype, rngs=rngs)
        self.head = FloatLinear(self.cnn.features, num_signs, dtype=dtype, rngs=rngs)

    def __call__(self, frames_NxHxWx3: jax.Array, frame_mask_N: jax.Array) -> jax.Array:
        """Return logits `[N, num_signs]`."""
        return self.head(self.cnn(frames_NxHxWx3, frame_mask_N))


def warm_start_stages(config: Config, inputs: StageInputs) -> list[Stage]:
    """Make the stage that classifies single signs by frame, if any."""
    if not config.warm_start.epochs:
        return []

    @cache
    def signs() -> tuple[np.ndarray, np.ndarray]:
        glosses = [clip.gloss for clip in inputs.clips(config.data.isolated_split)]
        names, label_of_clip = np.unique(glosses, return_inverse=True)
        return names, label_of_clip

    def make_model(key: jax.Array) -> nnx.Module:
        dtype = compute_dtype(config.compute.dtype)
        size = config.data.image_size
        return SignClassifier(config.model.cnn, size, len(signs()[0]), dtype=dtype, rngs=Keys(key))

    def loss(
        model: SignClassifier, batch: Batch, key: jax.Array | None, counts: LossCounts
    ) -> tuple[jax.Array, Metrics]:
        frames_NxHxWx3, mask_N = prepare_frames(batch, config.data, key)
        logits_NxS = model(frames_NxHxWx3, mask_N)
        label_N = jnp.asarray(signs()[1])[batch.index][clip_of_frame(batch)[0]]
        accuracy = masked_mean(logits_NxS.argmax(axis=-1) == label_N, mask_N, counts.frames)
        return cross_entropy(logits_NxS, label_N, mask_N, counts.frames), {"accuracy": accuracy}

    warm_start = Stage(
        "warm_start",
        make_model,
        loss,
        reads_question=False,
        isolated=True,
        selection=None,
        remat=config.compute.remat,
    )
    return [warm_start]


def check_cnn_start(config: Config) -> None:
    """Raise ConfigError if the CNN has two starts, or features have one."""
    weights, features = config.model.cnn.weights, config.data.features
    require(
        not features or not (weights or config.warm_start.epochs),
        f"config.data.features is {features}, so no CNN is made: clear config.model.cnn.weights and "
        "set config.warm_start.epochs to 0",
    )
    require(
        not weights or not config.warm_start.epochs,
        f"config.model.cnn.weights is {weights!r} and config.warm_start.epochs {config.warm_start.epochs}: a "
        "CNN starts from only one of them; clear the former or set the latter to 0",
    )
