"""A video tower and a text tower in one feature space (Sec. 3.2), and the decoder that restores words.

B clips, T positions in time, L tokens, D features, V vocabulary.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.models.decoder_inputs import Stream
from sslssaw_jax.models.mbart import MBartConfig, TokenEmbedding
from sslssaw_jax.models.mbert import MBert, MBertConfig
from sslssaw_jax.models.transformer import Decoder, Encoder
from sslssaw_jax.models.video_embedding import VideoEmbedding

IdsAndMask = tuple[jax.Array, jax.Array]  # i32[B, L], bool[B, L]


class TwoTowers(nnx.Module):
    """A model of both towers, their projections (Eq. 1) and the decoder that restores words (Eq. 2).

    Args:
        mbart: The sizes.
        vocab_size: V.
        make_video: Makes the video embedding.
        mbert: The text tower in place of mBART, and its vocabulary size, if any.
        pooled: Whether a tower's feature is one vector; otherwise it is a sequence (Table 3).
        dtype: The dtype of the computation.
        rngs: Random keys.
    """

    def __init__(
        self,
        mbart: MBartConfig,
        vocab_size: int,
        make_video: Callable[[nnx.Rngs], VideoEmbedding],
        *,
        mbert: tuple[MBertConfig, int] | None = None,
        pooled: bool = True,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        d_model = mbart.d_model
        self.embedding = TokenEmbedding(
            vocab_size, d_model, tied_head=mbart.tied_head, dtype=dtype, rngs=rngs
        )
        self.video = make_video(rngs)
        self.cls = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (d_model,), jnp.float32))
        self.video_encoder = Encoder(mbart.video_layers, mbart.video_heads, mbart, dtype=dtype, rngs=rngs)
        self.text_encoder: Encoder | MBert
        if mbert:
            config, bert_size = mbert
            self.text_encoder = MBert(config, bert_size, d_model, dtype=dtype, rngs=rngs)
        else:
            self.text_encoder = Encoder(mbart.text_layers, mbart.text_heads, mbart, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(mbart.decoder_layers, mbart.decoder_heads, mbart, dtype=dtype, rngs=rngs)
        self.video_projection = nnx.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        self.text_projection = nnx.Linear(d_model, d_model, dtype=dtype, rngs=rngs)
        self.pooled = pooled
        self.logit_scale = nnx.Param(jnp.asarray(math.log(1 / 0.07), jnp.float32))  # learned, as in CLIP

    def video_features(
        self, video_BxTxD: jax.Array, mask_BxT: jax.Array, valid_B: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return `I_v` (Eq. 1), the projected state at [CLS], and the mask.

        For aligned sequences (Table 3): the projected states at all positions but [CLS], `[B, T, D]`.
        """
        cls_Bx1xD = jnp.broadcast_to(self.cls[...], (len(valid_B), 1, video_BxTxD.shape[-1]))
        with_cls = jnp.concatenate([cls_Bx1xD.astype(video_BxTxD.dtype), video_BxTxD], axis=1)
        mask = jnp.concatenate([valid_B[:, None], mask_BxT], axis=1)
        states = self.video_encoder(with_cls, mask, rngs)
        kept = slice(None, 1) if self.pooled else slice(1, None)
        return self.video_projection(states[:, kept]), mask[:, kept]

    def read(self, text_BxL: jax.Array, mask_BxL: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return the text tower's states, [B, L, D]."""
        text = text_BxL if isinstance(self.text_encoder, MBert) else self.embedding(text_BxL)
        return self.text_encoder(text, mask_BxL, rngs)

    def read_both(
        self, first: IdsAndMask, second: IdsAndMask, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return the states of two texts of each clip, read together.

        One pass over twice the rows runs half as many kernels as two passes.
        """
        text_RxL, mask_RxL = (
            jnp.stack(pair, axis=1).reshape(-1, pair[0].shape[1]) for pair in zip(first, second)
        )
        states_RxLxD = self.read(text_RxL, mask_RxL, rngs)
        states_BxSxLxD = states_RxLxD.reshape(-1, 2, *states_RxLxD.shape[1:])
        return states_BxSxLxD[:, 0], states_BxSxLxD[:, 1]

    def text_features(self, states_BxLxD: jax.Array, mask_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return `I_s` (Eq. 1), the projected state at the end, and mask.

        The end is `</s>`, or mBERT's `[SEP]`; the parent project's argmax picks the language code after
        `</s>`. For aligned sequences (Table 3): the projected states of words and end, `[B, L - 1, D]`.
        """
        # without mBERT's leading [CLS] or mBART's trailing language code, the end comes last
        kept = slice(1, None) if isinstance(self.text_encoder, MBert) else slice(None, -1)
        states_BxLxD, mask_BxL = states_BxLxD[:, kept], mask_BxL[:, 1:]
        if self.pooled:
            end_Bx1 = jnp.maximum(mask_BxL.sum(axis=1, keepdims=True) - 1, 0)
            states_BxLxD = jnp.take_along_axis(states_BxLxD, end_Bx1[..., None], axis=1)
            mask_BxL = mask_BxL[:, :1]
        return self.text_projection(states_BxLxD), mask_BxL

    def restore_words(
        self, states_BxLxD: jax.Array, mask_BxL: jax.Array, target: Stream, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return the sentence's logits `[B,L,V]` from its masked copy (Eq. 2)."""
        embedded_BxLxD = self.embedding(target.tokens)
        return self.embedding.logits(self.decoder(embedded_BxLxD, target.mask, states_BxLxD, mask_BxL, rngs))
