"""NSLT, neural sign language translation (Camgoz et al. 2018): recurrent, plain or with attention.

The defaults are the sizes of the public code (neccam/nslt); its recipe is in `configs/systems/nslt.py`. Three
points are a reconstruction: the attention vector follows TensorFlow 1's `AttentionWrapper`, which that code
calls; the CNN is the same as in every row unless `model.cnn.kind` is `alexnet`; the words are the same tokens
as in every row, not strings between spaces. A clip longer than `data.max_frames` is thinned out, while the
public code leaves it out.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import group, positive
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.models.decoder_inputs import Stream
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.precision import Embed, FloatLinear, compute_dtype
from sslssaw_jax.models.recurrent import Encoded, RecurrentConfig, RecurrentDecoder, RecurrentEncoder
from sslssaw_jax.models.video_embedding import FrameFeatures
from sslssaw_jax.stages.one_stage import one_stage
from sslssaw_jax.stages.stage import Stage, StageInputs, System
from sslssaw_jax.stages.video import embed_video, video_input
from sslssaw_jax.stages.warm_start import check_cnn_start
from sslssaw_jax.types import Batch


@dataclass(frozen=True)
class NSLTConfig(RecurrentConfig):
    """The published sizes."""

    cnn: CNNConfig = group(CNNConfig)
    embedding: int = positive(1000)  # features of a word
    reverse_source: bool = True  # reads the last frame first


class NSLT(nnx.Module):
    """A recurrent net from frames to a sentence."""

    def __init__(self, config: Config, inputs: StageInputs, *, rngs: nnx.Rngs):
        model, dtype = config.model, compute_dtype(config.compute.dtype)
        self.video = FrameFeatures(model.cnn, video_input(config, inputs), dtype=dtype, rngs=rngs)
        self.encoder = RecurrentEncoder(
            self.video.width, model, reverse=model.reverse_source, dtype=dtype, rngs=rngs
        )
        init = nnx.initializers.glorot_normal()
        self.table = Embed(inputs.vocab_size, model.embedding, embedding_init=init, dtype=dtype, rngs=rngs)
        self.decoder = RecurrentDecoder(model.embedding, model, dtype=dtype, rngs=rngs)
        self.head = FloatLinear(
            model.units, inputs.vocab_size, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs
        )

    def embed_target(self, ids_BxL: jax.Array) -> jax.Array:
        """Embed the decoder's words as [B, L, C]."""
        return self.table(ids_BxL)

    def decode(
        self, stream: Stream, encoded: Encoded, mask_BxT: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return logits `[B,L,V]` at each position from the positions before it."""
        embedded = self.embed_target(stream.tokens)
        return self.logits(self.decoder(embedded, stream.mask, encoded, mask_BxT, rngs))

    def logits(self, hidden_BxLxU: jax.Array) -> jax.Array:
        """Return logits of the next token, f32[B, L, V]."""
        return self.head(hidden_BxLxU).astype(jnp.float32)


def make_stages(config: Config, inputs: StageInputs) -> list[Stage]:
    """Make the translation stage, after the warm start if any."""

    def read(
        model: NSLT, batch: Batch, augment_key: jax.Array | None, rngs: nnx.Rngs | None
    ) -> tuple[Encoded, jax.Array]:
        frames_BxTxC, mask_BxT = embed_video(model.video, batch, config.data, augment_key)
        return model.encoder(frames_BxTxC, mask_BxT, rngs), mask_BxT

    return one_stage(config, inputs, lambda key: NSLT(config, inputs, rngs=Keys(key)), read)


SYSTEM = System(NSLTConfig, make_stages, check_cnn_start, reads=("frames", "features"))
