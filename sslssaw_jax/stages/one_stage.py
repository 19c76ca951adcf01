"""The stages of a system without stage 1: an optional warm start of the CNN, then translation."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
from flax import nnx

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.models.beam_search import CachedDecoder, EncodedModel
from sslssaw_jax.models.decoder_inputs import Stream, text_stream
from sslssaw_jax.stages.recognition import early_modules
from sslssaw_jax.stages.self_supervision import translation_loss
from sslssaw_jax.stages.stage import LossCounts, Recognition, Stage, StageInputs, Translation
from sslssaw_jax.stages.translation import ask_fewer_words, language_prompt
from sslssaw_jax.stages.video import split_key
from sslssaw_jax.stages.warm_start import warm_start_stages
from sslssaw_jax.types import Batch, Metrics


class Translating(Protocol):
    """A model that translates what it has read; its CNN, if any, is `video.cnn`."""

    decoder: CachedDecoder

    def embed_target(self, ids_BxL: jax.Array) -> jax.Array:
        """Embed the decoder's words as [B, L, D]."""

    def decode(self, stream: Stream, states: Any, mask_BxT: jax.Array, *, rngs: nnx.Rngs | None) -> jax.Array:
        """Return logits `[B,L,V]` at each position from the positions before it."""

    def logits(self, hidden_BxLxD: jax.Array) -> jax.Array:
        """Return logits of the next token, f32[B, L, V]."""


# (model, batch, key of the augmentation, dropout) -> (what the encoder found, bool[B, T])
Read = Callable[[Any, Batch, jax.Array | None, nnx.Rngs | None], tuple[Any, jax.Array]]
# (model, what the encoder found, mask, batch, counts) -> (loss, its parts)
AddedLoss = Callable[[Any, Any, jax.Array, Batch, LossCounts], tuple[jax.Array, Metrics]]


def one_stage(
    config: Config,
    inputs: StageInputs,
    make_model: Callable[[jax.Array], Any],
    read: Read,
    *,
    reads_question: bool = False,
    added_loss: AddedLoss | None = None,
    sentence_weight: float = 1.0,
    recognition: Recognition | None = None,
    early: Sequence[Stage] | None = None,
) -> list[Stage]:
    """Make the translation stage, after the early ones if any.

    Args:
        config: Its `model` has a `cnn`.
        inputs: The facts of the data.
        make_model: Makes a `Translating` model from a random key.
        read: Lets the model read a batch.
        reads_question: Whether the model reads the question.
        added_loss: A term of the loss in addition to the cross-entropy.
        sentence_weight: The factor of the cross-entropy.
        recognition: Names glosses in addition to the translation, for a model that knows them.
        early: The stages before this one; by default the warm start if any.
    """
    if early is None:
        early = warm_start_stages(config, inputs)
    if config.stage == "recognize":
        return list(early)

    def loss(
        model: Translating, batch: Batch, key: jax.Array | None, counts: LossCounts
    ) -> tuple[jax.Array, Metrics]:
        augment_key, rngs = split_key(key)
        states, mask = read(model, batch, augment_key, rngs)
        target = text_stream(batch.decoder_texts.target, batch.decoder_texts.target_mask)
        logits = model.decode(target, states, mask, rngs=rngs)
        total, metrics = translation_loss(target, logits, counts, config.translate)
        total *= sentence_weight
        if added_loss is not None:
            added, parts = added_loss(model, states, mask, batch, counts)
            total, metrics = total + added, metrics | parts
        return total, metrics

    def encode(model: Translating, batch: Batch) -> EncodedModel:
        states, mask = read(model, batch, None, None)
        return EncodedModel(model.decoder, model.embed_target, model.logits, states, mask)

    translate = Stage(
        "translate",
        make_model,
        loss,
        reads_question=reads_question,
        reads_gloss=recognition is not None,
        starts_pretrained=True,
        modules=early_modules(early),
        translation=Translation(encode, language_prompt),
        recognition=recognition,
        ask=ask_fewer_words(config.translate.drop_words),
        remat=config.compute.remat,
    )
    return [*early, translate]
