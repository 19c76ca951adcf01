"""Multi-head attention; its products run in `dtype`, its softmax in float32.

Dimensions: B clips, L queries, S keys, D features, H heads, K features per head.
"""

import functools
from collections.abc import Callable
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike


@flax.struct.dataclass
class KeysValues:
    """The keys and values that an attention layer attends to."""

    keys: jax.Array  # [B, H, S, K]
    values: jax.Array  # [B, H, S, K]

    def write(self, new: Self, slot: jax.Array) -> Self:
        """Return these keys and values with `new` ones from `slot` on."""
        update = functools.partial(lax.dynamic_update_slice_in_dim, start_index=slot, axis=2)
        return jax.tree.map(update, self, new)


class Attention(nnx.Module):
    """Multi-head attention with biases (Vaswani et al. 2017); its memory may have another width."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        dropout: float,
        memory_d_model: int | None = None,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        linear = functools.partial(nnx.Linear, out_features=d_model, dtype=dtype, rngs=rngs)
        memory = memory_d_model or d_model
        self.q_proj, self.k_proj, self.v_proj = linear(d_model), linear(memory), linear(memory)
        self.out_proj = linear(d_model)
        self.dropout = nnx.Dropout(dropout)
        self.num_heads = num_heads

    def keys_values(self, states_BxSxD: jax.Array) -> KeysValues:
        """Return the keys and values of states."""
        return KeysValues(self._heads(self.k_proj(states_BxSxD)), self._heads(self.v_proj(states_BxSxD)))

    def __call__(
        self, hidden_BxLxD: jax.Array, past: KeysValues, mask_BxLxS: jax.Array, rngs: nnx.Rngs | None
    ) -> jax.Array:
        """Return the attended states [B, L, D], finite even without any key."""
        query_BxHxLxK = self._heads(self.q_proj(hidden_BxLxD))
        query_BxHxLxK = query_BxHxLxK * query_BxHxLxK.shape[-1] ** -0.5
        scores_BxHxLxS = jnp.einsum(
            "BHLK,BHSK->BHLS", query_BxHxLxK, past.keys, preferred_element_type=jnp.float32
        )
        lowest = jnp.finfo(jnp.float32).min  # the softmax of -inf everywhere would be NaN
        scores_BxHxLxS = jnp.where(mask_BxLxS[:, None], scores_BxHxLxS, lowest)
        return self._attend(self.dropout(jax.nn.softmax(scores_BxHxLxS), rngs=rngs), past.values)

    def _attend(self, weights_BxHxLxS: jax.Array, values_BxHxSxK: jax.Array) -> jax.Array:
        """Project the weighted values of all heads to [B, L, D]."""
        weights_BxHxLxS = weights_BxHxLxS.astype(values_BxHxSxK.dtype)
        attended_BxLxHxK = jnp.einsum("BHLS,BHSK->BLHK", weights_BxHxLxS, values_BxHxSxK)
        return self.out_proj(attended_BxLxHxK.reshape(*attended_BxLxHxK.shape[:2], -1))

    def _heads(self, x_BxLxD: jax.Array) -> jax.Array:
        """Split heads as [B, H, L, K]; no step copies a cache."""
        return x_BxLxD.reshape(*x_BxLxD.shape[:2], self.num_heads, -1).swapaxes(1, 2)


MakeAttention = Callable[..., Attention]  # with the arguments of Attention
