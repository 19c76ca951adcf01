"""Warm start: the CNN learns isolated signs frame by frame, the small stand-in for ImageNet weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.augment import clip_of_frame, prepare_frames
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.sign_classifier import SignClassifier
from sslssaw_jax.stages.losses import cross_entropy, masked_mean
from sslssaw_jax.stages.step import OWN, Counts, Stage
from sslssaw_jax.types import Batch, Metrics


def warm_start_stage(config: Config, glosses: list[str]) -> Stage:
    """Classify each frame of a clip that shows one sign; `glosses[i]` names the sign of clip i."""
    signs, labels = np.unique(glosses, return_inverse=True)

    def make_model(key: jax.Array) -> nnx.Module:
        dtype = compute_dtype(config.model.compute_dtype)
        return SignClassifier(config.model, config.data, len(signs), dtype=dtype, rngs=nnx.Rngs(key))

    remat = config.model.remat == "blocks"
    return Stage("warm_start", make_model, partial(loss, config=config, labels=labels), remat)


def loss(
    model: SignClassifier,
    batch: Batch,
    key: jax.Array | None,
    counts: Counts = OWN,
    *,
    config: Config,
    labels: np.ndarray,
) -> tuple[jax.Array, Metrics]:
    """Cross-entropy over frames."""
    frames_NxHxWx3, mask_N = prepare_frames(batch, config.data, key)
    logits_NxS = model(frames_NxHxWx3, mask_N)
    label_N = jnp.asarray(labels)[batch.index][clip_of_frame(batch)[0]]
    accuracy = masked_mean(logits_NxS.argmax(axis=-1) == label_N, mask_N, counts.frames)
    return cross_entropy(logits_NxS, label_N, mask_N, count=counts.frames), {"accuracy": accuracy}
