"""The configuration of the training stages."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from sslssaw_jax.config.checks import (
    SHARE,
    fraction,
    group,
    non_negative,
    positive,
    require,
    setting,
)


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its schedule: a linear warm-up, then the `schedule`.

    `groups` are texts such as "video.cnn=0.1", since a `ConfigDict` reads the dots in a key as levels, and a
    flag can set a tuple.
    """

    name: Literal["sgd", "nesterov", "adam", "adamw"] = "sgd"  # nesterov: timm's `sgd`
    # steps: times `factor` after each milestone; plateau: times `factor` where dev does not improve
    schedule: Literal["cosine", "steps", "plateau", "constant"] = "cosine"
    learning_rate: float = positive(0.01)
    final_learning_rate: float = non_negative(1e-8)  # cosine: the last rate; plateau: training ends below it
    warmup_steps: int = non_negative(0)
    milestones: tuple[int, ...] = ()  # epochs
    factor: float = setting(0.5, SHARE)
    patience: int = non_negative(8)  # evaluations without improvement that plateau tolerates
    groups: tuple[str, ...] = ()  # "PATH=FACTOR" for a module's rate; 0 freezes it, the longest path counts
    momentum: float = fraction(0.9)
    b1: float = fraction(0.9)
    b2: float = fraction(0.98)
    weight_decay: float = non_negative(0.001)
    clip_norm: float = non_negative(0.0)  # 0 disables

    def __post_init__(self) -> None:
        require(
            (self.schedule == "steps") == bool(self.milestones) and all(m > 0 for m in self.milestones),
            f"schedule is {self.schedule!r} and milestones {self.milestones}; 'steps', and it alone, needs "
            "epochs",
        )
        for text in self.groups:
            require(
                re.fullmatch(r"\w+(\.\w+)*=(\d+\.?\d*|\.\d+)(e-?\d+)?", text) is not None,
                f"groups has {text!r}; it must be PATH=FACTOR, such as 'video.cnn=0.1'",
            )
        require(len(self.rate_factors) == len(self.groups), f"groups {self.groups} has a path twice")

    @cached_property
    def rate_factors(self) -> dict[str, float]:
        """Return the factor of each path in `groups`."""
        pairs = (text.split("=") for text in self.groups)
        return {path: float(factor) for path, factor in pairs}


@dataclass(frozen=True)
class StageConfig:
    """The training of one stage; batch sizes count all devices together.

    A step accumulates the gradient of `accumulate` batches as if they were one. BatchNorm and the contrastive
    loss of stage 1 see only the clips of one batch at a time.
    """

    epochs: int = non_negative(0)  # 0 leaves the stage out
    clips_per_batch: int = positive(16)
    frame_budget: int = positive(1920)  # frames in a batch, over all its clips
    accumulate: int = positive(1)  # batches per step
    ema_decay: float = fraction(0.0)  # of the moving average that evaluation uses; 0 disables it
    eval_every: int = positive(1)  # epochs
    patience: int = non_negative(0)  # evaluations without improvement before stopping; 0 disables this
    optim: OptimConfig = group(OptimConfig)


@dataclass(frozen=True)
class SentenceConfig(StageConfig):
    """A stage with a loss on sentences."""

    label_smoothing: float = fraction(0.0)
    # tokens: the mean over all tokens of a step; clips: the sum over a sentence, averaged over clips
    normalize: Literal["tokens", "clips"] = "tokens"


@dataclass(frozen=True)
class PretrainConfig(SentenceConfig):
    """Stage 1: contrastive learning and masked words."""

    mask_weight: float = non_negative(1.0)  # lambda in L1 = L_sim + lambda * L_R


@dataclass(frozen=True)
class TranslateConfig(SentenceConfig):
    """Stage 2, and the only stage of most other systems: translation."""

    drop_words: float = fraction(0.0)  # share of the words left out of half of the training questions
