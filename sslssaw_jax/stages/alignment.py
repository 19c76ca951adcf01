"""The similarity of clips and sentences (Eq. 1, Table 3).

Pooled features are sequences of one position.

B clips, C sentences (or the other way round), T positions of one, L and M of the other, D features.
"""

from functools import partial

import jax
import jax.numpy as jnp

# a temperature magnifies the rounding of TensorFloat-32, the default on GPUs
_einsum = partial(jnp.einsum, precision="highest")


def aligned_cosine(
    kept_BxTxD: jax.Array, kept_mask_BxT: jax.Array, stretched_CxLxD: jax.Array, stretched_mask_CxL: jax.Array
) -> jax.Array:
    """Return the mean cosine of sequences aligned to one length, f32[B, C].

    The second sequence of each pair is stretched or shrunk to the length of the first: linearly, with
    positions at the centers of their intervals, like torch's `interpolate(mode="linear",
    align_corners=False)`. Padding follows the sequences.

    The interpolated sequences, D / L times as large as all else, are never made: their products are
    interpolated products, and their squared lengths are quadratic forms in the products of the positions.
    """
    kept_BxTxD, stretched_CxLxD = kept_BxTxD.astype(jnp.float32), stretched_CxLxD.astype(jnp.float32)
    weights_BxCxTxL = _interpolation(kept_mask_BxT, stretched_mask_CxL)
    products_BxCxTxL = _einsum("BTD,CLD->BCTL", kept_BxTxD, stretched_CxLxD)
    products_BxCxT = (weights_BxCxTxL * products_BxCxTxL).sum(axis=-1)
    among_CxLxM = _einsum("CLD,CMD->CLM", stretched_CxLxD, stretched_CxLxD)
    weighted_BxCxTxM = _einsum("BCTL,CLM->BCTM", weights_BxCxTxL, among_CxLxM)
    squares_BxCxT = jnp.maximum((weighted_BxCxTxM * weights_BxCxTxL).sum(axis=-1), 0)  # rounding
    own_squares_BxT = jnp.square(kept_BxTxD).sum(axis=-1)
    # The summands keep the gradient finite where a row without a clip is all zeros.
    lengths_BxCxT = jnp.sqrt(squares_BxCxT + 1e-12) * jnp.sqrt(own_squares_BxT + 1e-12)[:, None]
    kept_Bx1xT = kept_mask_BxT[:, None]
    total_BxC = jnp.where(kept_Bx1xT, products_BxCxT / lengths_BxCxT, 0).sum(axis=-1)
    return total_BxC / jnp.maximum(kept_Bx1xT.sum(axis=-1), 1)


def words_cosine(text_BxL: jax.Array, mask_BxL: jax.Array) -> jax.Array:
    """Return the cosine of token counts for each pair of texts, f32[B,B].

    Texts are `w_1 .. w_n </s> <language>`; the last two tokens do not count.
    """
    words_BxL, mask_BxL = text_BxL[:, :-2], mask_BxL[:, 2:]
    same_BxCxLxM = words_BxL[:, None, :, None] == words_BxL[:, None]
    both_BxCxLxM = mask_BxL[:, None, :, None] & mask_BxL[:, None]
    products_BxC = (same_BxCxLxM & both_BxCxLxM).sum(axis=(2, 3), dtype=jnp.float32)
    squares_B = jnp.maximum(jnp.diagonal(products_BxC), 1)
    return products_BxC * jax.lax.rsqrt(squares_B[:, None] * squares_B)


def _interpolation(kept_mask_BxT: jax.Array, stretched_mask_CxL: jax.Array) -> jax.Array:
    """Return the weights of L positions in each of T, f32[B,C,T,L]."""
    length_Bx1x1 = jnp.maximum(kept_mask_BxT.sum(axis=1), 1)[:, None, None]
    length_Cx1 = jnp.maximum(stretched_mask_CxL.sum(axis=1), 1)[:, None]
    centre_T = jnp.arange(kept_mask_BxT.shape[1]) + 0.5
    place_BxCxT = jnp.clip(centre_T * length_Cx1 / length_Bx1x1 - 0.5, 0, length_Cx1 - 1)
    return jnp.maximum(1 - jnp.abs(place_BxCxT[..., None] - jnp.arange(stretched_mask_CxL.shape[1])), 0)


def cosines(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the cosines of vectors, f32[..., X, Y]; zeros give 0."""

    def unit(x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)

    return _einsum("...XD,...YD->...XY", unit(a), unit(b))
