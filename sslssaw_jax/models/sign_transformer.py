"""The transformer of signjoey (Camgoz et al. 2020), for SLRT and GASLT.

Video positions and word embeddings pass through masked BatchNorm and softsign, unscaled; a question, if read,
comes before the video.

B clips, T positions in time, L tokens, D features, V vocabulary.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import fraction, group, positive, require_divisor
from sslssaw_jax.models.attention import Attention, MakeAttention
from sslssaw_jax.models.batch_norm import BatchNorm
from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.models.decoder_inputs import Stream
from sslssaw_jax.models.fusion import concatenate_valid
from sslssaw_jax.models.gloss_head import GlossHeadConfig, LinearHead
from sslssaw_jax.models.precision import Embed, FloatLinear
from sslssaw_jax.models.temporal_inception import InceptionEmbedding
from sslssaw_jax.models.transformer import Decoder, Encoder, SinusoidalPositions, TransformerConfig
from sslssaw_jax.models.video_embedding import VideoEmbedding


@dataclass(frozen=True)
class SignTransformerConfig(TransformerConfig):
    """Sizes of the transformer, as in both public codes, and what it reads."""

    d_model: int = positive(512)
    ffn_dim: int = positive(2048)
    activation: Literal["gelu", "relu"] = "relu"
    embedding_dropout: float = fraction(0.1)  # of what enters the layers; `dropout` is inside them
    cnn: CNNConfig = group(CNNConfig)
    encoder_layers: int = positive(3)
    decoder_layers: int = positive(3)
    heads: int = positive(8)
    # of the stage `recognize`
    gloss_head: GlossHeadConfig = group(GlossHeadConfig, stages=("recognize",))
    reads_question: bool = True  # False: the published system, without the paper's question

    def __post_init__(self) -> None:
        require_divisor("heads", self.heads, self.d_model)


class SignTransformer(nnx.Module):
    """A transformer from video, and a question if read, to a sentence.

    `video` embeds what is read from a clip. With `num_glosses`, `gloss_head` names glosses from the
    encoder's states.
    """

    def __init__(
        self,
        config: SignTransformerConfig,
        vocab_size: int,
        attention: MakeAttention = Attention,
        *,
        num_glosses: int = 0,
        video: VideoEmbedding | InceptionEmbedding,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        d_model = config.d_model
        self.video: VideoEmbedding | InceptionEmbedding = video
        init = nnx.initializers.xavier_uniform()
        self.table = Embed(vocab_size, d_model, embedding_init=init, dtype=dtype, rngs=rngs)
        self.target_norm = BatchNorm(d_model, dtype=dtype, rngs=rngs)
        self.reads_question = config.reads_question
        if self.reads_question:
            self.question_norm = BatchNorm(d_model, dtype=dtype, rngs=rngs)
        positions = partial(SinusoidalPositions, dropout=config.embedding_dropout)
        self.encoder = Encoder(
            config.encoder_layers, config.heads, config, attention, positions, dtype=dtype, rngs=rngs
        )
        self.decoder = Decoder(config.decoder_layers, config.heads, config, positions, dtype=dtype, rngs=rngs)
        if num_glosses:
            self.gloss_head = LinearHead(GlossHeadConfig(), d_model, num_glosses, dtype=dtype, rngs=rngs)
        self.head = FloatLinear(d_model, vocab_size, use_bias=False, dtype=dtype, rngs=rngs)

    def embed_target(self, ids_BxL: jax.Array, mask_BxL: jax.Array | None = None) -> jax.Array:
        """Embed the decoder's words as [B, L, D], by default without mask."""
        return self._embed(self.target_norm, ids_BxL, mask_BxL)

    def _embed(self, norm: BatchNorm, ids_BxL: jax.Array, mask_BxL: jax.Array | None) -> jax.Array:
        mask = None if mask_BxL is None else mask_BxL[..., None]
        return nnx.soft_sign(norm(self.table(ids_BxL), mask=mask))

    def encode(
        self,
        question_BxL: jax.Array,
        question_mask_BxL: jax.Array,
        video: tuple[jax.Array, jax.Array],
        *,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Encode `(video_BxTxD, mask_BxT)` after the question, if read, as states and mask."""
        if self.reads_question:
            words_BxLxD = self._embed(self.question_norm, question_BxL, question_mask_BxL)
            video = concatenate_valid(words_BxLxD, question_mask_BxL, *video)
        joint_BxTxD, mask_BxT = video
        return self.encoder(joint_BxTxD, mask_BxT, rngs), mask_BxT

    def decode(
        self,
        stream: Stream,
        states_BxTxD: jax.Array,
        mask_BxT: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Return logits `[B,L,V]` at each position from the positions before it."""
        embedded = self.embed_target(stream.tokens, stream.mask)
        return self.logits(self.decoder(embedded, stream.mask, states_BxTxD, mask_BxT, rngs))

    def logits(self, hidden_BxLxD: jax.Array) -> jax.Array:
        """Return logits of the next token, f32[B, L, V]."""
        return self.head(hidden_BxLxD).astype(jnp.float32)
