"""SLRT, sign language transformers (Camgoz et al. 2020): translation, and glosses if asked for.

With `recognition_weight`, CTC teaches the encoder to name glosses, and the run needs a dataset with glosses.
The paper's QB-SLRT reads the question before the video; `reads_question=False` is the gloss-free SLRT. The
defaults are the sizes of the public code (neccam/slt); its recipe is in `configs/systems/slrt.py`.
"""

from dataclasses import dataclass

import jax

from sslssaw_jax.config.checks import fraction, non_negative, positive, require
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.models.sign_transformer import SignTransformer, SignTransformerConfig
from sslssaw_jax.stages.recognition import gloss_loss
from sslssaw_jax.stages.sign_transformer import STAGES, sign_transformer_stages
from sslssaw_jax.stages.stage import LossCounts, Stage, StageInputs, System
from sslssaw_jax.stages.warm_start import check_cnn_start
from sslssaw_jax.types import Batch, Metrics


@dataclass(frozen=True)
class SLRTConfig(SignTransformerConfig):
    """The published sizes, and the weights of the two losses."""

    attention_dropout: float = fraction(0.1)
    activation_dropout: float = fraction(0.1)
    recognition_weight: float = non_negative(0.0)  # lambda_R; the public code's configuration has 1
    translation_weight: float = positive(1.0)  # lambda_T

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not (self.recognition_weight and self.reads_question),
            f"recognition_weight is {self.recognition_weight}, and CTC would look for the glosses in the "
            "question, too: set reads_question to False",
        )


def make_stages(config: Config, inputs: StageInputs) -> list[Stage]:
    """Make the stages; CTC reads the encoder's states if weighted."""
    weights: SLRTConfig = config.model

    def recognition_loss(
        net: SignTransformer, states_BxTxD: jax.Array, mask_BxT: jax.Array, batch: Batch, counts: LossCounts
    ) -> tuple[jax.Array, Metrics]:
        logits_BxTxG, _ = net.gloss_head(states_BxTxD, mask_BxT)
        loss, metrics = gloss_loss(logits_BxTxG, mask_BxT, batch, counts, per_gloss=True)
        return weights.recognition_weight * loss, metrics

    recognizes = weights.recognition_weight > 0
    return sign_transformer_stages(
        config,
        inputs,
        added_loss=recognition_loss if recognizes else None,
        sentence_weight=weights.translation_weight,
        recognizes=recognizes,
    )


SYSTEM = System(SLRTConfig, make_stages, check_cnn_start, STAGES, reads=("frames", "features"))
