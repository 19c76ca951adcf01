"""The mBERT text tower (Devlin et al. 2019, Table 6), projected to D.

This is `BertModel` of Hugging Face. Unlike mBART, it is post-norm, has its own embedding, and adds the
learned type of its (only) segment. Padding may lie anywhere, as in `models/transformer.py`.

Dimensions: B clips, L tokens, E BERT's features, D features of the whole model.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from sslssaw_jax.config.checks import fraction, positive, require_divisor, setting
from sslssaw_jax.models.attention import Attention
from sslssaw_jax.models.remat import Blocks
from sslssaw_jax.models.transformer import ACTIVATIONS

_NUM_SEGMENTS = 2  # in the pretrained table; a sentence alone is the first


@dataclass(frozen=True)
class MBertConfig:
    """Sizes of the mBERT text tower; those of `bert-base-multilingual-cased` by default."""

    d_model: int = positive(768)
    ffn_dim: int = positive(3072)
    num_layers: int = positive(12)
    heads: int = positive(12)
    max_positions: int = positive(512)
    dropout: float = fraction(0.1)
    attention_dropout: float = fraction(0.1)
    weights: str | None = setting(None)  # folder or hub name of weights and tokenizer; None: from scratch
    pretrained_layers: Literal["first", "spread"] = "first"  # which layers a shallower tower takes

    def __post_init__(self) -> None:
        require_divisor("heads", self.heads, self.d_model)


def _layer_norm(d_model: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(d_model, epsilon=1e-12, dtype=jnp.float32, use_fast_variance=False, rngs=rngs)


class BertEmbeddings(nnx.Module):
    """The normalized sum of token, position and segment embeddings."""

    def __init__(self, config: MBertConfig, vocab_size: int, *, rngs: nnx.Rngs):
        self.word_embeddings = nnx.Embed(vocab_size, config.d_model, rngs=rngs)
        self.position_embeddings = nnx.Embed(config.max_positions, config.d_model, rngs=rngs)
        self.token_type_embeddings = nnx.Embed(_NUM_SEGMENTS, config.d_model, rngs=rngs)
        self.layer_norm = _layer_norm(config.d_model, rngs)
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(self, ids_BxL: jax.Array, mask_BxL: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        positions_BxL = jnp.maximum(jnp.cumsum(mask_BxL, axis=1) - 1, 0)
        embedded_BxLxE = self.word_embeddings(ids_BxL) + self.position_embeddings(positions_BxL)
        segment_E = self.token_type_embeddings.embedding[0]
        return self.dropout(self.layer_norm(embedded_BxLxE + segment_E), rngs=rngs)


class BertLayer(nnx.Module):
    """A post-norm layer of self-attention and feed-forward."""

    def __init__(self, config: MBertConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.attention = Attention(
            config.d_model, config.heads, config.attention_dropout, dtype=dtype, rngs=rngs
        )
        self.attention_layer_norm = _layer_norm(config.d_model, rngs)
        self.fc1 = nnx.Linear(config.d_model, config.ffn_dim, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(config.ffn_dim, config.d_model, dtype=dtype, rngs=rngs)
        self.final_layer_norm = _layer_norm(config.d_model, rngs)
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(self, hidden_BxLxE: jax.Array, mask_Bx1xL: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        past = self.attention.keys_values(hidden_BxLxE)
        attended_BxLxE = self.attention(hidden_BxLxE, past, mask_Bx1xL, rngs)
        hidden_BxLxE = self.attention_layer_norm(hidden_BxLxE + self.dropout(attended_BxLxE, rngs=rngs))
        inner = self.fc2(ACTIVATIONS["gelu"](self.fc1(hidden_BxLxE)))
        return self.final_layer_norm(hidden_BxLxE + self.dropout(inner, rngs=rngs))


class BertLayers(Blocks):
    """Layers of BERT without its embeddings."""

    def __init__(self, config: MBertConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.layers = nnx.List([BertLayer(config, dtype=dtype, rngs=rngs) for _ in range(config.num_layers)])

    def __call__(
        self, hidden_BxLxE: jax.Array, mask_BxL: jax.Array, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return the last states f32[B, L, E], meaningless at padding."""
        for layer in self.layers:
            hidden_BxLxE = self.call(layer, hidden_BxLxE, mask_BxL[:, None], rngs)
        return hidden_BxLxE


class Bert(BertLayers):
    """BERT's embeddings and encoder."""

    def __init__(self, config: MBertConfig, vocab_size: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.embeddings = BertEmbeddings(config, vocab_size, rngs=rngs)
        super().__init__(config, dtype=dtype, rngs=rngs)

    def __call__(self, ids_BxL: jax.Array, mask_BxL: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return the last states f32[B, L, E], meaningless at padding."""
        return super().__call__(self.embeddings(ids_BxL, mask_BxL, rngs), mask_BxL, rngs)


class MBert(nnx.Module):
    """BERT with a Linear that gives its states the width of mBART's."""

    def __init__(
        self, config: MBertConfig, vocab_size: int, d_model: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.bert = Bert(config, vocab_size, dtype=dtype, rngs=rngs)
        self.projection = nnx.Linear(config.d_model, d_model, dtype=dtype, rngs=rngs)

    def __call__(self, ids_BxL: jax.Array, mask_BxL: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return projected states [B, L, D] of BERT's `[CLS] tokens [SEP]`."""
        return self.projection(self.bert(ids_BxL, mask_BxL, rngs))
