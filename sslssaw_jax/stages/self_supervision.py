"""The loss of a sentence and, with self-supervision (SSL), of its question."""

import jax

from sslssaw_jax.config.stages import SentenceConfig
from sslssaw_jax.models.decoder_inputs import Stream
from sslssaw_jax.stages.losses import cross_entropy, masked_mean
from sslssaw_jax.stages.stage import LossCounts
from sslssaw_jax.types import Metrics


def translation_loss(
    target: Stream,
    target_logits: jax.Array,
    counts: LossCounts,
    config: SentenceConfig,
    question: tuple[Stream, jax.Array] | None = None,
    question_weight: float = 1.0,
) -> tuple[jax.Array, Metrics]:
    """Return `L = L_D + L_S` (Eq. 7), or `L_S` alone.

    Args:
        target: The sentence.
        target_logits: The logits of the sentence's tokens, f32[B, L, V].
        counts: The counts of all micro-batches of a step.
        config: The label smoothing, and what the mean is taken over.
        question: The question with its logits, if self-supervised.
        question_weight: The factor of `L_D`, 1 in the paper.
    """
    by_tokens, tokens = config.normalize == "tokens", counts.target_tokens
    count = tokens if by_tokens else counts.clips
    total = l_s = cross_entropy(target_logits, target.labels, target.scored, count, config.label_smoothing)
    accuracy = masked_mean(target_logits.argmax(axis=-1) == target.labels, target.scored, tokens)
    metrics = {"loss_sentence": l_s, "accuracy": accuracy}
    if question is not None:
        stream, logits = question
        asked = counts.question_tokens if by_tokens else counts.clips  # with those without a question
        l_d = cross_entropy(logits, stream.labels, stream.scored, asked)
        total, metrics["loss_question"] = total + question_weight * l_d, l_d
    return total, metrics
