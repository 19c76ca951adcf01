"""The stages of the sign transformers: an optional warm start of the CNN, then translation."""

from collections.abc import Callable

import jax
from flax import nnx

from sslssaw_jax.config.checks import require
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.models.beam_search import EncodedModel
from sslssaw_jax.models.decoder_inputs import text_stream
from sslssaw_jax.models.mbart import Attention, MakeAttention
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.sign_transformer import SignTransformer
from sslssaw_jax.stages.self_supervision import translation_loss
from sslssaw_jax.stages.stage import OWN_COUNTS, LossCounts, Stage, StageInputs, Translation
from sslssaw_jax.stages.translation import ask_fewer_words, language_prompt
from sslssaw_jax.stages.video import embed_video, split_key
from sslssaw_jax.stages.warm_start import CNN_MODULES, check_cnn_start, warm_start_stage
from sslssaw_jax.types import Batch, Metrics

# (encoder states, mask, batch, counts) -> (loss, its parts)
AddedLoss = Callable[[jax.Array, jax.Array, Batch, LossCounts], tuple[jax.Array, Metrics]]


def sign_transformer_stages(
    config: Config,
    inputs: StageInputs,
    attention: MakeAttention = Attention,
    added_loss: AddedLoss | None = None,
) -> list[Stage]:
    """Make a sign transformer's translation stage, after the warm start if any.

    Args:
        config: Its `model` is a `SignTransformerConfig`.
        inputs: The facts of the data.
        attention: The encoder's self-attention.
        added_loss: A term of the loss besides the cross-entropy.
    """
    require(
        config.init_from is None,  # what goes on from a trained model needs no earlier stage
        f"config.init_from is {config.init_from!r}, not a trained model; the system {config.system!r} has no "
        "stage 1: name a finished run or a saved model, or clear init_from",
    )

    def make_model(key: jax.Array) -> SignTransformer:
        return SignTransformer(
            config.model,
            inputs.vocab_size,
            attention,
            image_size=config.data.image_size,
            max_frames=config.data.max_frames,
            dtype=compute_dtype(config.compute.dtype),
            rngs=nnx.Rngs(key),
        )

    def read(
        model: SignTransformer, batch: Batch, augment_key: jax.Array | None, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        video = embed_video(model.video, batch, config.data, augment_key)
        texts = batch.decoder_texts
        return model.encode(texts.question, texts.question_mask, video, rngs=rngs)

    def loss(
        model: SignTransformer, batch: Batch, key: jax.Array | None, counts: LossCounts = OWN_COUNTS
    ) -> tuple[jax.Array, Metrics]:
        augment_key, rngs = split_key(key)
        states, mask = read(model, batch, augment_key, rngs)
        target = text_stream(batch.decoder_texts.target, batch.decoder_texts.target_mask)
        logits = model.decode(target, states, mask, rngs=rngs)
        total, metrics = translation_loss(target, logits, None, None, counts, config.translate)
        if added_loss is not None:
            added, parts = added_loss(states, mask, batch, counts)
            total, metrics = total + added, metrics | parts
        return total, metrics

    def encode(model: SignTransformer, batch: Batch) -> EncodedModel:
        states, mask = read(model, batch, None, None)
        return EncodedModel(model.decoder, model.embed_target, model.logits, states, mask)

    translate = Stage(
        "translate",
        make_model,
        loss,
        reads_question=config.model.reads_question,
        starts_pretrained=True,
        modules=CNN_MODULES,
        translation=Translation(encode, language_prompt),
        ask=ask_fewer_words(config.translate.drop_words),
        remat=config.compute.remat,
    )
    warm_start = [warm_start_stage(config, config.model.cnn, inputs)] if config.warm_start.epochs else []
    return [*warm_start, translate]


def check(config: Config) -> None:
    """Raise ConfigError for two starts of the CNN, or a stage 1."""
    check_cnn_start(config)
    require(
        config.stage == "translate",
        f"config.stage is {config.stage!r}; the system {config.system!r} has no stage 1: set stage to "
        "'translate'",
    )
