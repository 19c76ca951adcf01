"""The stages of the sign transformers."""

import jax
from flax import nnx

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.models.attention import Attention, MakeAttention
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.sign_transformer import SignTransformer
from sslssaw_jax.stages.one_stage import AddedLoss, one_stage
from sslssaw_jax.stages.stage import Stage, StageInputs
from sslssaw_jax.stages.video import embed_video, video_input
from sslssaw_jax.types import Batch


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

    def make_model(key: jax.Array) -> SignTransformer:
        return SignTransformer(
            config.model,
            inputs.vocab_size,
            attention,
            reads=video_input(config, inputs),
            dtype=compute_dtype(config.compute.dtype),
            rngs=nnx.Rngs(key),
        )

    def read(
        model: SignTransformer, batch: Batch, augment_key: jax.Array | None, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        video = embed_video(model.video, batch, config.data, augment_key)
        texts = batch.decoder_texts
        return model.encode(texts.question, texts.question_mask, video, rngs=rngs)

    question = config.model.reads_question
    return one_stage(config, inputs, make_model, read, reads_question=question, added_loss=added_loss)
