"""How alike a clip and a sentence are (Table 3): pooled to one vector each, or position by position.

B clips, C sentences, T positions of the one, L positions of the other, D features.
"""

import jax
import jax.numpy as jnp


def pooled_cosine(video_BxD: jax.Array, text_CxD: jax.Array) -> jax.Array:
    """Cosine of each clip's vector and each sentence's, f32[B, C]."""
    return _normalise(video_BxD) @ _normalise(text_CxD).T


def aligned_cosine(
    kept_BxTxD: jax.Array, kept_mask_BxT: jax.Array, stretched_CxLxD: jax.Array, stretched_mask_CxL: jax.Array
) -> jax.Array:
    """Mean cosine over the positions of one side, the other stretched or shrunk to its length, f32[B, C].

    Each pair has its own interpolation: linear, with positions at the centres of their intervals, as
    torch's `interpolate(mode="linear", align_corners=False)`. Padding stands behind the sequences.
    """
    weights_BxCxTxL = _interpolation(kept_mask_BxT, stretched_mask_CxL)
    stretched_BxCxTxD = jnp.einsum("BCTL,CLD->BCTD", weights_BxCxTxL, stretched_CxLxD.astype(jnp.float32))
    cosine_BxCxT = jnp.einsum("BTD,BCTD->BCT", _normalise(kept_BxTxD), _normalise(stretched_BxCxTxD))
    kept_Bx1xT = kept_mask_BxT[:, None]
    return jnp.where(kept_Bx1xT, cosine_BxCxT, 0).sum(axis=-1) / jnp.maximum(kept_Bx1xT.sum(axis=-1), 1)


def _interpolation(kept_mask_BxT: jax.Array, stretched_mask_CxL: jax.Array) -> jax.Array:
    """The weights of the L positions in each of the T, f32[B, C, T, L]; they sum to 1."""
    length_Bx1x1 = jnp.maximum(kept_mask_BxT.sum(axis=1), 1)[:, None, None]
    length_Cx1 = jnp.maximum(stretched_mask_CxL.sum(axis=1), 1)[:, None]
    centre_T = jnp.arange(kept_mask_BxT.shape[1]) + 0.5
    place_BxCxT = jnp.clip(centre_T * length_Cx1 / length_Bx1x1 - 0.5, 0, length_Cx1 - 1)
    return jnp.maximum(1 - jnp.abs(place_BxCxT[..., None] - jnp.arange(stretched_mask_CxL.shape[1])), 0)


def _normalise(x: jax.Array) -> jax.Array:
    """Unit length along the last axis; a zero vector, of a row that is no clip, keeps a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)
