"""Stage 2 (Sec. 3.3): question and video fused, and an mBART encoder-decoder.

B clips, T encoder positions, L tokens, D features, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.experiment import DataConfig
from sslssaw_jax.config.model import ModelConfig
from sslssaw_jax.models.copy_gate import CopyGate
from sslssaw_jax.models.decoder_inputs import Stream
from sslssaw_jax.models.fusion import FUSIONS, join
from sslssaw_jax.models.gloss_attention import ATTENTIONS
from sslssaw_jax.models.mbart import Decoder, Encoder, TokenEmbedding
from sslssaw_jax.models.mbert import MBert
from sslssaw_jax.models.video_embedding import VideoEmbedding


class Encoded(NamedTuple):
    """What the decoder attends to, and how the fusion weighted each position."""

    states: jax.Array  # [B, T, D]
    mask: jax.Array  # bool[B, T]
    gate: jax.Array  # f32[B, T]
    question: jax.Array  # i32[B, L]; the states begin with those of its tokens, where the model reads it
    question_mask: jax.Array  # bool[B, L]


class Translator(nnx.Module):
    """SSL-SSAW and its ablations: fusion, `inputs` and `ssl` follow the configuration."""

    def __init__(
        self,
        config: ModelConfig,
        data: DataConfig,
        vocab_size: int,
        bert_vocab_size: int = 0,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        mbart = config.mbart
        self.reads_question = config.inputs != "sign"
        self.reads_sign = config.inputs != "question"
        self.embedding = TokenEmbedding(
            vocab_size, mbart.d_model, tied_head=mbart.tied_head, dtype=dtype, rngs=rngs
        )
        self.embeds_with_bert = self.reads_question and config.text == "mbert"
        if self.embeds_with_bert:
            self.text_encoder = MBert(config.mbert, bert_vocab_size, mbart.d_model, dtype=dtype, rngs=rngs)
        if self.reads_sign:
            self.video = VideoEmbedding(
                config,
                image_size=data.image_size,
                max_frames=data.max_frames,
                dtype=dtype,
                rngs=rngs,
            )
        self.fusion = FUSIONS[config.fusion.kind](mbart, config.fusion, dtype=dtype, rngs=rngs)
        attention = ATTENTIONS[config.attention]
        self.encoder = Encoder(mbart.video_layers, mbart.heads, mbart, attention, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(mbart.decoder_layers, mbart.heads, mbart, dtype=dtype, rngs=rngs)
        self.copies = config.copy_gate
        if self.copies:
            self.copy_gate = CopyGate(mbart.d_model, dtype=dtype, rngs=rngs)

    def encode(
        self,
        question_BxL: jax.Array,
        question_mask_BxL: jax.Array,
        video: tuple[jax.Array, jax.Array] | None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Encoded:
        """Question tokens and the video embedding `(video_BxTxD, mask_BxT)` through fusion and encoder.

        The question's embedding is mBART's, or the states of mBERT, which reads it in its own tokens.
        """
        parts = [video] if video else []
        if self.reads_question:
            embedded_BxLxD = (
                self.text_encoder(question_BxL, question_mask_BxL, rngs)
                if self.embeds_with_bert
                else self.embedding(question_BxL)
            )
            parts.insert(0, (embedded_BxLxD, question_mask_BxL))
        joint_BxTxD, mask_BxT = parts[0] if len(parts) == 1 else join(*parts[0], *parts[1])
        fused_BxTxD, gate_BxT = self.fusion(joint_BxTxD, mask_BxT, rngs)
        states_BxTxD = self.encoder(fused_BxTxD, mask_BxT, rngs)
        return Encoded(states_BxTxD, mask_BxT, gate_BxT, question_BxL, question_mask_BxL)

    def decode(self, stream: Stream, encoded: Encoded, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Logits `[B, L, V]` for every position of the stream, each seeing only what stands before it."""
        embedded = self.embedding(stream.tokens)
        hidden = self.decoder(embedded, stream.mask, encoded.states, encoded.mask, rngs)
        return self.logits(hidden, encoded)

    def logits(self, hidden_RxLxD: jax.Array, encoded: Encoded) -> jax.Array:
        """What the decoder's states say of the next token, f32[R, L, V], up to a constant.

        R rows are the clips, or clips x beams with the beams innermost.
        """
        logits_RxLxV = self.embedding.logits(hidden_RxLxD)
        if not self.copies:
            return logits_RxLxV
        states_BxSxD = encoded.states[:, : encoded.question.shape[1]]
        return self.copy_gate(
            hidden_RxLxD, logits_RxLxV, states_BxSxD, encoded.question, encoded.question_mask
        )
