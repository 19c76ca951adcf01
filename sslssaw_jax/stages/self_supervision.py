"""The loss of a sentence and, with self-supervision (SSL), of its question."""

import jax

from sslssaw_jax.config.stages import SentenceConfig
from sslssaw_jax.models.decoder_inputs import Stream
from sslssaw_jax.stages.losses import cross_entropy, denominator, masked_mean
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
    smoothing, tokens = config.label_smoothing, counts.target_tokens
    count = denominator(config.normalize, target.scored, tokens, counts.clips)
    total = l_s = cross_entropy(target_logits, target.labels, target.scored, smoothing, count)
    accuracy = masked_mean(target_logits.argmax(axis=-1) == target.labels, target.scored, tokens)
    metrics = {"loss_sentence": l_s, "accuracy": accuracy}
    if question is not None:
        stream, logits = question
        # every clip has a target, but not every clip has a question
        asked = counts.question_tokens if config.normalize == "tokens" else count
        l_d = cross_entropy(logits, stream.labels, stream.scored, count=asked)
        total, metrics["loss_question"] = total + question_weight * l_d, l_d
    return total, metrics
