"""The contrasts of GBT: a video with its own question, and a gloss with its own word, against wrong ones.

B clips, T positions in time, N glosses of a clip, L tokens, D features, X and Y vectors.
"""

from functools import partial

import jax
import jax.numpy as jnp

from sslssaw_jax.models.gloss_graph import Read
from sslssaw_jax.stages.alignment import cosines
from sslssaw_jax.stages.losses import masked_mean


def global_contrast(read: Read, asked_BxLxD: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return each video's loss against two wrong questions, and whether it counts.

    Args:
        read: What the model found.
        asked_BxLxD: The states of the words, encoded without the graph.
        key: Draws the wrong questions.
    """
    ids_BxL = jnp.where(read.word_mask, read.word_ids, -1)
    other_BxB = (ids_BxL[:, None] != ids_BxL).any(axis=-1)
    has_both_B = read.mask.any(axis=1) & read.word_mask.any(axis=1)
    cosine_BxB = cosines(_mean(read.position_states, read.mask), _mean(asked_BxLxD, read.word_mask))
    loss_B, counts_B = contrast(cosine_BxB, other_BxB & has_both_B, key)
    return loss_B, counts_B & has_both_B


def local_contrast(read: Read, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mean loss of a clip's glosses, and whether it counts.

    The positions of a gloss, summed, are compared with its word and the words of two other glosses.
    """
    spans_BxNxT = read.glosses.spans.astype(jnp.float32)
    shown_BxNxD = jnp.einsum("BNT,BTD->BND", spans_BxNxT, read.seen)
    words_BxNxD = jnp.einsum("BNL,BLD->BND", read.links, read.asked)
    chosen_BxN = jnp.take_along_axis(read.word_ids, read.links.argmax(axis=-1), axis=1)
    has_word_BxN = read.glosses.mask & read.word_mask.any(axis=1, keepdims=True)
    wrong_BxNxN = (chosen_BxN[:, :, None] != chosen_BxN[:, None]) & has_word_BxN[:, None]
    keys = jax.random.split(key, len(chosen_BxN))
    loss_BxN, counts_BxN = jax.vmap(contrast)(cosines(shown_BxNxD, words_BxNxD), wrong_BxNxN, keys)
    counts_BxN &= has_word_BxN
    return jax.vmap(masked_mean)(loss_BxN, counts_BxN, counts_BxN.sum(axis=1)), counts_BxN.any(axis=1)


def _mean(states_BxXxD: jax.Array, mask_BxX: jax.Array) -> jax.Array:
    total_BxD = jnp.where(mask_BxX[..., None], states_BxXxD, 0).sum(axis=1)
    return total_BxD / jnp.maximum(mask_BxX.sum(axis=1, keepdims=True), 1)


def contrast(cosine_XxX: jax.Array, wrong_XxX: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return each row's loss against two wrong columns, and whether it counts.

    The loss is the cross-entropy of the row's own column among three. A row with one wrong column sees it
    twice; a row without any does not count.

    Args:
        cosine_XxX: The cosines; the diagonal has the right columns.
        wrong_XxX: Whether a column may be drawn as wrong for a row.
        key: Draws the wrong columns.
    """
    # row by row: what a row draws must not depend on the rows that fill up the batch
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(wrong_XxX)))
    uniform_XxX = jax.vmap(lambda key: jax.random.uniform(key, wrong_XxX.shape[1:]))(keys)
    draws_XxX = jnp.where(wrong_XxX, uniform_XxX, -1)
    drawn, two = jax.lax.top_k(draws_XxX, min(2, len(draws_XxX)))
    first_Xx1, second_Xx1 = two[:, :1], jnp.where(drawn[:, -1:] < 0, two[:, :1], two[:, -1:])
    right_Xx1 = jnp.arange(len(cosine_XxX))[:, None]
    three_Xx3 = jnp.take_along_axis(
        cosine_XxX, jnp.concatenate([right_Xx1, first_Xx1, second_Xx1], axis=1), axis=1
    )
    return -jax.nn.log_softmax(three_Xx3)[:, 0], wrong_XxX.any(axis=1)
