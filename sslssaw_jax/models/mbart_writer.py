"""mBART that writes from any sequence of embeddings: glosses, words, or a recogniser's output.

Parts that two models have in common keep their names, so that a later stage can start from an earlier one.

B clips, T positions in time or of what is read, G glosses, L tokens, D features, V vocabulary.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import fraction, positive, require_divisor
from sslssaw_jax.models.decoder_inputs import Stream
from sslssaw_jax.models.mbart import PretrainedMBartConfig, TokenEmbedding
from sslssaw_jax.models.precision import Embed
from sslssaw_jax.models.transformer import Decoder, Encoder, TransformerConfig
from sslssaw_jax.models.video_embedding import prefix_mask


@dataclass(frozen=True)
class MBartWriterConfig(PretrainedMBartConfig):
    """Sizes of mBART-large-cc25, with the dropout of MMTLB."""

    dropout: float = fraction(0.3)
    attention_dropout: float = fraction(0.1)
    encoder_layers: int = positive(12)
    decoder_layers: int = positive(12)
    heads: int = positive(16)

    def __post_init__(self) -> None:
        require_divisor("heads", self.heads, self.d_model)


@dataclass(frozen=True)
class TextToGlossConfig(TransformerConfig):
    """Sizes of a writer of glosses, which starts from scratch."""

    d_model: int = positive(512)
    ffn_dim: int = positive(2048)
    encoder_layers: int = positive(3)
    decoder_layers: int = positive(3)
    heads: int = positive(8)
    tied_head: bool = True  # the output head is the embedding of glosses

    def __post_init__(self) -> None:
        require_divisor("heads", self.heads, self.d_model)


class MBartWriter(nnx.Module):
    """mBART's encoder and decoder, with rows for `</s>` and the language after the encoder's input."""

    def __init__(
        self,
        config: MBartWriterConfig | TextToGlossConfig,
        vocab_size: int,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        d_model = config.d_model
        self.scale = d_model**0.5
        self.embedding = TokenEmbedding(
            vocab_size, d_model, tied_head=config.tied_head, dtype=dtype, rngs=rngs
        )
        init = nnx.initializers.normal(d_model**-0.5)
        self.ending = nnx.Param(init(rngs.params(), (2, d_model), jnp.float32))
        self.encoder = Encoder(config.encoder_layers, config.heads, config, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(config.decoder_layers, config.heads, config, dtype=dtype, rngs=rngs)

    def read(
        self, embedded_BxTxD: jax.Array, mask_BxT: jax.Array, valid_B: jax.Array, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        """Encode unscaled embeddings as states and mask; padding follows a clip."""
        x_BxTxD, mask_BxT = with_ending(embedded_BxTxD, mask_BxT, valid_B, self.ending[...])
        return self.encoder(x_BxTxD * self.scale, mask_BxT, rngs), mask_BxT

    def write(
        self, stream: Stream, states_BxTxD: jax.Array, mask_BxT: jax.Array, rngs: nnx.Rngs | None
    ) -> jax.Array:
        """Return logits `[B,L,V]` at each position from the positions before it."""
        embedded_BxLxD = self.embedding(stream.tokens)
        hidden_BxLxD = self.decoder(embedded_BxLxD, stream.mask, states_BxTxD, mask_BxT, rngs)
        return self.embedding.logits(hidden_BxLxD)


def with_ending(
    embedded_BxTxD: jax.Array, mask_BxT: jax.Array, valid_B: jax.Array, ending_ExD: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Put rows for `</s>` and the language after each clip's positions."""
    length_Bx1 = mask_BxT.sum(axis=1, keepdims=True)
    x_BxTxD = jnp.pad(embedded_BxTxD, [(0, 0), (0, len(ending_ExD)), (0, 0)])
    place_T = jnp.arange(x_BxTxD.shape[1])
    for number, row_D in enumerate(ending_ExD):
        here_BxTx1 = (place_T == length_Bx1 + number)[..., None]
        x_BxTxD = jnp.where(here_BxTx1, row_D.astype(x_BxTxD.dtype), x_BxTxD)
    return x_BxTxD, prefix_mask(length_Bx1[:, 0] + len(ending_ExD), valid_B, len(place_T))


class Rewriter(MBartWriter):
    """A writer that reads a sequence of ids, of glosses or tokens, through their own embedding."""

    def __init__(
        self,
        config: MBartWriterConfig | TextToGlossConfig,
        vocab_size: int,
        source_size: int,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        super().__init__(config, vocab_size, dtype=dtype, rngs=rngs)
        init = nnx.initializers.normal(config.d_model**-0.5)
        self.source_embedding = Embed(
            source_size, config.d_model, embedding_init=init, dtype=dtype, rngs=rngs
        )

    def read_ids(
        self, ids_BxT: jax.Array, mask_BxT: jax.Array, valid_B: jax.Array, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        """Encode ids as states and mask."""
        return self.read(self.source_embedding(ids_BxT), mask_BxT, valid_B, rngs)


class Projection(nnx.Module):
    """A mapper of MMTLB from the recogniser's features to mBART's: Linear, ReLU, Linear."""

    def __init__(self, inputs: int, d_model: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(inputs, d_model, dtype=dtype, rngs=rngs)
        self.output = nnx.Linear(d_model, d_model, dtype=dtype, rngs=rngs)

    def __call__(self, feature_BxTxC: jax.Array) -> jax.Array:
        return self.output(nnx.relu(self.hidden(feature_BxTxC)))


def make_mapper(
    kind: str, features: int, num_glosses: int, d_model: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
) -> Projection | nnx.Linear:
    """Make a `projection` of features, or an `embedding` of glosses."""
    if kind == "projection":
        return Projection(features, d_model, dtype=dtype, rngs=rngs)
    return nnx.Linear(num_glosses, d_model, use_bias=False, dtype=dtype, rngs=rngs)


def map_head(mapper: Projection | nnx.Linear, logits_BxTxG: jax.Array, feature_BxTxC: jax.Array) -> jax.Array:
    """Return what mBART reads from a head, [B, T, D]."""
    projects = isinstance(mapper, Projection)
    return mapper(feature_BxTxC if projects else jax.nn.softmax(logits_BxTxG))
