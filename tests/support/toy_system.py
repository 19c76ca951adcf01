"""A system in one file: the mean colour of a clip to a sentence."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import positive
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.augment import clip_of_frame
from sslssaw_jax.models.beam_search import EncodedModel
from sslssaw_jax.models.decoder_inputs import text_stream
from sslssaw_jax.models.mbart import TokenEmbedding
from sslssaw_jax.models.transformer import Decoder, TransformerConfig
from sslssaw_jax.stages.losses import cross_entropy
from sslssaw_jax.stages.stage import Stage, StageInputs, System, Translation
from sslssaw_jax.stages.translation import language_prompt
from sslssaw_jax.stages.video import split_key
from sslssaw_jax.types import Batch


@dataclass(frozen=True)
class ToyConfig(TransformerConfig):
    d_model: int = positive(16)
    ffn_dim: int = positive(32)


class ToyModel(nnx.Module):
    def __init__(self, config: ToyConfig, vocab_size: int, rngs: nnx.Rngs):
        self.project = nnx.Linear(3, config.d_model, rngs=rngs)
        self.norm = nnx.BatchNorm(config.d_model, rngs=rngs)
        self.embedding = TokenEmbedding(vocab_size, config.d_model, dtype=jnp.float32, rngs=rngs)
        self.decoder = Decoder(1, 2, config, rngs=rngs)

    def encode(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        clip_N, inside_N = clip_of_frame(batch)
        colour_Nx3 = jnp.where(inside_N[:, None], batch.frames.mean(axis=(1, 2)) / 255, 0)
        sum_Bx3 = jnp.zeros((len(batch.valid), 3)).at[clip_N].add(colour_Nx3)
        return self.norm(self.project(sum_Bx3 / 30))[:, None], batch.valid[:, None]


def make_stages(config: Config, inputs: StageInputs) -> list[Stage]:
    def make_model(key):
        return ToyModel(config.model, inputs.vocab_size, nnx.Rngs(key))

    def loss(model, batch, key, counts):
        target = text_stream(batch.decoder_texts.target, batch.decoder_texts.target_mask)
        read, rngs, scored = model.encode(batch), split_key(key)[1], (target.labels, target.scored)
        hidden = model.decoder(model.embedding(target.tokens), target.mask, *read, rngs)
        return cross_entropy(model.embedding.logits(hidden), *scored, counts.target_tokens), {}

    def encode(model, batch):
        return EncodedModel(model.decoder, model.embedding, model.embedding.logits, *model.encode(batch))

    how = Translation(encode, language_prompt)
    return [Stage("translate", make_model, loss, reads_question=False, translation=how)]


SYSTEM = System(ToyConfig, make_stages)
