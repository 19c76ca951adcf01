"""Sizes and token embedding of Hugging Face's `MBartForConditionalGeneration` (Liu et al. 2020).

Encoder and decoder (`models/transformer.py`) read embedded sequences; the token embedding belongs to the
whole model, so that embedding and tied head are one array.

Dimensions: B clips, L tokens, D features, V vocabulary.
"""

import functools
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from sslssaw_jax.config.checks import positive, require_divisor, setting
from sslssaw_jax.models.precision import Embed
from sslssaw_jax.models.transformer import TransformerConfig


@dataclass(frozen=True)
class PretrainedMBartConfig(TransformerConfig):
    """Sizes and pretrained weights of mBART."""

    tied_head: bool = True  # the output head is the token embedding
    weights: str | None = setting(None)  # folder or hub name of weights and tokenizer; None: from scratch
    pretrained_layers: Literal["first", "spread"] = "first"  # which layers a shallower part takes


@dataclass(frozen=True)
class MBartConfig(PretrainedMBartConfig):
    """Sizes of the mBART parts of SSL-SSAW."""

    text_layers: int = positive(12)
    text_heads: int = positive(16)
    video_layers: int = positive(3)
    video_heads: int = positive(8)
    decoder_layers: int = positive(3)
    decoder_heads: int = positive(8)

    def __post_init__(self) -> None:
        for key in ("text_heads", "video_heads", "decoder_heads"):
            require_divisor(key, getattr(self, key), self.d_model)


class TokenEmbedding(nnx.Module):
    """The token embedding and the head, one table if tied."""

    def __init__(
        self, vocab_size: int, d_model: int, *, tied_head: bool = True, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        # Scaled by sqrt(D), embedded tokens have unit variance; so have the first logits.
        init = nnx.initializers.normal(d_model**-0.5)
        self.scale = d_model**0.5
        table = functools.partial(Embed, vocab_size, d_model, embedding_init=init, dtype=dtype, rngs=rngs)
        self.embed = table()
        self.tied_head = tied_head
        if not tied_head:
            self.lm_head = table()
        self.final_logits_bias = nnx.Param(jnp.zeros(vocab_size))

    def __call__(self, ids_BxL: jax.Array) -> jax.Array:
        """Embed tokens as [B, L, D], scaled by sqrt(D)."""
        return self.embed(ids_BxL) * self.scale

    def logits(self, hidden_BxLxD: jax.Array) -> jax.Array:
        """Return logits of the next token, f32[B, L, V]."""
        # A buffer in the reference: saved with the parameters, never trained.
        bias_V = lax.stop_gradient(self.final_logits_bias[...])
        head = self.embed if self.tied_head else self.lm_head
        hidden, table = head.promote_dtype((hidden_BxLxD, head.embedding[...]), dtype=head.dtype)
        # `head.attend` would round the logits to `dtype`
        return jnp.dot(hidden, table.T, preferred_element_type=jnp.float32) + bias_V
