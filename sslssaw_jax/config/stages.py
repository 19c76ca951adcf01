"""The configuration of the training stages."""

from dataclasses import dataclass
from typing import Literal

from sslssaw_jax.config.checks import fraction, group, non_negative, positive


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its schedule: linear warm-up, then cosine."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = positive(0.01)
    final_learning_rate: float = non_negative(1e-8)
    warmup_steps: int = non_negative(0)
    momentum: float = fraction(0.9)
    b1: float = fraction(0.9)
    b2: float = fraction(0.98)
    weight_decay: float = non_negative(0.001)
    clip_norm: float = non_negative(0.0)  # 0 disables


@dataclass(frozen=True)
class StageConfig:
    """The training of one stage; batch sizes count all devices together.

    A step accumulates the gradient of `accumulate` batches as if they were one. BatchNorm and the contrast of
    stage 1 see only the clips of one batch at a time.
    """

    epochs: int = non_negative(0)  # 0 leaves the stage out
    clips_per_batch: int = positive(16)
    frame_budget: int = positive(1920)  # frames of a batch, over all its clips
    accumulate: int = positive(1)  # batches of one step
    ema_decay: float = fraction(0.0)  # of the moving average of parameters that evaluation uses; 0 disables
    eval_every: int = positive(1)  # epochs
    patience: int = non_negative(0)  # evaluations without improvement before stopping; 0 disables
    optim: OptimConfig = group(OptimConfig)


@dataclass(frozen=True)
class PretrainConfig(StageConfig):
    """Stage 1: contrast and masked words."""

    label_smoothing: float = fraction(0.0)
    mask_weight: float = non_negative(1.0)  # lambda in L1 = L_sim + lambda * L_R


@dataclass(frozen=True)
class TranslateConfig(StageConfig):
    """Stage 2, and the only stage of most other systems: translation."""

    label_smoothing: float = fraction(0.0)
    drop_words: float = fraction(0.0)  # share of the words left out of half of the training questions
