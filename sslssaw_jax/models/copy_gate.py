"""A copy gate over the question's tokens (pointer-generator, See et al. 2017).

B clips, R rows (clips, or clips x beams, beams innermost), L decoder positions, S question tokens,
D features, V vocabulary.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

EPSILON = 1e-9  # a probability that float32 can take the logarithm of


class CopyGate(nnx.Module):
    """A learned mixture of the vocabulary's distribution and copies of question tokens."""

    def __init__(self, d_model: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.query = nnx.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        self.key = nnx.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        self.gate = nnx.Linear(d_model, 1, rngs=rngs)

    def __call__(
        self,
        hidden_RxLxD: jax.Array,
        logits_RxLxV: jax.Array,
        states_BxSxD: jax.Array,
        tokens_BxS: jax.Array,
        mask_BxS: jax.Array,
    ) -> jax.Array:
        """Return log-probabilities f32[R, L, V]; rows without a question copy nothing.

        Args:
            hidden_RxLxD: The decoder's states.
            logits_RxLxV: The logits of the decoder's states over the vocabulary.
            states_BxSxD: The encoder's states of the question.
            tokens_BxS: The tokens of the question.
            mask_BxS: Where the question holds a token.
        """
        batch = len(states_BxSxD)
        by_clip = (batch, -1, hidden_RxLxD.shape[-1])
        query_BxQxD = self.query(hidden_RxLxD).reshape(by_clip)
        scores_BxQxS = jnp.einsum(
            "BQD,BSD->BQS", query_BxQxD, self.key(states_BxSxD), preferred_element_type=jnp.float32
        )
        lowest = jnp.finfo(jnp.float32).min
        scores_BxQxS = jnp.where(mask_BxS[:, None], scores_BxQxS * by_clip[-1] ** -0.5, lowest)
        copied_BxQxS = jax.nn.softmax(scores_BxQxS)
        generate_BxQx1 = jax.nn.sigmoid(self.gate(hidden_RxLxD).astype(jnp.float32)).reshape(batch, -1, 1)
        generate_BxQx1 = jnp.where(mask_BxS.any(axis=1)[:, None, None], generate_BxQx1, 1.0)
        probs_BxQxV = generate_BxQx1 * jax.nn.softmax(logits_RxLxV).reshape(batch, copied_BxQxS.shape[1], -1)

        def add(probs_QxV: jax.Array, weights_QxS: jax.Array, tokens_S: jax.Array) -> jax.Array:
            return probs_QxV.at[:, tokens_S].add(weights_QxS)

        probs_BxQxV = jax.vmap(add)(probs_BxQxV, (1 - generate_BxQx1) * copied_BxQxS, tokens_BxS)
        return jnp.log(probs_BxQxV + EPSILON).reshape(logits_RxLxV.shape)
