"""GASLT, gloss attention (Yin et al. 2023): a sign transformer whose encoder looks at a few places.

Its second loss keeps clips as similar as their sentences. The paper's QB-GASLT reads the question before the
video; `reads_question=False` is the published system. The defaults are the sizes of the public code
(YinAoXiong/GASLT); its recipe is in `configs/systems/gaslt.py`.
"""

from dataclasses import dataclass
from functools import partial

import jax

from sslssaw_jax.config.checks import fraction, non_negative, positive
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.models.gloss_attention import GlossAttention
from sslssaw_jax.models.sign_transformer import SignTransformer, SignTransformerConfig
from sslssaw_jax.stages.alignment import aligned_cosine, words_cosine
from sslssaw_jax.stages.losses import similarity_loss
from sslssaw_jax.stages.sign_transformer import STAGES, sign_transformer_stages
from sslssaw_jax.stages.stage import LossCounts, Stage, StageInputs, System
from sslssaw_jax.stages.warm_start import check_cnn_start
from sslssaw_jax.types import Batch, Metrics


@dataclass(frozen=True)
class GASLTConfig(SignTransformerConfig):
    """The published sizes, and the two parts that GASLT adds."""

    encoder_layers: int = positive(2)
    decoder_layers: int = positive(2)
    dropout: float = fraction(0.5)
    attention_dropout: float = fraction(0.5)
    activation_dropout: float = fraction(0.5)
    grid_sample: bool = False  # attends to the places that the public code's `grid_sample` looks at
    similarity_weight: float = non_negative(10.0)


def make_stages(config: Config, inputs: StageInputs) -> list[Stage]:
    """Make the stages with gloss attention and the similarity loss."""
    model: GASLTConfig = config.model

    def similarity(
        net: SignTransformer, states_BxTxD: jax.Array, mask_BxT: jax.Array, batch: Batch, counts: LossCounts
    ) -> tuple[jax.Array, Metrics]:
        # the sums have the same cosine as the means
        sum_Bx1xD = (states_BxTxD * mask_BxT[..., None]).sum(axis=1, keepdims=True)
        pooled = (sum_Bx1xD, mask_BxT.any(axis=1, keepdims=True))
        words_BxB = words_cosine(batch.decoder_texts.target, batch.decoder_texts.target_mask)
        loss = similarity_loss(aligned_cosine(*pooled, *pooled), words_BxB, batch.valid, counts.clips)
        return model.similarity_weight * loss, {"loss_similarity": loss}

    attention = partial(GlossAttention, grid_sample=model.grid_sample)
    return sign_transformer_stages(config, inputs, attention, similarity)


SYSTEM = System(GASLTConfig, make_stages, check_cnn_start, STAGES, reads=("frames", "features"))
