"""Gloss attention (Yin et al. 2023) to a few learned places nearby.

Dimensions: B clips, H heads, T positions, Q of them as queries, S as keys, N places, K features per head.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from sslssaw_jax.models.attention import Attention, KeysValues

NEIGHBOURS = (-4, -3, -2, -1, 0, 1, 2)


class GlossAttention(Attention):
    """Self-attention to seven places between positions, with linearly interpolated keys and values.

    Query t attends to `t + r + offset` for r from -4 to 2; a Linear of the query gives the offset of each
    head and r. Places are modulo the length of the clip.

    With `grid_sample`, keys and values are what the public code gets from that function for a single clip:
    places are modulo the length minus one and stretched by half a position at both ends, with zeros beyond,
    and every key and value is halved.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        dropout: float,
        *,
        grid_sample: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        super().__init__(d_model, num_heads, dropout, dtype=dtype, rngs=rngs)
        # float32: bfloat16 would round places far from the beginning to whole positions
        self.offsets = nnx.Linear(d_model, num_heads * len(NEIGHBOURS), rngs=rngs)
        self.grid_sample = grid_sample

    def __call__(
        self, hidden_BxTxD: jax.Array, past: KeysValues, mask_Bx1xT: jax.Array, rngs: nnx.Rngs | None
    ) -> jax.Array:
        """Return the attended states [B, T, D]."""
        query_BxTxD = self.q_proj(hidden_BxTxD)
        share_BxHxQxNxS = self._shares(self._heads(self.offsets(query_BxTxD)), mask_Bx1xT[:, 0])
        query_BxHxQxK = self._heads(query_BxTxD)
        query_BxHxQxK = query_BxHxQxK * query_BxHxQxK.shape[-1] ** -0.5
        products_BxHxQxS = jnp.einsum(
            "BHQK,BHSK->BHQS", query_BxHxQxK, past.keys, preferred_element_type=jnp.float32
        )
        # Products are interpolated instead of keys and values; interpolation is linear.
        scores_BxHxQxN = jnp.einsum("BHQNS,BHQS->BHQN", share_BxHxQxNxS, products_BxHxQxS)
        weights_BxHxQxN = self.dropout(jax.nn.softmax(scores_BxHxQxN), rngs=rngs)
        weights_BxHxQxS = jnp.einsum("BHQN,BHQNS->BHQS", weights_BxHxQxN, share_BxHxQxNxS)
        return self._attend(weights_BxHxQxS, past.values)

    def _shares(self, offset_BxHxQxN: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        """Return each position's share at each place, f32[B, H, Q, N, S]."""
        position_BxT = jnp.cumsum(mask_BxT, axis=1) - 1.0
        place_BxHxQxN = position_BxT[:, None, :, None] + jnp.asarray(NEIGHBOURS) + offset_BxHxQxN
        length_Bx1x1x1 = jnp.maximum(mask_BxT.sum(axis=1), 1)[:, None, None, None]

        def near(place_BxHxQxN: jax.Array) -> jax.Array:
            distance_BxHxQxNxS = place_BxHxQxN[..., None] - position_BxT[:, None, None, None]
            return jnp.maximum(1 - jnp.abs(distance_BxHxQxNxS), 0)

        if self.grid_sample:
            last_Bx1x1x1 = jnp.maximum(length_Bx1x1x1 - 1, 1)
            share = near(place_BxHxQxN % last_Bx1x1x1 * length_Bx1x1x1 / last_Bx1x1x1 - 0.5) / 2
        else:
            place_BxHxQxN %= length_Bx1x1x1
            # the last is next to the first
            share = near(place_BxHxQxN) + near(place_BxHxQxN - length_Bx1x1x1)
        return jnp.where(mask_BxT[:, None, None, None], share, 0)
