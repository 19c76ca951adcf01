"""Stage 1 (Sec. 3.2): a video tower and a text tower in one feature space, and masked words restored.

B clips, T positions in time, L tokens, D features, V vocabulary.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.experiment import DataConfig
from sslssaw_jax.config.model import ModelConfig
from sslssaw_jax.models.decoder_inputs import Stream
from sslssaw_jax.models.mbart import Decoder, Encoder, TokenEmbedding
from sslssaw_jax.models.mbert import MBert
from sslssaw_jax.models.video_embedding import VideoEmbedding


class PretrainModel(nnx.Module):
    """Both towers, their projections (Eq. 1) and the decoder that restores masked words (Eq. 2)."""

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
        d_model = mbart.d_model
        self.embedding = TokenEmbedding(
            vocab_size, d_model, tied_head=mbart.tied_head, dtype=dtype, rngs=rngs
        )
        self.video = VideoEmbedding(
            config,
            image_size=data.image_size,
            max_frames=data.max_frames,
            dtype=dtype,
            rngs=rngs,
        )
        self.cls = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (d_model,), jnp.float32))
        self.video_encoder = Encoder(mbart.video_layers, mbart.heads, mbart, dtype=dtype, rngs=rngs)
        self.text_encoder: Encoder | MBert
        if config.text == "mbert":
            self.text_encoder = MBert(config.mbert, bert_vocab_size, d_model, dtype=dtype, rngs=rngs)
        else:
            self.text_encoder = Encoder(mbart.text_layers, mbart.text_heads, mbart, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(mbart.decoder_layers, mbart.heads, mbart, dtype=dtype, rngs=rngs)
        self.video_projection = nnx.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        self.text_projection = nnx.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        self.pooled = config.alignment == "pooled"
        self.logit_scale = nnx.Param(jnp.asarray(math.log(1 / 0.07), jnp.float32))  # learned, as in CLIP

    def video_features(
        self,
        frames_NxHxWx3: jax.Array,
        frame_mask_N: jax.Array,
        frame_start_B: jax.Array,
        frame_count_B: jax.Array,
        valid_B: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """`I_v` of Eq. 1: the projected encoder state at the learned [CLS], `[B, 1, D]`, and its mask.

        Where sequences are aligned (Table 3): those at all positions but [CLS], `[B, T, D]`.
        """
        video_BxTxD, mask_BxT = self.video(
            frames_NxHxWx3, frame_mask_N, frame_start_B, frame_count_B, valid_B
        )
        cls_Bx1xD = jnp.broadcast_to(self.cls[...], (len(valid_B), 1, video_BxTxD.shape[-1]))
        with_cls = jnp.concatenate([cls_Bx1xD.astype(video_BxTxD.dtype), video_BxTxD], axis=1)
        mask = jnp.concatenate([valid_B[:, None], mask_BxT], axis=1)
        states = self.video_encoder(with_cls, mask, rngs)
        own = slice(None, 1) if self.pooled else slice(1, None)
        return self.video_projection(states[:, own]), mask[:, own]

    def text_features(
        self, text_BxL: jax.Array, mask_BxL: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """`I_s` of Eq. 1: the projected encoder state at `</s>` (mBERT: `[SEP]`), `[B, 1, D]`, and its mask.

        Where sequences are aligned (Table 3): those of the words and of that end, `[B, L - 1, D]`.
        The parent project's argmax picks the language code behind `</s>`.
        """
        states_BxLxD = self._read(text_BxL, mask_BxL, rngs)
        # without mBERT's [CLS] in front or mBART's language code behind, the end is the last of both
        own = slice(1, None) if isinstance(self.text_encoder, MBert) else slice(None, -1)
        states_BxLxD, mask_BxL = states_BxLxD[:, own], mask_BxL[:, 1:]
        if self.pooled:
            end_Bx1 = jnp.maximum(mask_BxL.sum(axis=1, keepdims=True) - 1, 0)
            states_BxLxD = jnp.take_along_axis(states_BxLxD, end_Bx1[..., None], axis=1)
            mask_BxL = mask_BxL[:, :1]
        return self.text_projection(states_BxLxD), mask_BxL

    def restore_words(
        self, masked_BxL: jax.Array, mask_BxL: jax.Array, target: Stream, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Logits `[B, L, V]` for the sentence, read from its masked copy (Eq. 2)."""
        states_BxLxD = self._read(masked_BxL, mask_BxL, rngs)
        embedded_BxLxD = self.embedding(target.tokens)
        return self.embedding.logits(self.decoder(embedded_BxLxD, target.mask, states_BxLxD, mask_BxL, rngs))

    def _read(self, text_BxL: jax.Array, mask_BxL: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """The text tower's states [B, L, D]."""
        text = text_BxL if isinstance(self.text_encoder, MBert) else self.embedding(text_BxL)
        return self.text_encoder(text, mask_BxL, rngs)
