"""Masked losses in float32: pure functions of a global batch.

`count` is the denominator of a mean: the number of places in all micro-batches of a step, whose losses then
add up to the step's.

Dimensions: B clips, T positions in time, L tokens, G glosses, V vocabulary, D features.
"""

import math

import jax
import jax.numpy as jnp
import optax

from sslssaw_jax.types import Metrics

MAX_LOGIT_SCALE = math.log(100.0)


def masked_mean(values: jax.Array, mask: jax.Array, count: jax.Array) -> jax.Array:
    """Return the sum of `values` under the mask, divided by `count`."""
    return jnp.where(mask, values, 0).sum() / jnp.maximum(count, 1)


def cross_entropy(
    logits_BxLxV: jax.Array,
    labels_BxL: jax.Array,
    mask_BxL: jax.Array,
    count: jax.Array,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Return the mean cross-entropy over the tokens in the mask, f32[].

    Labels outside the mask may be anything. Smoothing mixes the label with the uniform distribution over V,
    like torch's `CrossEntropyLoss`.
    """
    log_probs_BxLxV = jax.nn.log_softmax(logits_BxLxV.astype(jnp.float32))
    labels_BxL = jnp.where(mask_BxL, labels_BxL, 0)
    nll_BxL = -jnp.take_along_axis(log_probs_BxLxV, labels_BxL[..., None], axis=-1)[..., 0]
    uniform_BxL = -log_probs_BxLxV.mean(axis=-1)
    return masked_mean((1 - label_smoothing) * nll_BxL + label_smoothing * uniform_BxL, mask_BxL, count)


def contrastive_loss(
    cosine_BxB: jax.Array, logit_scale: jax.Array, valid_B: jax.Array, count: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Return the symmetric contrast of clips and sentences (Eq. 1).

    As in CLIP (Radford et al. 2021).

    Cosines of clips (rows) and sentences are multiplied by `exp(logit_scale)`, 1 / temperature, which never
    exceeds 100, as in CLIP: a gradient beyond may lower it, but not raise it. Invalid clips are neither rows
    nor columns. The metrics are the shares of valid clips that find their sentence (`video_to_text`) and of
    sentences that find their clip (`text_to_video`).
    """
    logits_BxB = cosine_BxB * jnp.exp(_capped(logit_scale))
    own_B = jnp.arange(len(valid_B))

    def contrast(logits_BxB: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Not -inf: its softmax is NaN where no clip is valid.
        logits_BxB = jnp.where(valid_B, logits_BxB, -1e9)
        loss = cross_entropy(logits_BxB, own_B, valid_B, count)
        return loss, masked_mean(logits_BxB.argmax(axis=-1) == own_B, valid_B, count)

    text_loss, text_found = contrast(logits_BxB)
    video_loss, video_found = contrast(logits_BxB.T)
    return (text_loss + video_loss) / 2, {"video_to_text": text_found, "text_to_video": video_found}


@jax.custom_vjp
def _capped(logit_scale: jax.Array) -> jax.Array:
    return jnp.minimum(logit_scale, MAX_LOGIT_SCALE)


def _capped_forward(logit_scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _capped(logit_scale), logit_scale


def _capped_backward(logit_scale: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    return (jnp.where((logit_scale < MAX_LOGIT_SCALE) | (cotangent > 0), cotangent, 0),)


_capped.defvjp(_capped_forward, _capped_backward)


def similarity_loss(
    clips_BxB: jax.Array, sentences_BxB: jax.Array, valid_B: jax.Array, count: jax.Array
) -> jax.Array:
    """Return the mean squared difference of two cosines over pairs.

    A micro-batch is weighted by its number of clips (Yin et al. 2023).
    """
    pair_BxB = valid_B[:, None] & valid_B & ~jnp.eye(len(valid_B), dtype=bool)
    square_BxB = jnp.square(clips_BxB - sentences_BxB)
    difference_B = jax.vmap(masked_mean)(square_BxB, pair_BxB, pair_BxB.sum(axis=1))
    return masked_mean(difference_B, valid_B, count)


def ctc_loss(
    logits_BxTxV: jax.Array,
    length_B: jax.Array,
    gloss_BxG: jax.Array,
    gloss_mask_BxG: jax.Array,
    count: jax.Array,
    *,
    per_gloss: bool = False,
) -> jax.Array:
    """Return the mean over clips of `-log p(glosses)` by CTC, f32[].

    As in torch's `ctc_loss` with `zero_infinity`, id 0 is the blank, and a clip that is too short for its
    glosses costs nothing.

    Args:
        logits_BxTxV: Logits or log-probabilities at each position.
        length_B: The number of positions of each clip; a clip with 0 costs nothing.
        gloss_BxG: Ids of the glosses.
        gloss_mask_BxG: Whether there is a gloss; glosses come first.
        count: The number of clips in all micro-batches of a step.
        per_gloss: Whether a clip's loss is divided by the number of its glosses.
    """
    gloss_BxG = jnp.where(gloss_mask_BxG, gloss_BxG, 0)
    behind_BxT = jnp.arange(logits_BxTxV.shape[1]) >= length_B[:, None]
    with jax.default_matmul_precision("highest"):  # optax picks log-probabilities by a matrix product
        loss_B = optax.ctc_loss(
            logits_BxTxV.astype(jnp.float32),
            behind_BxT.astype(jnp.float32),
            gloss_BxG,
            (~gloss_mask_BxG).astype(jnp.float32),
        )
    glosses_B = gloss_mask_BxG.sum(axis=1)
    if per_gloss:
        loss_B /= jnp.maximum(glosses_B, 1)
    possible_B = (length_B > 0) & (length_B >= needed_positions(gloss_BxG, gloss_mask_BxG))
    return masked_mean(loss_B, possible_B, count)


def needed_positions(gloss_BxG: jax.Array, gloss_mask_BxG: jax.Array) -> jax.Array:
    """Return the positions that CTC needs: glosses, and a blank between repeats."""
    repeats_BxG = (gloss_BxG[:, 1:] == gloss_BxG[:, :-1]) & gloss_mask_BxG[:, 1:]
    return gloss_mask_BxG.sum(axis=1) + repeats_BxG.sum(axis=1)
