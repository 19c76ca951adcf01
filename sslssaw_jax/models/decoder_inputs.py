"""Tokens that the decoder reads and predicts, from `w_1 .. w_n </s> <language>`.

B clips, L tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Stream(NamedTuple):
    """A stream of decoder inputs and labels, with padding at any place."""

    tokens: jax.Array  # i32[B, L]
    mask: jax.Array  # bool[B, L], False at padding
    labels: jax.Array  # i32[B, L]
    scored: jax.Array  # bool[B, L], the positions whose prediction counts


def shift_right(text_BxL: jax.Array, mask_BxL: jax.Array) -> jax.Array:
    """Move the last token to the front: `<language> w_1 .. w_n </s>`."""
    last_Bx1 = jnp.maximum(mask_BxL.sum(axis=1, keepdims=True) - 1, 0)
    language_Bx1 = jnp.take_along_axis(text_BxL, last_Bx1, axis=1)
    return jnp.concatenate([language_Bx1, text_BxL[:, :-1]], axis=1)


def text_stream(text_BxL: jax.Array, mask_BxL: jax.Array) -> Stream:
    """Return a text's stream, scored except where it predicts the language code."""
    last_BxL = mask_BxL & ~jnp.pad(mask_BxL[:, 1:], ((0, 0), (0, 1)))
    return Stream(shift_right(text_BxL, mask_BxL), mask_BxL, text_BxL, mask_BxL & ~last_BxL)


def joint_stream(question: Stream, target: Stream) -> Stream:
    """Put the sentence after the complete question (SSL `prefix`, Eq. 5-6).

    The position between the two is not scored.
    """
    return Stream(*(jnp.concatenate(pair, axis=1) for pair in zip(question, target, strict=True)))
