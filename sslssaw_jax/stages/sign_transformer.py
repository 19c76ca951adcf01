"""The stages of the sign transformers."""

import jax
from flax import nnx

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.models.attention import Attention, MakeAttention
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.sign_transformer import SignTransformer
from sslssaw_jax.models.video_embedding import VideoEmbedding
from sslssaw_jax.stages.one_stage import AddedLoss, one_stage
from sslssaw_jax.stages.recognition import early_stages
from sslssaw_jax.stages.stage import Stage, StageInputs
from sslssaw_jax.stages.video import embed_video, video_input
from sslssaw_jax.types import Batch

STAGES = ("recognize", "translate")


def sign_transformer_stages(
    config: Config,
    inputs: StageInputs,
    attention: MakeAttention = Attention,
    added_loss: AddedLoss | None = None,
    *,
    sentence_weight: float = 1.0,
    recognizes: bool = False,
) -> list[Stage]:
    """Make a sign transformer's translation stage, after the early ones if any.

    Args:
        config: Its `model` is a `SignTransformerConfig`.
        inputs: The facts of the data.
        attention: The encoder's self-attention.
        added_loss: A term of the loss in addition to the cross-entropy.
        sentence_weight: The factor of the cross-entropy.
        recognizes: Whether the encoder's states also name glosses, by the model's `gloss_head`.
    """
    dtype = compute_dtype(config.compute.dtype)

    def make_model(key: jax.Array) -> SignTransformer:
        rngs = Keys(key)
        return SignTransformer(
            config.model,
            inputs.vocab_size,
            attention,
            num_glosses=inputs.glosses().size if recognizes else 0,
            video=make_video(rngs),
            dtype=dtype,
            rngs=rngs,
        )

    def make_video(rngs: nnx.Rngs) -> VideoEmbedding:
        cnn, width, reads = config.model.cnn, config.model.d_model, video_input(config, inputs)
        return VideoEmbedding(cnn, width, reads, activation=nnx.soft_sign, dtype=dtype, rngs=rngs)

    def recognition(model: SignTransformer, batch: Batch) -> tuple[jax.Array, jax.Array]:
        states, mask = read(model, batch, None, None)
        return model.gloss_head(states, mask)[0], mask

    def read(
        model: SignTransformer, batch: Batch, augment_key: jax.Array | None, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        video = embed_video(model.video, batch, config.data, augment_key)
        texts = batch.decoder_texts
        return model.encode(texts.question, texts.question_mask, video, rngs=rngs)

    return one_stage(
        config,
        inputs,
        make_model,
        read,
        reads_question=config.model.reads_question,
        added_loss=added_loss,
        sentence_weight=sentence_weight,
        recognition=recognition if recognizes else None,
        early=early_stages(config, inputs, make_video, config.model.d_model, shared=True),
    )
