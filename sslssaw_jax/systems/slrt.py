"""SLRT, sign language transformers (Camgoz et al. 2020): their translation, without glosses.

The paper's QB-SLRT reads the question before the video; `reads_question=False` is the gloss-free SLRT. The
defaults are the sizes of the public code (neccam/slt); its recipe is in `configs/systems.py`.
"""

from dataclasses import dataclass

from sslssaw_jax.config.checks import fraction
from sslssaw_jax.models.sign_transformer import SignTransformerConfig
from sslssaw_jax.stages.one_stage import check
from sslssaw_jax.stages.sign_transformer import sign_transformer_stages
from sslssaw_jax.stages.stage import System


@dataclass(frozen=True)
class SLRTConfig(SignTransformerConfig):
    """The published sizes."""

    attention_dropout: float = fraction(0.1)
    activation_dropout: float = fraction(0.1)


SYSTEM = System(SLRTConfig, sign_transformer_stages, check, reads=("frames", "features"))
