"""What the decoder reads and has to predict: streams of tokens made from `w_1 .. w_n </s> <language>`.

B clips, L tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Stream(NamedTuple):
    """Decoder inputs with what each position predicts; padding may lie anywhere."""

    tokens: jax.Array  # i32[B, L]
    mask: jax.Array  # bool[B, L], False at padding
    labels: jax.Array  # i32[B, L]
    scored: jax.Array  # bool[B, L], the positions whose prediction counts


def shift_right(text_BxL: jax.Array, mask_BxL: jax.Array) -> jax.Array:
    """`<language> w_1 .. w_n </s>`: the last token moves to the front, as mBART's decoder expects."""
    last_Bx1 = jnp.maximum(mask_BxL.sum(axis=1, keepdims=True) - 1, 0)
    language_Bx1 = jnp.take_along_axis(text_BxL, last_Bx1, axis=1)
    return jnp.concatenate([language_Bx1, text_BxL[:, :-1]], axis=1)


def text_stream(text_BxL: jax.Array, mask_BxL: jax.Array) -> Stream:
    """`<language> w_1 .. w_n </s>`, scored where it predicts `w_1 .. w_n </s>` and not the language code."""
    last_BxL = mask_BxL & ~jnp.pad(mask_BxL[:, 1:], ((0, 0), (0, 1)))
    return Stream(shift_right(text_BxL, mask_BxL), mask_BxL, text_BxL, mask_BxL & ~last_BxL)


def joint_stream(question: Stream, target: Stream) -> Stream:
    """SSL `prefix` (Eq. 5, 6): the sentence follows the complete question, and the joint is not scored."""
    return Stream(*(jnp.concatenate(pair, axis=1) for pair in zip(question, target, strict=True)))
